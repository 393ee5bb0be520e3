"""Checkpoints that a run can go on from anywhere, with the weights of a run never stopped."""

import errno
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from speechexp.errors import Interrupted, UserError
from speechexp.signals import StopSignal


def optimizer_steps(trainer: pl.Trainer) -> int:
    """Return how many optimizer steps the whole run takes.

    Lightning's own ``estimated_stepping_batches`` begins to draw batches, which is too early: a resumed run does
    not know yet where in the epoch it goes on.

    Raises:
        UserError: The run has no end, so no schedule can be made for it.
    """
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        if trainer.max_steps < 0:
            raise UserError("trainer.max_epochs=-1 has no end: set trainer.max_steps as well.")
        return trainer.max_steps
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
    batches = (
        min(batches, limit) if isinstance(limit, int) else int(batches * (1.0 if limit is None else limit))
    )
    steps = -(-batches // trainer.accumulate_grad_batches) * trainer.max_epochs
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there, so that it is the old one or the new one, never half.

    Lightning's own goes through the system's folder for temporary files: from another disk that is a copy, which a
    kill or a full disk cuts in two.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: It can't be written; what was there before is still there.
        """
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial")
        try:
            torch.save(checkpoint, partial)
            partial.replace(place)
        except RuntimeError as error:
            if (
                shutil.disk_usage(place.parent).free < 2**20
            ):  # torch.save only tells of an unexpected position
                raise OSError(errno.ENOSPC, "No space left on device", str(place)) from error
            raise
        finally:
            partial.unlink(missing_ok=True)


class SeedSteps(Callback):
    """Seeds what is random in a step (dropout, masking, layerdrop) by the run's seed and the step's number.

    A run that resumes at step n then draws what the run never stopped drew at step n; no generator's state has
    to be saved, on however many devices.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch and NumPy (transformers draws its SpecAugment masks from NumPy)."""
        step = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        words = np.random.SeedSequence((self.seed, step, trainer.global_rank)).generate_state(2)
        # torch.manual_seed would also queue a call, with a stack trace, for every kind of GPU that isn't in use
        torch.default_generator.manual_seed(int(words[0]))
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(int(words[0]))
        np.random.seed(int(words[1]))


class KeepLast(Checkpoint):
    """Keeps ``last.ckpt``: at each epoch's end, every few minutes, and when a signal asks to stop.

    It comes after the callback that keeps the best checkpoint, so that what it saves knows of it.

    Args:
        path: Of the checkpoint.
        stop: Tells that a signal has come.
        every_minutes: Save within an epoch as well, so often at most.
    """

    def __init__(self, path: Path, stop: StopSignal | None, every_minutes: float | None) -> None:
        self.path = path
        self.stop = stop
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between two optimizer steps, if it is time or a signal has come."""
        epoch_loop = trainer.fit_loop.epoch_loop
        # Half-accumulated gradients are not in a checkpoint; an epoch's last step is followed by validation.
        if epoch_loop._should_accumulate() or epoch_loop.batch_progress.is_last_batch:
            return
        overdue = self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds
        if self._stopping() or overdue:
            self._save(trainer)
        self._stop_if_asked()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop within a validation, which a resumed run then does again from its start."""
        if self._stopping() and not trainer.sanity_checking:
            self._save(trainer)
            self._stop_if_asked()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make a validation that is under way start over when the run resumes: its counts are not saved."""
        if trainer.validating and self._stopping():
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for part in ("total", "current"):
                progress[part].update(ready=1, started=1, processed=0, completed=0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the epoch's end."""
        self._save(trainer)
        self._stop_if_asked()

    def _stopping(self) -> bool:
        return self.stop is not None and self.stop.received is not None

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()

    def _stop_if_asked(self) -> None:
        if self.stop is not None and self.stop.received is not None:
            raise Interrupted(self.stop.received, saved=True)
