"""Wav2Vec2ForCTC: built from scratch, from a hub id or a directory, or from a checkpoint of ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from speechexp.errors import UserError
from speechexp.pretrained import Fitted, Kind, Source
from speechexp.text import Vocabulary

_KIND = Kind(
    config=Wav2Vec2Config,
    called="a wav2vec2 network",
    page="https://huggingface.co/docs/transformers/model_doc/wav2vec2#transformers.Wav2Vec2Config",
    offline="model=wav2vec2_tiny",
)
Samples = TypeVar("Samples", int, torch.Tensor)
_HEAD = frozenset({"lm_head.weight", "lm_head.bias"})


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
    _KIND.require_known(network)
    settings = {
        **network,
        "vocab_size": len(vocabulary),
        "pad_token_id": vocabulary.blank_id,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if pretrained is None:
        model, notes = _KIND.build(Wav2Vec2ForCTC, settings), ["random weights"]
    else:
        model, notes = _load(pretrained, revision, settings, vocabulary)
    if model.config.add_adapter:
        raise UserError(
            f"{'model.network' if pretrained is None else f'model.pretrained={pretrained}'} has convolutions behind "
            "its transformer (add_adapter=true), which are not supported. Set model.network.add_adapter=false."
        )
    _adapt(model)
    model.train()  # from_pretrained leaves it evaluating, and Lightning would then train it without dropout
    return model, notes


def network_from_config(config: Mapping[str, Any]) -> Wav2Vec2ForCTC:
    """Build an empty network for a checkpoint's weights."""
    model = Wav2Vec2ForCTC(Wav2Vec2Config.from_dict(dict(config)))
    _adapt(model)
    return model


def _load(
    pretrained: str, revision: str | None, settings: dict[str, Any], vocabulary: Vocabulary
) -> tuple[Wav2Vec2ForCTC, list[str]]:
    """Load a network from the hub or a directory; its head too if it writes with the same vocabulary."""
    source = Source(pretrained, revision, _KIND)
    with source.reading():
        model, unfit = source.load(Wav2Vec2ForCTC, settings)
        theirs = source.file("vocab.json")
    parts = {name for name, _ in model.wav2vec2.named_children()}

    def is_body(key: str) -> bool:
        within = key.removeprefix("wav2vec2.")
        return "masked_spec_embed" not in key and (within != key or within.split(".")[0] in parts)

    body = unfit.only(is_body)
    wrong = [name for name in unfit.reshaped if name not in _HEAD]
    Fitted(wrong, body.missing, body.unused).require_none(pretrained)
    notes = [f"weights of {pretrained}", "its own head"]
    if _HEAD & {*unfit.reshaped, *unfit.missing} or not _is_same(vocabulary, theirs):
        torch.nn.init.normal_(model.lm_head.weight, std=model.config.initializer_range)
        torch.nn.init.zeros_(model.lm_head.bias)
        notes[1] = "a new head"
    return model, notes


def _is_same(vocabulary: Vocabulary, path: Path | None) -> bool:
    """Tell whether a ``vocab.json`` gives each token the same id; without one there is no telling."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError):
        return False
    return bool(found == {token: i for i, token in enumerate(vocabulary.tokens)})


def _adapt(model: Wav2Vec2ForCTC) -> None:
    """Put `PaddedGroupNorm` in the place of the first convolution's group norm, where there is one.

    transformers asks for the gradient of the waveform, for a kind of checkpointing that isn't used here: on a CPU a
    tenth of a tiny network's step.
    """
    model.wav2vec2.feature_extractor._requires_grad = False
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


def frames_after(config: Wav2Vec2Config, samples: Samples) -> Samples:
    """Return how many frames the convolutions make of so many samples: a number, or a tensor of them."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


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
