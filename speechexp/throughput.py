"""What training costs: audio per second, waits for data, padding, memory, and how well the device is used."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from speechexp.batch import AudioBatch


@dataclass
class Cost:
    """What some training steps cost.

    Attributes:
        seconds: Of the wall clock, over training steps and the loading between them.
        wait_seconds: Of these, in which the loop waited for the loader.
        audio_seconds: Of the clips, padding not counted.
        samples: In the batches, padding included.
        padding: Of these, samples of padding.
        flops: Floating-point operations, padding included; 0 where nobody asks.
        peak_bytes: The most memory in use; None where that can't be told.
    """

    seconds: float = 0.0
    wait_seconds: float = 0.0
    audio_seconds: float = 0.0
    samples: int = 0
    padding: float = 0.0
    flops: int = 0
    peak_bytes: int | None = None

    def figures(self, peak_tflops: float | None) -> dict[str, float]:
        """Return the figures by name; none if there was no step.

        Args:
            peak_tflops: What the device could do at most, in TFLOP/s, if that is known.
        """
        if not self.samples or self.seconds <= 0:
            return {}
        figures = {
            "audio_seconds_per_second": self.audio_seconds / self.seconds,
            "data_wait_share": self.wait_seconds / self.seconds,
            "padding_share": self.padding / self.samples,
        }
        if self.peak_bytes is not None:
            figures["peak_memory_gb"] = self.peak_bytes / 1e9
        if peak_tflops is not None and self.flops:
            figures["mfu"] = self.flops / (self.seconds * peak_tflops * 1e12)
        return figures


def total(costs: Sequence[Cost]) -> Cost:
    """Return what all of them cost together."""
    return Cost(
        seconds=sum(cost.seconds for cost in costs),
        wait_seconds=sum(cost.wait_seconds for cost in costs),
        audio_seconds=sum(cost.audio_seconds for cost in costs),
        samples=sum(cost.samples for cost in costs),
        padding=sum(cost.padding for cost in costs),
        flops=sum(cost.flops for cost in costs),
        peak_bytes=max((cost.peak_bytes for cost in costs if cost.peak_bytes is not None), default=None),
    )


class Throughput(Callback):
    """Measures training, of this process's own steps, and logs it to TensorBoard.

    Every few steps come the loss, the learning rate, the gradient's norm and the audio per second since the last
    point; at each epoch's end what the epoch cost.

    The clock runs from the start of an epoch's first step until validation or a checkpoint begins. A GPU runs behind
    the program, so the clock waits for it when it stops, and at no other time.

    Args:
        peak_tflops: What the device could do at most, in TFLOP/s; None if that isn't known.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        self.peak_tflops = peak_tflops
        self.costs = [Cost()]  # one more for each epoch; the first is what a resumed run goes on with
        self._read: float | None = None  # when the clock was last read; None while it stands
        self._fetched: float | None = None
        self._timed: Any = None
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

    # -------------------------------------------------------------------------------------- the clock

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time the loader where Lightning marks it for its profilers.

        The time between two steps would not do: it holds the batch's copy to the GPU, which waits for the last step.
        """
        loop: Any = trainer.fit_loop.epoch_loop
        if loop is self._timed:
            return
        self._timed = loop
        before, after = loop._on_before_fetch, loop._on_after_fetch

        def begin() -> None:
            before()
            self._fetched = time.perf_counter()

        def end() -> None:
            after()
            if self._read is not None and self._fetched is not None:
                self.costs[-1].wait_seconds += time.perf_counter() - self._fetched

        loop._on_before_fetch, loop._on_after_fetch = begin, end

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new mean loss and a new cost."""
        self.loss_sum, self.loss_count, self._losses = 0.0, 0, []
        self.costs.append(Cost())
        self._read = None
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: AudioBatch, batch_idx: int
    ) -> None:
        """Start the clock if it stands."""
        if self._read is None:
            self._read = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: AudioBatch,
        batch_idx: int,
    ) -> None:
        """Count the step; log every few."""
        loss = (
            outputs["loss"].detach() * trainer.accumulate_grad_batches
        )  # Lightning's is a part of the step's
        self._losses.append(loss)
        cost, samples = self.costs[-1], batch.audio.numel()
        cost.audio_seconds += batch.audio_seconds
        cost.samples += samples
        cost.padding += samples * batch.padding_share
        if self.peak_tflops is not None:
            module: Any = pl_module
            cost.flops += module.training_flops(batch)
        self._window_audio += batch.audio_seconds
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every or trainer.logger is None or trainer.fit_loop.epoch_loop._should_accumulate():
            return
        told = float(loss)  # waits for the device
        self._read_clock()
        if self._window_seconds > 0:
            figures = {
                "train/loss": told,
                "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "train/gradient_norm": float(getattr(pl_module, "gradient_norm", 0.0)),
                "train/audio_seconds_per_second": self._window_audio / self._window_seconds,
            }
            _log(trainer, figures)
            self._window_seconds = self._window_audio = 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop_clock(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stop the clock."""
        self._stop_clock(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what the epoch cost."""
        self._stop_clock(pl_module)
        figures = self.costs[-1].figures(self.peak_tflops)
        _log(trainer, {f"cost/{name}": value for name, value in figures.items()})

    def _read_clock(self) -> None:
        if self._read is not None:
            now = time.perf_counter()
            self.costs[-1].seconds += now - self._read
            self._window_seconds += now - self._read
            self._read = now

    def _stop_clock(self, module: pl.LightningModule) -> None:
        if self._read is None:
            return
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        self._read_clock()
        self._read = None
        self.costs[-1].peak_bytes = _peak_bytes(module.device)

    # ------------------------------------------------------------------------------------ the figures

    def _collect(self) -> None:
        if self._losses:
            self.loss_sum += float(torch.stack(self._losses).double().sum())
        self.loss_count += len(self._losses)
        self._losses = []

    def epoch_loss(self) -> float:
        """Return the mean training loss of the epoch's batches so far."""
        self._collect()
        return self.loss_sum / self.loss_count if self.loss_count else float("nan")

    def epoch_figures(self) -> dict[str, float]:
        """Return what the last epoch cost; empty if this process took no step of it."""
        return _named(self.costs[-1:], self.peak_tflops)

    def figures(self) -> dict[str, float]:
        """Return what training cost; empty if this process took no step."""
        return _named(self.costs, self.peak_tflops)


def _named(costs: Sequence[Cost], peak_tflops: float | None) -> dict[str, float]:
    cost = total(costs)
    figures = {f"train/{name}": value for name, value in cost.figures(peak_tflops).items()}
    return {**figures, "train/seconds": cost.seconds} if figures else {}


def _log(trainer: pl.Trainer, figures: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(figures, step=trainer.global_step)


def _peak_bytes(device: torch.device) -> int | None:
    """Return the most memory: what torch gave out on a GPU since the last reset, on a CPU the process's resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None  # has no `resource`
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # elsewhere in KiB
