"""TensorBoard: curves, the same few validation clips each epoch, and the run's settings with its figures."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from speechexp.batch import AudioBatch


class Curves(TensorBoardLogger):
    """Writes scalars over the optimizer step, without the curve of epoch numbers that Lightning adds."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a point of each curve."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def writer_of(trainer: pl.Trainer) -> Any:
    """Return the trainer's ``SummaryWriter``, or None if it logs elsewhere."""
    return next((log.experiment for log in trainer.loggers if isinstance(log, TensorBoardLogger)), None)


class Examples(Callback):
    """Shows a few validation clips: their audio once, their transcripts beside the references each epoch.

    Args:
        count: How many, spread evenly over the lengths.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._ids: list[str] | None = None
        self._heard: set[str] = set()
        self._texts: dict[str, str] = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the clips: always the same ones of a data set."""
        if self._ids is None:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            ids = data.ids_by_length("validation") if data is not None else []
            places = {
                round((i + 0.5) * len(ids) / self.count - 0.5) for i in range(min(self.count, len(ids)))
            }
            self._ids = [ids[place] for place in sorted(places)]

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: AudioBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write down what is said of the chosen clips."""
        for row, (clip, prediction) in enumerate(zip(batch.clips, outputs, strict=True)):
            if clip.id in (self._ids or ()) and not trainer.sanity_checking:
                self._texts[clip.id] = (
                    f"| reference | {clip.reference} |\n|---|---|\n| transcript | {prediction} |"
                )
                self._hear(trainer, clip.id, batch.audio[row, : batch.num_samples[row]])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the transcripts of this epoch."""
        writer = writer_of(trainer)
        if writer is not None:
            for number, clip_id in enumerate(self._ids or ()):
                if clip_id in self._texts:
                    writer.add_text(f"examples/{number}", self._texts[clip_id], trainer.global_step)
        self._texts = {}

    def _hear(self, trainer: pl.Trainer, clip_id: str, audio: torch.Tensor) -> None:
        writer = writer_of(trainer)
        if writer is not None and clip_id not in self._heard:
            self._heard.add(clip_id)
            number = (self._ids or []).index(clip_id)
            rate = trainer.lightning_module.task.sample_rate  # type: ignore[union-attr]
            writer.add_audio(f"examples/{number}", audio[None], trainer.global_step, sample_rate=rate)


def log_hparams(writer: Any, settings: Mapping[str, Any], figures: Mapping[str, float]) -> None:
    """Fill TensorBoard's hparams tab.

    Only the summaries that link settings to figures are written: the figures themselves are scalars already, and
    writing them again, as ``SummaryWriter.add_hparams`` does, would bend their curves.

    Args:
        writer: A ``SummaryWriter``.
        settings: Names and plain values.
        figures: Names of scalars that the run has logged.
    """
    from torch.utils.tensorboard.summary import hparams

    simple = {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in settings.items()
    }
    for summary in hparams(simple, dict(figures)):  # type: ignore[no-untyped-call]
        writer._get_file_writer().add_summary(summary)  # training closed it, a test has opened it again
