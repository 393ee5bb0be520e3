"""What every network's LightningModule has: evaluation, the optimizer, clipping, and what a checkpoint holds."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from speechexp.batch import AudioBatch
from speechexp.checkpoint import STATE_KEY, read_checkpoint
from speechexp.checkpointing import optimizer_steps
from speechexp.compiling import compile_layers
from speechexp.errors import UserError
from speechexp.task import Record, Task

if TYPE_CHECKING:
    from speechexp.gated import Page


class TaskModule(pl.LightningModule):
    """A network, its loss and its optimizer.

    Args:
        task: Says what labels mean.
        network: A model of transformers.
        notes: What the user should know of how it was made.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more time.
        compile: Compile layers with ``torch.compile`` when training starts.
        optimizer: Makes the optimizer of a module.
        schedule: Makes the learning-rate schedule of an optimizer and a number of steps.

    Attributes:
        records: What is known of each test clip once it has been scored.
        adjustable: Settings that hold for the weights of a checkpoint as well.
        tests_before: Whether it is worth knowing how well the network does before it is trained.
    """

    task: Task
    adjustable: ClassVar[tuple[str, ...]] = ()
    tests_before: ClassVar[bool] = False

    def __init__(
        self,
        task: Task,
        network: nn.Module,
        notes: list[str],
        gradient_checkpointing: bool = False,
        compile: bool = False,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.network = network
        self.notes = notes + (["compiled"] if compile else [])
        self.gradient_checkpointing = gradient_checkpointing
        self._compile = compile
        self._make_optimizer = optimizer
        self._make_schedule = schedule
        self.records: list[Record] = []
        self.reset_evaluation()

    @classmethod
    @abstractmethod
    def rebuilt(cls, task: Any, state: Mapping[str, Any], notes: list[str]) -> Self:
        """Build a module around the empty network that a checkpoint's state describes."""

    @classmethod
    def from_checkpoint(cls, task: Task, ckpt: Path) -> Self:
        """Build the module of a checkpoint, weights included; the task takes over its labels.

        Raises:
            UserError: It is not a checkpoint of this task.
        """
        checkpoint = read_checkpoint(ckpt)
        state = checkpoint[STATE_KEY]
        task.load_state(state["task"], ckpt)
        module = cls.rebuilt(task, state, [f"weights of {ckpt}"])
        module.on_load_checkpoint(checkpoint)
        try:
            module.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise UserError(f"{ckpt} holds weights that do not fit its own description: {error}") from error
        return module

    @classmethod
    def gated_pages(cls, settings: Mapping[str, Any]) -> "list[Page]":
        """Return the pages on the hub whose conditions must have been accepted for a model with these settings."""
        return []

    def adjust(self, **settings: Any) -> None:
        """Take the settings that are `adjustable`."""

    # ------------------------------------------------------------------------------------------- data

    def meet(self, data: Any) -> None:
        """Tell a data module how the network wants its batches, before any is made."""

    def learn_from(self, data: Any) -> None:
        """Take from the training data what no step learns, and drop from it what can't be trained on."""

    # ------------------------------------------------------------------------------------- evaluation

    def reset_evaluation(self) -> None:
        """Forget what an earlier evaluation counted."""
        self.records = []
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        self._loss_count = 0

    def count_losses(self, losses: torch.Tensor) -> None:
        """Add the loss of each clip, ``(batch,)``, to the split's; nothing is read from the device."""
        self._loss_sum = self._loss_sum + losses.double().sum()
        self._loss_count += len(losses)

    @abstractmethod
    def score(self, batch: AudioBatch) -> list[Record]:
        """Evaluate a batch, count its losses and figures; return the prediction of each clip."""

    @abstractmethod
    def predict(self, batch: AudioBatch) -> list[Record]:
        """Return the prediction of each clip."""

    @abstractmethod
    def record(self, batch: AudioBatch, row: int, prediction: Record) -> Record:
        """Return what is recorded of a test clip beyond its id, duration and attributes."""

    @abstractmethod
    def figures(self) -> dict[str, torch.Tensor]:
        """Return the figures of the split that has been evaluated, its loss left out."""

    def costs(self) -> dict[str, float]:
        """Return what the evaluation cost, where that is worth a figure."""
        return {}

    def example_figure(self, batch: AudioBatch, row: int, prediction: Record) -> Any:
        """Return a figure that shows the prediction of a clip, or None."""
        return None

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> Any:
        """Score a batch and return its predictions."""
        return self.score(batch)

    def test_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Score a batch and record each clip."""
        for row, prediction in enumerate(self.score(batch)):
            clip = batch.clips[row]
            self.records.append(
                {
                    "id": clip.id,
                    **self.record(batch, row, prediction),
                    "duration_seconds": round(batch.num_samples[row] / self.task.sample_rate, 3),
                    "attributes": dict(clip.attributes),
                }
            )

    def predict_step(self, batch: AudioBatch, batch_idx: int) -> list[tuple[str, Record]]:
        """Return the id and the prediction of each clip."""
        return [
            (clip.id, prediction) for clip, prediction in zip(batch.clips, self.predict(batch), strict=True)
        ]

    def on_validation_epoch_start(self) -> None:
        """Forget what an earlier validation counted."""
        self.reset_evaluation()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the figures of the whole split."""
        self.log("val/loss", self._mean_loss())
        for name, value in self.figures().items():
            self.log(f"val/{name}", value.float())

    def on_test_epoch_end(self) -> None:
        """Log the test loss; the figures are scored from the records."""
        self.log("test/loss", self._mean_loss())

    def _mean_loss(self) -> torch.Tensor:
        return (self._loss_sum / max(self._loss_count, 1)).float()

    # --------------------------------------------------------------------------------------- training

    def setup(self, stage: str) -> None:
        """Compile, if asked for, once the device is known and before anything is trained."""
        if stage == "fit" and self._compile:
            compile_layers(self.network, self.trainer.strategy.root_device)

    @abstractmethod
    def training_flops(self, batch: AudioBatch) -> int:
        """Return the floating-point operations of a training step, padding included."""

    def make_optimizer(self) -> Optimizer:
        """Make the optimizer.

        Raises:
            UserError: A setting of it can't be.
        """
        if self._make_optimizer is None:
            raise RuntimeError("a module that was built for testing has no optimizer.")
        return self._make_optimizer(self)

    def configure_optimizers(self) -> Any:
        """Make the optimizer and its schedule."""
        optimizer = self.make_optimizer()
        if self._make_schedule is None:
            return optimizer
        schedule = self._make_schedule(optimizer, optimizer_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm, and keep the norm from before clipping for the log.

        In fp16 the loss is scaled up, and with it its gradients. Lightning leaves it to an optimizer that scales
        gradients back down itself, as a fused one does, to do so: after the clipping, which is then against a limit
        tens of thousands of times too low. ``GradScaler`` may scale back here as well.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        trained = [weight for weight in self.parameters() if weight.grad is not None]
        gradients = [weight.grad for weight in trained if weight.grad is not None]
        self.gradient_norm = torch.nn.utils.get_total_norm(gradients)
        if gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(trained, gradient_clip_val, self.gradient_norm)

    # ---------------------------------------------------------------------------------- after training

    def after_training(self, trainer: pl.Trainer, data: Any, ckpt: Path, seed: int) -> dict[str, float]:
        """Find on the validation split what no step learns, put it into the best checkpoint; return figures."""
        return {}

    @classmethod
    def export(cls, task: Task, ckpt: Path, folder: Path) -> Path | None:
        """Write a checkpoint's network in a form that other programs read; return where, None if there is none."""
        return None

    # ------------------------------------------------------------------------------------ checkpoints

    def network_state(self) -> dict[str, Any]:
        """Return what describes the network without its weights, in plain containers."""
        config: Any = self.network.config
        return {key: _plain(value) for key, value in config.to_dict().items()}

    def own_state(self) -> Record:
        """Return what a checkpoint must hold beside the task, the network's settings and the weights."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put what rebuilds this module into a checkpoint, in plain containers."""
        checkpoint[STATE_KEY] = {
            "task": self.task.state(),
            "network": self.network_state(),
            **self.own_state(),
        }


def _plain(value: Any) -> Any:
    """Return a configuration value as what ``torch.load(weights_only=True)`` takes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
