"""TensorBoard: curves, the same few validation clips each epoch, and the run's settings with its figures."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from speechexp.batch import AudioBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Curves(TensorBoardLogger):
    """Writes scalars over the optimizer step, without the curve of epoch numbers that Lightning adds."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a point of each curve."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def writer_of(trainer: pl.Trainer) -> Any:
    """Return the trainer's ``SummaryWriter``, or None if it logs elsewhere."""
    return next((log.experiment for log in trainer.loggers if isinstance(log, TensorBoardLogger)), None)


_SHOWN_SECONDS = 60  # of an example's audio


class Examples(Callback):
    """Shows a few validation clips: audio and spectrogram once, what is predicted beside the reference each epoch.

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
            count = min(self.count, len(ids))
            places = {round((i + 0.5) * len(ids) / count - 0.5) for i in range(count)}
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
        """Write down what is predicted of the chosen clips."""
        module: Any = pl_module
        for row, (clip, prediction) in enumerate(zip(batch.clips, outputs, strict=True)):
            if clip.id in (self._ids or ()) and not trainer.sanity_checking and trainer.state.fn == "fit":
                record = {"id": clip.id, **module.record(batch, row, prediction)}
                (first, *rest) = module.task.describe_record(record)
                lines = [_table_row(*first), "|---|---|", *(_table_row(*each) for each in rest)]
                self._texts[clip.id] = "\n".join(lines)
                self._hear(trainer, clip.id, batch.audio[row, : batch.num_samples[row]])
                self._draw(trainer, clip.id, module.example_figure(batch, row, prediction))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the predictions of this epoch."""
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
            module: Any = trainer.lightning_module
            rate = module.task.sample_rate
            audio = audio[: _SHOWN_SECONDS * rate]
            writer.add_audio(f"examples/{number}", audio[None], trainer.global_step, sample_rate=rate)
            figure = spectrogram_figure(audio.float().cpu().numpy(), rate)
            # A tag of its own: TensorBoard shows one kind of thing under a tag.
            writer.add_figure(f"spectrograms/{number}", figure, trainer.global_step)

    def _draw(self, trainer: pl.Trainer, clip_id: str, figure: "Figure | None") -> None:
        writer = writer_of(trainer)
        if writer is not None and figure is not None:
            number = (self._ids or []).index(clip_id)
            writer.add_figure(f"timelines/{number}", figure, trainer.global_step)


def _table_row(name: str, text: str) -> str:
    """Return a row of a Markdown table, in which the text is taken as it stands."""
    escaped = re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", text).strip().replace("\n", "<br>")
    return f"| {name} | {escaped} |"


def spectrogram_figure(audio: npt.NDArray[np.float32], sample_rate: int) -> "Figure":
    """Draw a clip's spectrogram in dB below its loudest point.

    Args:
        audio: ``(samples,)``.
        sample_rate: In Hz.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy.signal import spectrogram

    window = round(0.025 * sample_rate)
    padded = np.pad(audio, (0, max(window - len(audio), 0)))
    hertz, seconds, power = spectrogram(
        padded, sample_rate, nperseg=window, noverlap=window - round(0.01 * sample_rate), nfft=1024
    )
    decibels = 10 * np.log10(power / max(power.max(), 1e-20) + 1e-8)
    figure = Figure(figsize=(8, 3), dpi=100, layout="constrained")  # not pyplot's, which keeps each figure
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.pcolormesh(seconds, hertz / 1000, decibels, vmin=-80, vmax=0, cmap="magma", rasterized=True)
    axes.set(xlabel="time in s", ylabel="frequency in kHz")
    figure.colorbar(image, label="dB")
    return figure


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
