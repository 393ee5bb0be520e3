"""The forward pass of Wav2Vec2ForCTC, which never waits for the device."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from speechexp.batch import AudioBatch, upload
from speechexp.wav2vec2 import frames_after, normalise_waveform, set_lengths


def ctc_logits(network: Wav2Vec2ForCTC, batch: AudioBatch, recompute: bool = False) -> torch.Tensor:
    """Return the logits of a batch, ``(batch, frames, vocabulary)``.

    It computes what ``Wav2Vec2ForCTC.forward`` does with the batch's attention mask. That one reads from the device
    what the host knows beforehand (how long each clip is, where there is padding), and the host then waits until
    everything that it has queued is done. Here what decides is known or drawn on the host: lengths, the spans of
    SpecAugment, the layers to drop.

    Args:
        network: Its ``feature_extractor`` and ``encoder.layers`` may be compiled.
        batch: On the network's device.
        recompute: In training, keep the inputs of layers alone and compute the rest again in the backward pass.
    """
    body, encoder, config = network.wav2vec2, network.wav2vec2.encoder, network.config
    recompute = recompute and network.training
    features = encode_features(network, batch, recompute)
    hidden, _ = body.feature_projection(features.transpose(1, 2))
    frames = [frames_after(config, samples) for samples in batch.num_samples]
    hidden = _mask_spans(network, hidden, frames)
    attention_mask = None
    if min(frames) < hidden.shape[1]:
        valid = (
            torch.arange(hidden.shape[1], device=hidden.device) < frames_after(config, batch.lengths)[:, None]
        )
        hidden = hidden.masked_fill(~valid[..., None], 0)
        attention_mask = create_bidirectional_mask(
            config=encoder.config,
            inputs_embeds=hidden,
            attention_mask=valid,
            allow_is_bidirectional_skip=False,  # finding out whether it may be skipped is a wait
        )
        attention_mask = attention_mask[:, :, :1].clone()  # the same for every query: T times smaller
    hidden = hidden + encoder.pos_conv_embed(hidden)
    if not config.do_stable_layer_norm:
        hidden = encoder.layer_norm(hidden)
    hidden = encoder.dropout(hidden)
    for layer in encoder.layers:
        if not (network.training and config.layerdrop > 0 and np.random.random() < config.layerdrop):
            hidden = _call(recompute, layer, hidden, attention_mask)
    if config.do_stable_layer_norm:
        hidden = encoder.layer_norm(hidden)
    logits: torch.Tensor = network.lm_head(network.dropout(hidden))
    return logits


def encode_features(network: Wav2Vec2ForCTC, batch: AudioBatch, recompute: bool = False) -> torch.Tensor:
    """Return what the convolutions make of a batch, ``(batch, channels, frames)``.

    Frozen convolutions run outside autograd, which then keeps nothing of theirs for the backward pass.
    """
    extractor = network.wav2vec2.feature_extractor
    valid = torch.arange(batch.audio.shape[1], device=batch.audio.device) < batch.lengths[:, None]
    waveform = normalise_waveform(batch.audio, valid)
    set_lengths(network, batch.lengths)
    trained = any(weight.requires_grad for weight in extractor.parameters())
    with contextlib.nullcontext() if trained else torch.no_grad():
        return _call(recompute and trained, extractor, waveform)


def _call(recompute: bool, layer: nn.Module, *inputs: Any) -> torch.Tensor:
    output: torch.Tensor = checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)
    return output


def _mask_spans(network: Wav2Vec2ForCTC, hidden: torch.Tensor, frames: Sequence[int]) -> torch.Tensor:
    """Mask spans of frames and of channels in training (SpecAugment, Park et al. 2019).

    Args:
        network: Says how much.
        hidden: ``(batch, frames, channels)``.
        frames: Of each clip.
    """
    config = network.config
    if not network.training or not getattr(config, "apply_spec_augment", True):
        return hidden
    in_time, in_channels = draw_spans(config, frames, hidden.shape[1])
    if in_time is not None:
        embedding = network.wav2vec2.masked_spec_embed.to(hidden.dtype)
        hidden = torch.where(upload(in_time, hidden.device)[..., None], embedding, hidden)
    if in_channels is not None:
        hidden = hidden.masked_fill(upload(in_channels, hidden.device)[:, None], 0)
    return hidden


def draw_spans(
    config: Wav2Vec2Config, frames: Sequence[int], padded_frames: int
) -> tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.bool_] | None]:
    """Draw from NumPy's generator what SpecAugment masks.

    A span longer than all there is (clips of under ten frames) masks nothing; transformers raises.

    Returns:
        ``(batch, frames)`` and ``(batch, channels)``; None where nothing is masked.
    """
    in_time = in_channels = None
    if config.mask_time_prob > 0 and config.mask_time_length <= padded_frames:
        in_time = _compute_mask_indices(
            (len(frames), padded_frames),
            mask_prob=config.mask_time_prob,
            mask_length=config.mask_time_length,
            attention_mask=torch.arange(padded_frames) < torch.tensor(frames)[:, None],
            min_masks=config.mask_time_min_masks,
        )
    if config.mask_feature_prob > 0 and config.mask_feature_length <= config.hidden_size:
        in_channels = _compute_mask_indices(
            (len(frames), config.hidden_size),
            mask_prob=config.mask_feature_prob,
            mask_length=config.mask_feature_length,
            min_masks=config.mask_feature_min_masks,
        )
    return in_time, in_channels
