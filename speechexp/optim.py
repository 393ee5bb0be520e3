"""Optimizers and learning-rate schedules."""

import math
from collections.abc import Sequence

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def adamw(
    module: torch.nn.Module,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019) for a module's trainable weights.

    Vectors (norms, biases) and the CTC head do not decay.

    Args:
        module: What is trained.
        lr: The peak learning rate.
        betas: Decay rates of the two moments.
        eps: Added to the denominator.
        weight_decay: Decoupled decay of matrices.
    """
    trained = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    spared = [weight for name, weight in trained if weight.ndim < 2 or ".lm_head." in f".{name}"]
    decayed = [weight for name, weight in trained if not (weight.ndim < 2 or ".lm_head." in f".{name}")]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


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
