"""A Lightning callback that notes when the first step ended, and what a training took; see `_bench.watched`."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from _bench import WATCH_FILE, weights_digest


class Watch(pl.Callback):
    """Writes its notes when training ends: nothing is written while it lasts.

    Args:
        file: Where to.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.notes: dict[str, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the weights before the first step."""
        self.notes["initial_weights"] = weights_digest(pl_module.state_dict())

    def on_train_batch_end(self, *_: Any) -> None:
        """Note when the first step was done, on the device too."""
        if "first_step_ended" not in self.notes:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.notes["first_step_ended"] = time.time()

    def on_fit_end(self, *_: Any) -> None:
        """Write."""
        if torch.cuda.is_available():
            self.notes["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
        self.notes["threads"] = torch.get_num_threads()
        self.file.write_text(json.dumps(self.notes))


def callbacks() -> list[pl.Callback]:
    """Return what Lightning adds to each trainer of the process."""
    return [Watch(Path(os.environ[WATCH_FILE]))]
