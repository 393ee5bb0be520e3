"""Prediction: what a network hears in files, the same as the test stage gives on the same clips."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from speechexp.audio import AUDIO_SUFFIXES, AudioError, decode
from speechexp.batch import Clip
from speechexp.console import say, say_error
from speechexp.errors import UserError
from speechexp.paths import is_folder

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from speechexp.data import AudioData

_CHUNK_SECONDS = 1800  # audio that is held in memory at once


def predict_files(
    module: "pl.LightningModule", trainer: "pl.Trainer", data: "AudioData", paths: Sequence[Path]
) -> list[dict[str, Any]]:
    """Predict files and print each prediction; files that can't be read are reported and left out.

    Returns:
        For each file ``id``, what is predicted and ``duration_seconds``, or ``id`` and ``error``.

    Raises:
        UserError: There is no audio file, or none can be read.
    """
    files = list(_files(paths))
    if not files:
        raise UserError(
            f"inputs={', '.join(map(str, paths))} holds no audio file ({', '.join(sorted(AUDIO_SUFFIXES))})."
        )
    rate = data.task.sample_rate
    records: dict[str, dict[str, Any]] = {}
    waiting: list[Clip] = []
    for file in files:
        try:
            audio = decode(file, rate)
            if len(audio) < rate // 10:
                raise AudioError(f"only {len(audio) / rate:.3f} s long, at least 0.1 s is needed")
        except AudioError as error:
            say_error(f"{file}: {error}")
            records[str(file)] = {"id": str(file), "error": str(error)}
            continue
        waiting.append(Clip(str(file), audio, "", (), {}))
        if sum(len(clip.audio) for clip in waiting) > _CHUNK_SECONDS * rate:
            records |= _predict(module, trainer, data, waiting)
            waiting = []
    if waiting:
        records |= _predict(module, trainer, data, waiting)
    if all("error" in record for record in records.values()):
        raise UserError(f"None of the {len(files)} files can be read.")
    return [records[str(file)] for file in files]


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if is_folder(path):
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
        else:
            yield path


def _predict(
    module: "pl.LightningModule", trainer: "pl.Trainer", data: "AudioData", clips: Sequence[Clip]
) -> dict[str, dict[str, Any]]:
    batches: Any = trainer.predict(module, data.clips_dataloader(clips))
    predictions = dict(pair for batch in batches for pair in batch)
    records = {}
    for clip in clips:
        say(f"{escape(clip.id)}: {escape(data.task.describe_prediction(predictions[clip.id]))}")
        seconds = round(len(clip.audio) / data.task.sample_rate, 3)
        records[clip.id] = {"id": clip.id, **predictions[clip.id], "duration_seconds": seconds}
    return records
