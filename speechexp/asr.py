"""Speech recognition: the LightningModule around Wav2Vec2ForCTC."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from speechexp import flops
from speechexp.batch import AudioBatch
from speechexp.checkpoint import STATE_KEY, read_checkpoint
from speechexp.checkpointing import optimizer_steps
from speechexp.compiling import compile_layers
from speechexp.errors import UserError
from speechexp.forward import ctc_logits
from speechexp.task import Record, SpeechRecognition
from speechexp.wav2vec2 import build_network, frames_after, network_from_config


class SpeechRecognizer(pl.LightningModule):
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

    def __init__(
        self,
        task: SpeechRecognition,
        pretrained: str | None = None,
        revision: str | None = None,
        network: Mapping[str, Any] | None = None,
        freeze_feature_encoder: bool = False,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        optimizer: Callable[[torch.nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.network, self.notes = build_network(task.vocabulary, pretrained, revision, dict(network or {}))
        if freeze_feature_encoder:
            self.network.freeze_feature_encoder()
            self.notes.append("feature encoder frozen")
        if compile:
            self.notes.append("compiled")
        self.gradient_checkpointing = gradient_checkpointing
        self._compile = compile
        self._make_optimizer = optimizer
        self._make_schedule = schedule
        self._reset_evaluation()

    @classmethod
    def from_checkpoint(cls, task: SpeechRecognition, ckpt: Path) -> "SpeechRecognizer":
        """Build the module of a checkpoint, weights included; the task takes over its vocabulary.

        Raises:
            UserError: It is not a checkpoint of this task.
        """
        checkpoint = read_checkpoint(ckpt)
        state = checkpoint[STATE_KEY]
        task.load_state(state["task"], ckpt)
        module = cls.__new__(cls)
        pl.LightningModule.__init__(module)
        module.task = task
        module.network = network_from_config(state["network"])
        module.notes = [f"weights of {ckpt}"]
        module.gradient_checkpointing = module._compile = False
        module._make_optimizer = module._make_schedule = None
        module._reset_evaluation()
        try:
            module.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise UserError(f"{ckpt} holds weights that do not fit its own description: {error}") from error
        return module

    def _reset_evaluation(self) -> None:
        self.metrics = self.task.metrics()
        self.records: list[Record] = []
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        self._loss_count = 0

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

    def setup(self, stage: str) -> None:
        """Compile, if asked for, once the device is known and before anything is trained."""
        if stage == "fit" and self._compile:
            compile_layers(self.network, self.trainer.strategy.root_device)

    def training_step(self, batch: AudioBatch, batch_idx: int) -> torch.Tensor:
        """Return the mean loss of a batch."""
        logits, frames = self(batch)
        return self._losses(logits, frames, batch).mean()

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> Any:
        """Score a batch and return its transcripts."""
        return self._score(batch)

    def test_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Score a batch and record each clip."""
        predictions = self._score(batch)
        for clip, samples, prediction in zip(batch.clips, batch.num_samples, predictions, strict=True):
            self.records.append(
                {
                    "id": clip.id,
                    **self.task.record(clip.reference, prediction),
                    "duration_seconds": round(samples / self.task.sample_rate, 3),
                    "attributes": dict(clip.attributes),
                }
            )

    def _score(self, batch: AudioBatch) -> list[str]:
        logits, frames = self(batch)
        losses = self._losses(logits, frames, batch)
        self._loss_sum = self._loss_sum + losses.double().sum()  # on the device
        self._loss_count += len(losses)
        predictions = self.transcribe(logits, frames)
        references = [clip.reference for clip in batch.clips]
        for metric in self.metrics.values():
            metric.update(references, predictions)
        return predictions

    def on_validation_epoch_start(self) -> None:
        """Forget what an earlier validation counted."""
        self._reset_evaluation()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the error rates of the whole split."""
        self.log("val/loss", (self._loss_sum / max(self._loss_count, 1)).float())
        for name, metric in self.metrics.items():
            self.log(f"val/{name}", metric.compute().float())

    def on_test_epoch_end(self) -> None:
        """Log the test loss; the rates are scored from the records."""
        self.log("test/loss", (self._loss_sum / max(self._loss_count, 1)).float())

    def predict_step(self, batch: AudioBatch, batch_idx: int) -> list[tuple[str, str]]:
        """Return the id and the transcript of each clip."""
        predictions = self.transcribe(*self(batch))
        return [(clip.id, text) for clip, text in zip(batch.clips, predictions, strict=True)]

    # --------------------------------------------------------------------------------------- training

    def training_flops(self, batch: AudioBatch) -> int:
        """Return the floating-point operations of a training step, padding included (see `speechexp.flops`)."""
        encoder = self.network.wav2vec2.feature_extractor
        frozen = not any(weight.requires_grad for weight in encoder.parameters())
        clips, samples = batch.audio.shape
        return flops.training_flops(self.network.config, clips, samples, frozen)

    def configure_optimizers(self) -> Any:
        """Make the optimizer and its schedule."""
        if self._make_optimizer is None:
            raise RuntimeError("a module that was built for testing has no optimizer.")
        optimizer = self._make_optimizer(self)
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put what rebuilds this module into a checkpoint, in plain containers."""
        network = self.network.config.to_dict()
        checkpoint[STATE_KEY] = {
            "task": self.task.state(),
            "network": {key: _plain(value) for key, value in network.items()},
        }


def _plain(value: Any) -> Any:
    """Return a configuration value as what ``torch.load(weights_only=True)`` takes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
