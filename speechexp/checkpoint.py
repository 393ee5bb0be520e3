"""Checkpoints of ours: read safely, refused readably."""

import zipfile
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
    expected = "It must be one that a run has written, such as RUN/checkpoints/best.ckpt."
    if not zipfile.is_zipfile(path):
        raise UserError(f"ckpt={path} is not a checkpoint, or was cut short. {expected}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's unpickler stumbles over in a file that is none of ours
        raise UserError(f"ckpt={path} is not a checkpoint that can be read. {expected}") from error
    if not isinstance(checkpoint, dict) or STATE_KEY not in checkpoint:
        raise UserError(
            f"ckpt={path} is not a checkpoint of speechexp. Weights that save_pretrained wrote are given as "
            "model.pretrained=DIR."
        )
    state: dict[str, Any] = checkpoint
    return state
