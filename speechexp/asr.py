"""Speech recognition: the LightningModule around Wav2Vec2ForCTC."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Wav2Vec2ForCTC

from speechexp import flops
from speechexp.batch import AudioBatch
from speechexp.forward import ctc_logits
from speechexp.module import TaskModule
from speechexp.recognition import SpeechRecognition
from speechexp.task import Record
from speechexp.wav2vec2 import build_network, frames_after, network_from_config


class SpeechRecognizer(TaskModule):
    """Wav2Vec2ForCTC (Baevski et al. 2020), its CTC loss and its optimizer.

    Args:
        task: Holds the vocabulary that the head writes with.
        pretrained: A hub id or a local directory; None for random weights.
        revision: Of the hub id.
        network: Settings of ``Wav2Vec2Config`` to override.
        freeze_feature_encoder: Keep the convolutions as they are.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more time.
        compile: Compile layers with ``torch.compile`` when training starts.
        optimizer: Makes the optimizer of a module.
        schedule: Makes the learning-rate schedule of an optimizer and a number of steps.
    """

    task: SpeechRecognition
    network: Wav2Vec2ForCTC

    def __init__(
        self,
        task: SpeechRecognition,
        pretrained: str | None = None,
        revision: str | None = None,
        network: Mapping[str, Any] | None = None,
        freeze_feature_encoder: bool = False,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    ) -> None:
        built, notes = build_network(task.vocabulary, pretrained, revision, dict(network or {}))
        if freeze_feature_encoder:
            built.freeze_feature_encoder()
            notes.append("feature encoder frozen")
        super().__init__(task, built, notes, gradient_checkpointing, compile, optimizer, schedule)

    @classmethod
    def rebuilt(cls, task: SpeechRecognition, state: Mapping[str, Any], notes: list[str]) -> Self:
        """Build a module around the empty network that a checkpoint's state describes."""
        module = cls.__new__(cls)
        TaskModule.__init__(module, task, network_from_config(state["network"]), notes)
        return module

    def reset_evaluation(self) -> None:
        """Forget what an earlier evaluation counted."""
        super().reset_evaluation()
        self.metrics = self.task.metrics()

    # ---------------------------------------------------------------------------------------- forward

    def num_frames(self, num_samples: int) -> int:
        """Return the number of logit frames of a clip of ``num_samples``."""
        return max(frames_after(self.network.config, num_samples), 0)

    def forward(self, batch: AudioBatch) -> tuple[torch.Tensor, list[int]]:
        """Return logits and how many frames of each clip count.

        Returns:
            ``(batch, frames, vocabulary)`` logits, and ``batch`` numbers of frames.
        """
        frames = [self.num_frames(samples) for samples in batch.num_samples]
        return ctc_logits(self.network, batch, self.gradient_checkpointing), frames

    def _losses(self, logits: torch.Tensor, frames: list[int], batch: AudioBatch) -> torch.Tensor:
        """Return each clip's CTC loss divided by its label's length, ``(batch,)`` in nats per label."""
        log_probabilities = functional.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        # cuDNN's CTC is not deterministic and takes int32 labels on the host; MIOpen has its own limits.
        with torch.backends.cudnn.flags(enabled=False):
            losses = functional.ctc_loss(
                log_probabilities,
                batch.targets,
                frames,  # type: ignore[arg-type]  # documented; tensors on the device would be read back
                batch.num_labels,  # type: ignore[arg-type]
                blank=self.task.vocabulary.blank_id,
                reduction="none",
                zero_infinity=True,
            )
        return losses / batch.target_lengths.clamp(min=1)

    def transcribe(self, logits: torch.Tensor, frames: list[int]) -> list[str]:
        """Return the most likely label of each frame as text, each clip cut at its own length."""
        ids = logits.argmax(dim=-1).cpu().numpy()
        return [
            self.task.vocabulary.decode_ctc(np.asarray(row[:length]))
            for row, length in zip(ids, frames, strict=True)
        ]

    # ------------------------------------------------------------------------------------------ steps

    def learn_from(self, data: Any) -> None:
        """Drop training clips whose label does not fit into their frames."""
        data.drop_infeasible(self.num_frames)

    def training_step(self, batch: AudioBatch, batch_idx: int) -> torch.Tensor:
        """Return the mean loss of a batch."""
        logits, frames = self(batch)
        return self._losses(logits, frames, batch).mean()

    def score(self, batch: AudioBatch) -> list[Record]:
        """Transcribe a batch and count its errors."""
        logits, frames = self(batch)
        self.count_losses(self._losses(logits, frames, batch))
        predictions = self.transcribe(logits, frames)
        references = [clip.reference for clip in batch.clips]
        for metric in self.metrics.values():
            metric.update(references, predictions)
        return [{"prediction": text} for text in predictions]

    def predict(self, batch: AudioBatch) -> list[Record]:
        """Return the transcript of each clip."""
        return [{"prediction": text} for text in self.transcribe(*self(batch))]

    def record(self, batch: AudioBatch, row: int, prediction: Record) -> Record:
        """Return the reference, the transcript, and the errors of a test clip."""
        return self.task.record(batch.clips[row].reference, prediction["prediction"])

    def figures(self) -> dict[str, torch.Tensor]:
        """Return the error rates of the whole split."""
        return {name: metric.compute() for name, metric in self.metrics.items()}

    def training_flops(self, batch: AudioBatch) -> int:
        """Return the floating-point operations of a training step, padding included (see `speechexp.flops`)."""
        encoder = self.network.wav2vec2.feature_extractor
        frozen = not any(weight.requires_grad for weight in encoder.parameters())
        clips, samples = batch.audio.shape
        return flops.training_flops(self.network.config, clips, samples, frozen)
