"""Floating-point operations of a Wav2Vec2ForCTC, counted from its configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Sizes(Protocol):
    """What is read of a ``Wav2Vec2Config``."""

    conv_dim: Sequence[int]
    conv_kernel: Sequence[int]
    conv_stride: Sequence[int]
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_conv_pos_embeddings: int
    num_conv_pos_embedding_groups: int
    layerdrop: float
    vocab_size: int


@dataclass(frozen=True)
class _Forward:
    """Operations of a forward pass by part: each convolution, a transformer layer, everything else."""

    convolutions: list[int]
    layer: int
    rest: int


def forward_flops(config: Sizes, batch: int, samples: int) -> int:
    """Count the operations of a forward pass with every layer.

    Counted are the matrix products and convolutions, a multiplication with its addition as two: the feature encoder,
    the feature projection, the grouped positional convolution, each layer's four projections, attention scores and
    values and feed-forward, and the CTC head. Norms, activations, softmax, loss and adapters are not.

    Args:
        config: Of the network.
        batch: Clips.
        samples: Of each clip, its padding included: the device computes that too, and attends to it.
    """
    parts = _forward(config, batch, samples)
    return sum(parts.convolutions) + config.num_hidden_layers * parts.layer + parts.rest


def training_flops(config: Sizes, batch: int, samples: int, frozen_encoder: bool) -> int:
    """Count the operations of a training step, as the model asks for them.

    A backward pass takes twice the forward pass: the gradients of the weights and those of the inputs. The waveform's
    gradient is not computed, and a frozen feature encoder goes forward only. With layerdrop the expected number of
    layers counts. What gradient checkpointing computes again does not: these are the model FLOPs of Chowdhery et al.
    2022 (PaLM), appendix B.

    Args:
        config: Of the network.
        batch: Clips.
        samples: Of each clip, its padding included.
        frozen_encoder: Whether the convolutions of the feature encoder are kept as they are.
    """
    parts = _forward(config, batch, samples)
    convolutions = sum(parts.convolutions)
    encoder = convolutions if frozen_encoder else 3 * convolutions - parts.convolutions[0]
    layers = config.num_hidden_layers * (1 - config.layerdrop)
    return round(encoder + 3 * (layers * parts.layer + parts.rest))


def _forward(config: Sizes, batch: int, samples: int) -> _Forward:
    convolutions, frames, channels = [], samples, 1
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        convolutions.append(2 * batch * frames * width * channels * kernel)
        channels = width
    hidden, kernel = config.hidden_size, config.num_conv_pos_embeddings
    positions = frames + (kernel + 1) % 2  # an even kernel gives one too many, which is cut off
    in_group = hidden // config.num_conv_pos_embedding_groups
    a_frame = 4 * hidden**2 + 2 * hidden * config.intermediate_size + 2 * frames * hidden
    return _Forward(
        convolutions=convolutions,
        layer=2 * batch * frames * a_frame,
        rest=2 * batch * frames * hidden * (channels + config.vocab_size)
        + 2 * batch * positions * hidden * in_group * kernel,
    )
