"""Optimizers and learning-rate schedules."""

import math
import re
from collections.abc import Sequence

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from speechexp.errors import UserError

# By their names in Wav2Vec2ForCTC and ASTForAudioClassification.
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_HEAD = re.compile(r"(^|\.)(lm_head|classifier)\.")
_ABOVE = re.compile(r"\.encoder\.layer_norm\.|\.audio_spectrogram_transformer\.layernorm\.")  # all layers
_TABLE = re.compile(r"\.(position_embeddings|cls_token|distillation_token)$")


def adamw(
    module: torch.nn.Module,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
    head_lr_factor: float = 1.0,
) -> Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019) for a module's trainable weights.

    Vectors (norms, biases), the head, positions and tokens do not decay. The first group has the peak rate itself.

    Args:
        module: What is trained.
        lr: The peak learning rate.
        betas: Decay rates of the two moments.
        eps: Added to the denominator.
        weight_decay: Decoupled decay of matrices.
        layer_decay: A transformer layer's rate, as a factor of that of the layer above it, whose top one has ``lr``;
            what comes before the layers has the lowest (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT).
        head_lr_factor: The head's rate, as a factor of ``lr``: above 1 for a new head on a pretrained body.

    Raises:
        UserError: A factor can't be.
    """
    if not 0 < layer_decay <= 1:
        raise UserError(
            f"model.optimizer.layer_decay={layer_decay} must be above 0 and at most 1, which is none: try 0.75."
        )
    if not 0 < head_lr_factor < math.inf:
        raise UserError(
            f"model.optimizer.head_lr_factor={head_lr_factor} must be above 0; 1 is the rate of the body."
        )
    depths = [int(found[1]) for name, _ in module.named_parameters() if (found := _LAYER.search(name))]
    layers = max(depths, default=-1) + 1
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            place, head = _LAYER.search(name), bool(_HEAD.search(name))
            below = layers if place is None else layers - 1 - int(place[1])
            factor = head_lr_factor if head else 1.0 if _ABOVE.search(name) else layer_decay**below
            decays = weight.ndim >= 2 and not head and not _TABLE.search(name)
            groups.setdefault((factor, decays), []).append(weight)
    return torch.optim.AdamW(
        [
            {"params": weights, "lr": lr * factor, "weight_decay": weight_decay if decays else 0.0}
            for (factor, decays), weights in groups.items()
        ],
        lr=lr,
        betas=(betas[0], betas[1]),
        eps=eps,
        fused=True,
    )


def _warmup_steps(warmup: float, steps: int) -> int:
    return round(warmup * steps) if warmup < 1 else int(warmup)


def linear(optimizer: Optimizer, steps: int, warmup: float = 0.0) -> LambdaLR:
    """Return a schedule that rises linearly over the warm-up and falls linearly to zero at ``steps``.

    Args:
        optimizer: Whose rate is changed.
        steps: Optimizer steps in the run.
        warmup: Steps, or below 1 a share of all steps.
    """
    rise = _warmup_steps(warmup, steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return max((steps - step) / max(steps - rise, 1), 0.0)

    return LambdaLR(optimizer, factor)


def cosine(optimizer: Optimizer, steps: int, warmup: float = 0.0) -> LambdaLR:
    """Return a schedule that rises linearly over the warm-up and falls along a half cosine to zero.

    Args:
        optimizer: Whose rate is changed.
        steps: Optimizer steps in the run.
        warmup: Steps, or below 1 a share of all steps.
    """
    rise = _warmup_steps(warmup, steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * min((step - rise) / max(steps - rise, 1), 1.0)))

    return LambdaLR(optimizer, factor)
