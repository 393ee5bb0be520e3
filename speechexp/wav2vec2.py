"""Wav2Vec2ForCTC: built from scratch, from a hub id or a directory, or from a checkpoint of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
from transformers.utils import logging as transformers_logging

from speechexp.errors import UserError, did_you_mean
from speechexp.hub import hub_errors
from speechexp.text import Vocabulary


class PaddedGroupNorm(nn.GroupNorm):
    """Group normalisation over a clip's own frames, the padding left out.

    wav2vec 2.0's "group" models normalise their first convolution over time. With padding in that mean, a
    clip's transcript would depend on what else is in its batch; without it, a batch gives what single clips
    give.

    Set `num_frames` before each forward pass.
    """

    num_frames: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise ``(batch, channels, frames)``; `num_frames` is ``(batch,)``."""
        if self.num_frames is None:
            return super().forward(hidden)
        wide = hidden.float()  # sums over thousands of frames overflow 16 bits
        valid = torch.arange(wide.shape[-1], device=wide.device) < self.num_frames[:, None]
        count = self.num_frames[:, None, None].to(wide.dtype)
        kept = wide * valid[:, None].to(wide.dtype)
        mean = kept.sum(-1, keepdim=True) / count
        square = torch.linalg.vector_norm(kept, dim=-1, keepdim=True).square() / count
        scale = torch.rsqrt((square - mean.square()).clamp(min=0) + self.eps) * self.weight[:, None]
        return torch.addcmul(self.bias[:, None] - mean * scale, kept, scale).to(hidden.dtype)


def build_network(
    vocabulary: Vocabulary,
    pretrained: str | None,
    revision: str | None,
    network: Mapping[str, Any],
) -> tuple[Wav2Vec2ForCTC, list[str]]:
    """Build the network.

    Args:
        vocabulary: Gives the head's size and the blank.
        pretrained: A hub id or a local directory; None for random weights.
        revision: Of the hub id.
        network: Settings of ``Wav2Vec2Config`` to override.

    Returns:
        The network, and what the user should know of how it was loaded.

    Raises:
        UserError: The weights can't be found or do not fit; a setting is unknown.
    """
    known = set(Wav2Vec2Config().to_dict())
    for name in network:
        if name not in known:
            raise UserError(
                f"model.network.{name} is not a setting of Wav2Vec2Config.{did_you_mean(name, known)}"
            )
    settings = {
        **network,
        "vocab_size": len(vocabulary),
        "pad_token_id": vocabulary.blank_id,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if pretrained is None:
        try:
            model = Wav2Vec2ForCTC(Wav2Vec2Config(**settings))
        except (ValueError, TypeError) as error:
            raise UserError(f"model.network does not describe a network: {error}") from error
        notes = ["random weights"]
    else:
        model, notes = _load(pretrained, revision, settings)
    _ignore_padding(model)
    return model, notes


def network_from_config(config: Mapping[str, Any]) -> Wav2Vec2ForCTC:
    """Build an empty network for a checkpoint's weights."""
    model = Wav2Vec2ForCTC(Wav2Vec2Config.from_dict(dict(config)))
    _ignore_padding(model)
    return model


def _load(
    pretrained: str, revision: str | None, settings: dict[str, Any]
) -> tuple[Wav2Vec2ForCTC, list[str]]:
    directory = Path(pretrained).expanduser()
    looks_local = pretrained.startswith((".", "/", "~")) or pretrained.count("/") != 1
    if looks_local and not directory.is_dir() and "/" in pretrained:
        raise UserError(
            f"model.pretrained={pretrained} must be a hub id or a directory, but that directory does not exist."
        )
    if directory.is_dir() and not (directory / "config.json").is_file():
        raise UserError(
            f"model.pretrained={pretrained} must be a directory that save_pretrained wrote, but it holds no "
            "config.json."
        )
    source = str(directory) if directory.is_dir() else pretrained
    offline = "Without a network: model=wav2vec2_tiny, or model.pretrained=DIR with a local copy."
    quiet = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what it would warn of is in the loading report
    try:
        with hub_errors("model", pretrained, offline):
            config = Wav2Vec2Config.from_pretrained(source, revision=revision or "main")
            if config.model_type != "wav2vec2":
                raise UserError(
                    f"model.pretrained={pretrained} must be a wav2vec2 network, but is {config.model_type} instead."
                )
            model, report = Wav2Vec2ForCTC.from_pretrained(
                source,
                revision=revision or "main",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # checked below: only the head may differ
                dtype=torch.float32,
                **settings,
            )
    finally:
        transformers_logging.set_verbosity(quiet)
    mismatched = [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]
    head = {"lm_head.weight", "lm_head.bias"}
    wrong = [key for key in mismatched if key not in head]
    missing = [key for key in report["missing_keys"] if key not in head and "masked_spec_embed" not in key]
    if wrong or missing:
        raise UserError(
            f"The weights of model.pretrained={pretrained} do not fit the network that model.network describes: "
            f"{len(wrong)} of another shape, {len(missing)} missing (for example {(wrong + missing)[0]}). "
            "Leave the settings that change shapes out of model.network."
        )
    fresh_head = bool(head & {*mismatched, *report["missing_keys"]})
    return model, [f"weights of {pretrained}", "a new head" if fresh_head else "its own head"]


def _ignore_padding(model: Wav2Vec2ForCTC) -> None:
    """Put `PaddedGroupNorm` in the place of the first convolution's group norm, where there is one."""
    first = model.wav2vec2.feature_extractor.conv_layers[0]
    norm = getattr(first, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        replacement = PaddedGroupNorm(norm.num_groups, norm.num_channels, norm.eps)
        replacement.load_state_dict(norm.state_dict())
        first.layer_norm = replacement


def set_lengths(model: Wav2Vec2ForCTC, lengths: torch.Tensor) -> None:
    """Tell the network how long each clip is, ``(batch,)`` in samples."""
    norm = getattr(model.wav2vec2.feature_extractor.conv_layers[0], "layer_norm", None)
    if isinstance(norm, PaddedGroupNorm):
        kernel, stride = model.config.conv_kernel[0], model.config.conv_stride[0]
        norm.num_frames = (lengths - kernel) // stride + 1


def normalise_waveform(audio: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Bring each clip to zero mean and unit variance, as ``Wav2Vec2FeatureExtractor`` does.

    Args:
        audio: ``(batch, samples)``.
        valid: ``(batch, samples)`` bool, False in the padding, which stays zero.
    """
    count = valid.sum(1, keepdim=True)
    mean = torch.where(valid, audio, 0).sum(1, keepdim=True) / count
    centred = torch.where(valid, audio - mean, 0)
    return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + 1e-7)
