"""Checkpoints that a run can go on from anywhere, with the weights of a run never stopped."""

import errno
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from speechexp.console import say_row
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
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    bound = next((each for each in callbacks if isinstance(each, BatchBound)), BatchBound())
    steps_an_epoch = -(-_batches_an_epoch(trainer) // trainer.accumulate_grad_batches)
    steps = bound.step + steps_an_epoch * (trainer.max_epochs - bound.epoch)
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


def _batches_an_epoch(trainer: pl.Trainer, limited: bool = True) -> int:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
    if not limited or limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


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


class BatchBound(Callback):
    """Lets a run go on with another bound of its batches, as one must that ran out of memory.

    An epoch then has other batches, and another number of them, so a checkpoint's place within it means nothing. If
    the epoch's training was finished, the run goes on behind it. If not, the epoch begins again, so that no clip is
    skipped; the console says that some come twice.

    Attributes:
        epoch: From which on the bound holds.
        step: Optimizer steps done by then.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.step = 0
        self._bound: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note the bound, and the number of batches that it gives."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and data is not None:
            self._bound = {
                "batch_seconds": data.batch_seconds,
                "batches": _batches_an_epoch(trainer, limited=False),
            }

    def state_dict(self) -> dict[str, Any]:
        """Return the bound, and from where on it holds."""
        return {"epoch": self.epoch, "step": self.step, **self._bound}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Bring the checkpoint's place into line with the batches that there are now."""
        before = checkpoint["callbacks"].get(self.state_key)
        if not before or not self._bound:
            return
        self.epoch, self.step = before["epoch"], before["step"]
        if all(before[name] == value for name, value in self._bound.items()):
            return
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        done = batches["current"]["processed"]
        self.epoch, self.step = epochs["current"]["processed"], checkpoint["global_step"]
        told = (
            f"data.batch_seconds={self._bound['batch_seconds']:g}, it was {before['batch_seconds']:g}: "
            f"{self._bound['batches']} batches an epoch, not {before['batches']}"
        )
        if batches["is_last_batch"]:
            moved = _batches_an_epoch(trainer) - done
            batches["current"] = {name: count + moved for name, count in batches["current"].items()}
            if epochs["current"]["ready"] > epochs["current"]["processed"]:  # its validation is still to come
                self.epoch += 1
        elif done:
            for progress in (epochs["total"], epochs["current"]):
                progress.update(dict.fromkeys(progress, progress["processed"]))
            batches["total"].update(dict.fromkeys(batches["total"], batches["total"]["processed"]))
            batches["current"].update(dict.fromkeys(batches["current"], 0))
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1  # Lightning adds it behind the save
            told += f". Epoch {self.epoch + 1} begins again: {done} of its batches will have been trained on twice"
        say_row("batch", told)


class KeepBest(ModelCheckpoint):
    """Keeps ``best.ckpt``: the epoch with the best figure that the module's task watches, the first of equals.

    Args:
        folder: Of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            save_top_k=1,
            monitor="",
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take over what is watched, which may depend on the labels that were found in the data."""
        if stage == "fit":
            task: Any = pl_module.task
            self.monitor, self.mode = task.watched, task.watched_mode
            self.kth_value = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
        super().setup(trainer, pl_module, stage)


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
