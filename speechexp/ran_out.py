"""When memory runs out: which batch it was, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from speechexp.batch import AudioBatch
from speechexp.errors import OutOfMemory


@dataclass(frozen=True)
class BatchFacts:
    """What there is to say of a batch, without its tensors.

    Attributes:
        stage: ``training``, ``validation``, ``test`` or ``prediction``.
        place: Where in the stage, in words.
        clips: How many.
        padded_seconds: What each is padded to.
        audio_seconds: Their sum without padding.
        longest: The id of the longest one.
        longest_seconds: Its length.
    """

    stage: str
    place: str
    clips: int
    padded_seconds: float
    audio_seconds: float
    longest: str
    longest_seconds: float

    @classmethod
    def of(cls, batch: AudioBatch, stage: str, place: str) -> "BatchFacts":
        """Look at a batch; reads nothing from the device."""
        lengths = batch.num_samples
        rate = sum(lengths) / batch.audio_seconds
        longest = max(lengths)
        return cls(
            stage=stage,
            place=place,
            clips=len(lengths),
            padded_seconds=batch.audio.shape[1] / rate,
            audio_seconds=batch.audio_seconds,
            longest=batch.clips[lengths.index(longest)].id,
            longest_seconds=longest / rate,
        )


class BatchUnderWay(Callback):
    """Knows which batch is being worked on, so that an error can name it.

    Attributes:
        facts: Of that batch; None between batches.
    """

    facts: BatchFacts | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: AudioBatch, batch_idx: int
    ) -> None:
        """Note a training batch."""
        place = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}"
        self.facts = BatchFacts.of(batch, "training", place)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: AudioBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note a validation batch."""
        place = (
            f"after step {trainer.global_step} in epoch {trainer.current_epoch + 1}, batch {batch_idx + 1}"
        )
        self.facts = BatchFacts.of(batch, "validation", place)

    def on_test_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: AudioBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note a test batch."""
        self.facts = BatchFacts.of(batch, "the test", f"batch {batch_idx + 1}")

    def on_predict_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: AudioBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note a batch to predict."""
        self.facts = BatchFacts.of(batch, "prediction", f"batch {batch_idx + 1}")

    def on_train_batch_end(self, *_: Any) -> None:
        """Forget the batch."""
        self.facts = None

    def on_validation_batch_end(self, *_: Any) -> None:
        """Forget the batch."""
        self.facts = None

    def on_test_batch_end(self, *_: Any) -> None:
        """Forget the batch."""
        self.facts = None

    def on_predict_batch_end(self, *_: Any) -> None:
        """Forget the batch."""
        self.facts = None


def out_of_memory(
    error: BaseException, batch: BatchFacts | None, checkpointing: bool, on_gpu: bool
) -> OutOfMemory:
    """Return what to tell the user when memory has run out.

    Args:
        error: What was raised.
        batch: The one that was being worked on.
        checkpointing: Gradient checkpointing is on already.
        on_gpu: A CPU may have more.
    """
    if batch is None:
        words = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        return OutOfMemory(
            f"Out of memory, and not because of a batch: {words}. Free some memory, or take a smaller model."
        )
    message = (
        f"Out of memory in {batch.stage}, {batch.place}: the batch was {_clips(batch.clips)} padded to "
        f"{batch.padded_seconds:.4g} s, {batch.clips * batch.padded_seconds:.4g} s in all "
        f"({batch.audio_seconds:.4g} s of audio), its longest clip {batch.longest} "
        f"({batch.longest_seconds:.4g} s). "
    )
    less_memory = "model.gradient_checkpointing=true (less memory, more time)"
    half = round(batch.clips // 2 * batch.padded_seconds, 3)
    settings: Mapping[str, object] = {}
    if batch.stage == "training":
        if half:
            settings = {"data.batch_seconds": half}
            message += f"Set data.batch_seconds={half:g}"
            message += "." if checkpointing else f", or {less_memory}."
        else:
            shorter = f"data.max_seconds below {batch.longest_seconds:.4g}"
            message += "A smaller data.batch_seconds can't help. "
            if checkpointing:
                message += f"Start a new run with {shorter}."
            else:
                settings = {"model.gradient_checkpointing": "true"}
                message += f"Set {less_memory}, or start a new run with {shorter}."
    elif half:
        settings = {"data.eval_batch_seconds": half}
        message += f"Set data.eval_batch_seconds={half:g}."
    elif batch.stage == "prediction":
        message += f"Cut this file into shorter ones{', or use trainer=cpu' if on_gpu else ''}."
    else:
        message += (
            f"{'Use trainer=cpu, or start' if on_gpu else 'Start'} a new run with data.eval_max_seconds below "
            f"{batch.longest_seconds:.4g}: the clip is then left out of the figures."
        )
    return OutOfMemory(message, settings)


def _clips(count: int) -> str:
    return "1 clip" if count == 1 else f"{count} clips"
