"""Floating-point operations of pyannote's segmentation network, counted from its layers."""

from dataclasses import dataclass

from pyannote.audio.models.segmentation import PyanNet
from torch import nn


@dataclass(frozen=True)
class _Part:
    """A product of the forward pass, in the order in which they come.

    Attributes:
        operations: Of the forward pass.
        layer: Whose weights it multiplies with.
        recurrent: Whether its input is the layer's own output, whose gradient its weights' gradient needs.
    """

    operations: int
    layer: nn.Module
    recurrent: bool = False


def forward_flops(network: nn.Module, windows: int, num_samples: int) -> int | None:
    """Count the operations of a forward pass; None for another network than PyanNet.

    Counted are the matrix products and convolutions, a multiplication with its addition as two: the sinc filters
    (Ravanelli and Bengio 2018), the two convolutions, the LSTM, the linear layers and the classifier. Norms, pooling,
    activations and the making of the sinc filters are not.

    Args:
        network: Pyannote's segmentation network.
        windows: In the batch.
        num_samples: Of each window, its padding included.
    """
    if not isinstance(network, PyanNet):
        return None
    return sum(part.operations for part in _parts(network, windows, num_samples))


def training_flops(network: nn.Module, windows: int, num_samples: int) -> int | None:
    """Count the operations of a training step, as the network asks for them; None for another than PyanNet.

    A backward pass takes as much as the forward pass for the gradients of the weights that are trained, and as much for
    those of the inputs behind which something is trained: the waveform's too, since the network scales it with weights
    of its own. These are the model FLOPs of Chowdhery et al. 2022 (PaLM), appendix B.

    Args:
        network: Pyannote's segmentation network; weights that need no gradient are not trained.
        windows: In the batch.
        num_samples: Of each window, its padding included.
    """
    if not isinstance(network, PyanNet):
        return None
    trained_before, operations = _is_trained(network.sincnet.wav_norm1d), 0
    for part in _parts(network, windows, num_samples):
        trained = _is_trained(part.layer)
        to_input = trained_before or (trained and part.recurrent)
        operations += part.operations * (1 + trained + to_input)
        trained_before = trained_before or trained
    return operations


def _is_trained(layer: nn.Module) -> bool:
    return any(weight.requires_grad for weight in layer.parameters())


def _parts(network: PyanNet, windows: int, num_samples: int) -> list[_Part]:
    parts = []
    frames, channels = num_samples, 1
    sincnet = network.sincnet
    for convolution, pool in zip(sincnet.conv1d, sincnet.pool1d, strict=True):
        # asteroid's encoder of sinc filters and torch's convolution say their sizes differently
        if isinstance(convolution, nn.Conv1d):
            width, kernel, stride = (
                convolution.out_channels,
                convolution.kernel_size[0],
                convolution.stride[0],
            )
        else:
            filters = convolution.filterbank
            width, kernel, stride = filters.n_filters, filters.kernel_size, filters.stride
        frames = (frames - kernel) // stride + 1
        parts.append(_Part(2 * windows * frames * width * channels * kernel, convolution))
        frames, channels = frames // pool.stride, width
    positions = 2 * windows * frames
    for lstm in [network.lstm] if isinstance(network.lstm, nn.LSTM) else network.lstm:
        directions = 2 if lstm.bidirectional else 1
        gates = directions * 4 * lstm.hidden_size
        for _ in range(lstm.num_layers):
            parts.append(_Part(positions * gates * channels, lstm))
            parts.append(_Part(positions * gates * lstm.hidden_size, lstm, recurrent=True))
            channels = directions * lstm.hidden_size
    linear = list(network.linear) if network.hparams.linear["num_layers"] > 0 else []
    for layer in [*linear, network.classifier]:
        parts.append(_Part(positions * layer.in_features * layer.out_features, layer))
    return parts
