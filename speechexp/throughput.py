"""What training costs: audio seconds per second, data waits, padding."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from speechexp.batch import AudioBatch


class Throughput(Callback):
    """Measures training and logs it to TensorBoard every few steps, with the loss, rate and gradient norm.

    Waiting for data is the time between the end of a step and the start of the next, validation left out. The
    clock runs over training steps only.
    """

    def __init__(self) -> None:
        self.audio_seconds = 0.0
        self.step_seconds = 0.0
        self.wait_seconds = 0.0
        self.padded_seconds = 0.0
        self._ended: float | None = None
        self._window_seconds = 0.0
        self._window_audio = 0.0
        self.loss_sum = 0.0
        self.loss_count = 0
        self._losses: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch's loss so far, for a run that resumes within it."""
        self._collect()
        return {"loss_sum": self.loss_sum, "loss_count": self.loss_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over `state_dict`."""
        self.loss_sum, self.loss_count = state_dict["loss_sum"], state_dict["loss_count"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new mean loss."""
        self.loss_sum, self.loss_count, self._losses, self._ended = 0.0, 0, [], None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: AudioBatch, batch_idx: int
    ) -> None:
        """Note when the step starts."""
        now = time.perf_counter()
        if self._ended is not None:
            self.wait_seconds += now - self._ended
            self._window_seconds += now - self._ended
        self._started = now

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: AudioBatch,
        batch_idx: int,
    ) -> None:
        """Count the step; log every few."""
        self._losses.append(outputs["loss"].detach())
        self.audio_seconds += batch.audio_seconds
        self.padded_seconds += batch.audio_seconds / (1 - batch.padding_share)
        self._window_audio += batch.audio_seconds
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        logged = step % every == 0 and trainer.logger is not None
        if logged:
            loss = float(outputs["loss"])  # the one wait for the device
        now = time.perf_counter()
        self.step_seconds += now - self._started
        self._window_seconds += now - self._started
        self._ended = now
        if logged and self._window_seconds > 0:
            figures = {
                "train/loss": loss,
                "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "train/gradient_norm": float(getattr(pl_module, "gradient_norm", 0.0)),
                "train/audio_seconds_per_second": self._window_audio / self._window_seconds,
            }
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=step)
            self._window_seconds = self._window_audio = 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._ended = None

    def _collect(self) -> None:
        if self._losses:
            self.loss_sum += float(torch.stack(self._losses).double().sum())
        self.loss_count += len(self._losses)
        self._losses = []

    def epoch_loss(self) -> float:
        """Return the mean training loss of the epoch's batches so far."""
        self._collect()
        return self.loss_sum / self.loss_count if self.loss_count else float("nan")

    def figures(self) -> dict[str, float]:
        """Return what training cost, of this process's own steps."""
        seconds = self.step_seconds + self.wait_seconds
        if seconds == 0:
            return {}
        return {
            "train/audio_seconds_per_second": self.audio_seconds / seconds,
            "train/data_wait_share": self.wait_seconds / seconds,
            "train/padding_share": 1 - self.audio_seconds / self.padded_seconds,
            "train/seconds": seconds,
        }
