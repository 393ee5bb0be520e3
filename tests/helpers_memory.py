"""Stands for a small device, which the machine that runs the tests does not have."""

from typing import Any, ClassVar

import torch

from speechexp.asr import SpeechRecognizer
from speechexp.batch import AudioBatch


class SmallDevice(SpeechRecognizer):
    """A module that asks for more memory than there is when a batch is padded to more than some seconds.

    Attributes:
        training_seconds: What fits in training, from which step on.
        evaluation_seconds: What fits otherwise.
        trained: Ids of the clips that Lightning trained on, by epoch.
        rates: The learning rate of each step.
    """

    training_seconds: ClassVar[dict[int, float]] = {}
    evaluation_seconds: ClassVar[float] = float("inf")
    trained: ClassVar[dict[int, list[str]]] = {}
    rates: ClassVar[list[float]] = []

    def forward(self, batch: AudioBatch) -> tuple[torch.Tensor, torch.Tensor]:
        seconds = batch.audio.numel() / self.task.sample_rate
        step = self._trainer.global_step if self._trainer is not None else 0
        limits = [limit for begin, limit in self.training_seconds.items() if step >= begin]
        if seconds > (min(limits, default=float("inf")) if self.training else self.evaluation_seconds):
            raise torch.OutOfMemoryError("HIP out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(batch)

    def on_train_batch_end(self, outputs: Any, batch: AudioBatch, batch_idx: int) -> None:
        self.trained.setdefault(self.current_epoch, []).extend(clip.id for clip in batch.clips)
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
