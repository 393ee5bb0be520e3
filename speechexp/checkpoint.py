"""Checkpoints of ours: read safely, refused readably."""

import pickle
from pathlib import Path
from typing import Any

import torch

from speechexp.errors import UserError

STATE_KEY = "speechexp"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; nothing in it is executed.

    Raises:
        UserError: It does not exist or is not a checkpoint of speechexp.
    """
    if not path.is_file():
        raise UserError(f"ckpt={path} must be a checkpoint, but it does not exist.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"ckpt={path} is not a checkpoint that can be read ({first[:120]}).") from error
    if not isinstance(checkpoint, dict) or STATE_KEY not in checkpoint:
        raise UserError(
            f"ckpt={path} is not a checkpoint of speechexp. Weights that save_pretrained wrote are given as "
            "model.pretrained=DIR."
        )
    state: dict[str, Any] = checkpoint
    return state
