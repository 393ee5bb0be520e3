"""The figures of each epoch, as ``epochs.jsonl`` keeps them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechexp.paths import write_lines

Epoch = dict[str, float]
_NAME = "epochs.jsonl"


def write_epochs(folder: Path, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON line for each epoch."""
    write_lines(folder / _NAME, epochs)


def read_epochs(folder: Path) -> list[Epoch]:
    """Read a run's epochs; none if it has not finished one."""
    path = folder / _NAME
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def best_epoch(epochs: Sequence[Epoch], watched: str, mode: str) -> Epoch:
    """Return the epoch with the best watched figure, the first of equals; empty if there is none."""
    scored = [epoch for epoch in epochs if epoch.get(watched) is not None]
    if not scored:
        return {}
    return (min if mode == "min" else max)(scored, key=lambda epoch: epoch[watched])
