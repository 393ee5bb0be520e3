"""Floating-point operations of an ASTForAudioClassification, counted from its configuration."""

from transformers import ASTConfig

from speechexp.ast_window import grid


def forward_flops(config: ASTConfig, windows: int) -> int:
    """Count the operations of a forward pass.

    Counted are the matrix products, a multiplication with its addition as two: the projection of patches, each layer's
    four projections, attention scores and values and feed-forward, and the head. Norms, activations, softmax, loss and
    the filter bank are not.

    Args:
        config: Of the network.
        windows: Of ``config.max_length`` frames, those that are padding included.
    """
    return sum(_forward(config, windows))


def training_flops(config: ASTConfig, windows: int) -> int:
    """Count the operations of a training step of which every weight is trained.

    A backward pass takes twice the forward pass: the gradients of the weights and those of the inputs. The gradient of
    the spectrogram is not computed. What gradient checkpointing computes again does not count: these are the model
    FLOPs of Chowdhery et al. 2022 (PaLM), appendix B.

    Args:
        config: Of the network.
        windows: Of ``config.max_length`` frames, those that are padding included.
    """
    projection, rest = _forward(config, windows)
    return 2 * projection + 3 * rest


def _forward(config: ASTConfig, windows: int) -> tuple[int, int]:
    """Return the operations of the projection of patches, and of everything else."""
    in_frequency, in_time = grid(config)
    patches = in_frequency * in_time
    hidden, tokens = config.hidden_size, patches + 2
    a_token = 4 * hidden**2 + 2 * hidden * config.intermediate_size + 2 * tokens * hidden
    layers = config.num_hidden_layers * 2 * windows * tokens * a_token
    return (
        2 * windows * patches * hidden * config.patch_size**2,
        layers + 2 * windows * hidden * config.num_labels,
    )
