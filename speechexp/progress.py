"""Training on the console: a bar with time left, and a row for each epoch."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar

from speechexp.console import console, progress_bar, seconds_in_words
from speechexp.epochs import Epoch, write_epochs
from speechexp.throughput import Throughput

_WIDTHS = {"epoch": 7, "train loss": 11, "val loss": 9, "audio s/s": 10, "time": 12}


class EpochTable(ProgressBar):
    """Shows how far training has come, and what each epoch gave."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._show: Any = None
        self._epoch_started = time.monotonic()
        self._titles: dict[str, str] = {}
        self.epochs: list[Epoch] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs so far, for a run that resumes."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over `state_dict`."""
        self.epochs = state_dict["epochs"]

    def disable(self) -> None:
        """Lightning's own switch; a run always says what it does."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar."""
        super().on_train_start(trainer, pl_module)
        console.print()
        self._show = self._stack.enter_context(progress_bar())
        if trainer.global_step:
            console.print(f"going on after step {trainer.global_step}")
        titles: dict[str, str] = pl_module.task.titles  # type: ignore[assignment,union-attr]
        self._titles = {"train/loss": "train loss", "val/loss": "val loss", **titles}
        console.print(_in_columns(self._columns(), self._columns()), style="bold")
        for epoch in self.epochs:
            console.print(self._row(trainer, epoch))

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the epoch's clock."""
        self._epoch_started = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Move the bar."""
        epochs = trainer.max_epochs or -1
        steps = int(trainer.num_training_batches)
        total = steps * epochs if epochs > 0 else None
        if trainer.max_steps > 0:
            limit = trainer.max_steps * trainer.accumulate_grad_batches
            total = limit if total is None else min(total, limit)
        self._show("training", trainer.fit_loop.epoch_loop.batch_progress.total.ready, total)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Move the validation's bar."""
        if self._show is not None and trainer.state.fn == "fit":
            batches = trainer.num_val_batches
            total = int(sum(batches)) if isinstance(batches, list) else int(batches)
            done = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.ready
            self._show("validating", done, total)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's row and keep it."""
        validated = trainer.callback_metrics if trainer.fit_loop.epoch_loop._should_check_val_epoch() else {}
        throughput = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
        epoch = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "train/loss": throughput.epoch_loss(),
            **{name: float(value) for name, value in validated.items() if name.startswith("val/")},
            **throughput.epoch_figures(),
            "seconds": time.monotonic() - self._epoch_started,
        }
        self.epochs.append(epoch)
        write_epochs(Path(trainer.default_root_dir), self.epochs)
        console.print(self._row(trainer, epoch))

    def _columns(self) -> list[str]:
        return ["epoch", *self._titles.values(), "audio s/s", "time"]

    def _row(self, trainer: pl.Trainer, epoch: Epoch) -> str:
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        rate = epoch.get("train/audio_seconds_per_second")
        cells = [
            f"{epoch['epoch']}{of}",
            *(f"{epoch[key]:.4f}" if key in epoch else "-" for key in self._titles),
            "-" if rate is None else f"{rate:.0f}",
            seconds_in_words(epoch["seconds"]),
        ]
        return _in_columns(cells, self._columns())

    def on_train_end(self, *_: Any) -> None:
        """End the bar."""
        self._stack.close()
        self._show = None

    def on_exception(self, *_: Any) -> None:
        """End the bar."""
        self._stack.close()
        self._show = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the test's bar."""
        super().on_test_start(trainer, pl_module)
        self._show = self._stack.enter_context(progress_bar())

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Move the test's bar."""
        batches = trainer.num_test_batches
        total = int(sum(batches)) if isinstance(batches, list) else int(batches)
        self._show("testing", batch_idx + 1, total)

    def on_test_end(self, *_: Any) -> None:
        """End the bar."""
        self._stack.close()
        self._show = None


def _in_columns(cells: Sequence[str], columns: Sequence[str]) -> str:
    widths = (_WIDTHS.get(column, max(len(column) + 1, 8)) for column in columns)
    return " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
