"""Floating-point operations of pyannote's segmentation network, counted from its layers."""

from pyannote.audio.models.segmentation import PyanNet
from torch import nn


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
    return sum(product for product, _ in _products(network, windows, num_samples))


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
    for product, layer in _products(network, windows, num_samples):
        trained = _is_trained(layer)
        operations += product * (1 + trained + trained_before)
        trained_before = trained_before or trained
    return operations


def _is_trained(layer: nn.Module) -> bool:
    return any(weight.requires_grad for weight in layer.parameters())


def _products(network: PyanNet, windows: int, num_samples: int) -> list[tuple[int, nn.Module]]:
    """Return the operations of each product of the forward pass in turn, and whose weights it multiplies with."""
    products: list[tuple[int, nn.Module]] = []
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
        products.append((2 * windows * frames * width * channels * kernel, convolution))
        frames, channels = frames // pool.stride, width
    positions = 2 * windows * frames
    for lstm in [network.lstm] if isinstance(network.lstm, nn.LSTM) else network.lstm:
        directions = 2 if lstm.bidirectional else 1
        gates = directions * 4 * lstm.hidden_size
        for _ in range(lstm.num_layers):
            products.append((positions * gates * channels, lstm))
            products.append((positions * gates * lstm.hidden_size, lstm))
            channels = directions * lstm.hidden_size
    linear = list(network.linear) if network.hparams.linear["num_layers"] > 0 else []
    for layer in [*linear, network.classifier]:
        products.append((positions * layer.in_features * layer.out_features, layer))
    return products
