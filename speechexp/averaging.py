"""An exponential moving average of the weights (Polyak and Juditsky 1992), validated and kept in their place."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging


class AveragedWeights(WeightAveraging):
    """Averages the weights after each optimizer step: ``decay * average + (1 - decay) * weights``.

    Validation runs with the average, and a checkpoint's ``state_dict`` is the average; a run that resumes goes on from
    both. At the end of training the module has the average.

    Lightning's own callback makes the copy, exchanges it and saves it. Otherwise than there:

    - the average lies where the module will be trained: Lightning makes its copy before the module is moved there, and
      would fetch every weight from a GPU after each step;
    - its count of steps isn't read back from the device;
    - a checkpoint saved within a validation, while the two are exchanged, has each under its own name;
    - what loads a checkpoint after training, as a test of the best one does, gets its average.

    Args:
        decay: Between 0 and 1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self.decay = decay
        self._exchanged = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the copy, where the module will be."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the weights of a step into the average, on their device."""
        if trainer.global_step == self._latest_update_step:
            return  # gradients are still accumulated
        assert self._average_model is not None
        averaged = self._average_model.module
        pairs = zip(averaged.parameters(), pl_module.parameters(), strict=True)
        trained = [(mean.detach(), weight.detach()) for mean, weight in pairs if weight.requires_grad]
        share = 1 - self.decay if self._latest_update_step else 1.0  # the first average is the weights
        torch._foreach_lerp_([mean for mean, _ in trained], [weight for _, weight in trained], share)
        for mean, value in zip(averaged.buffers(), pl_module.buffers(), strict=True):
            mean.copy_(value)
        self._latest_update_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save both: the average as ``state_dict``."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._exchanged:
            names = ("state_dict", "current_model_state")
            checkpoint.update(zip(names, [checkpoint[name] for name in reversed(names)], strict=True))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from both."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Drop the copy, so that what is loaded from now on is not taken for a run to go on with."""
        self._average_model = None

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._exchanged = not self._exchanged
