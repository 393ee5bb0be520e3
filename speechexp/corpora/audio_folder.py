"""A user's own recordings: a folder of audio with metadata.csv, .jsonl or .parquet, a folder a class, or RTTM."""

import hashlib
import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechexp.corpora.folder_labels import check_spellings, class_folders, classes_in, label_column
from speechexp.corpora.folder_turns import FolderTurns
from speechexp.corpora.metadata import METADATA, metadata_in, records_of
from speechexp.corpora.turn_rows import Channels, TurnRows
from speechexp.data import AudioData
from speechexp.diarization import Diarization
from speechexp.errors import UserError, did_you_mean
from speechexp.labels import write_labels
from speechexp.manifest import SPLITS, Row
from speechexp.paths import expand, is_file, require_folder
from speechexp.prepare import Progress
from speechexp.recognition import SpeechRecognition
from speechexp.rttm import Faults
from speechexp.tagging import AudioTagging

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
_ATTRIBUTES = ("gender", "voice", "speaker", "speaker_id", "accent", "domain")


class AudioFolder(AudioData):
    """Audio files named by a metadata file, the layout that Hugging Face calls ``audiofolder``.

    A metadata file lies in the folder itself or in each of its split folders (``train``, ``validation``,
    ``test``); its ``file_name`` is relative to it. Splits come from the split folders, from a ``split`` column,
    from the first folder in ``file_name``, or are drawn by seed.

    For tagging, a folder may do without metadata: a recording's class is then the name of the folder it lies in,
    ``CLASS/*.wav`` or ``train/CLASS/*.wav``.

    For diarization it has RTTM files in the place of metadata: see `FolderTurns`.

    Args:
        task: Says what labels mean.
        path: The folder.
        text_column: The column with the transcript.
        label_column: For tagging, the column with the labels; by default ``label`` (one) or ``labels`` (several,
            separated by ``;``), whichever is there.
        validation_share: Share of clips drawn for validation where the folder has no splits.
        test_share: The same for the test.
        split_seed: Of that draw; it depends on a clip's name alone, so new clips never move old ones.
        last_seconds: For diarization, how much to take from the end of each recording; None takes all of it.
        faults: For diarization, what is done about turns that can't be as they are: see `TurnRows`.
        channels: For diarization, of recordings with several: see `TurnRows`.
        loading: What every data set has: see `AudioData`.
    """

    def __init__(
        self,
        task: SpeechRecognition | AudioTagging | Diarization,
        path: str,
        text_column: str = "transcription",
        validation_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 1,
        label_column: str | None = None,
        last_seconds: float | None = None,
        faults: Faults = "refuse",
        channels: Channels = "mix",
        **loading: Any,
    ) -> None:
        super().__init__(task, **loading)
        self.path = expand(path)
        self.text_column = text_column
        self.label_column = label_column
        self.validation_share = validation_share
        self.test_share = test_share
        self.split_seed = split_seed
        self.turn_rows = TurnRows(last_seconds, faults, channels)
        self._rows: list[Row] = []

    def describe(self) -> str:
        """Say where the audio comes from."""
        return f"the folder {self.path}{self.turn_rows.described}"

    def split_hint(self) -> str:
        """Say where splits come from."""
        if self._diarizes:
            return (
                f" There are {len(self.manifest)} recordings. Splits come from the folders train, validation and test, "
                f"or are drawn: data.validation_share={self.validation_share} and data.test_share={self.test_share}. "
                "With few recordings make folders, or set larger shares, such as 0.3 and 0.3."
            )
        return (
            " Splits come from the folders train, validation and test, from a split column, or are drawn: see "
            f"data.validation_share={self.validation_share} and data.test_share={self.test_share}."
        )

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Read the metadata and check every file it names, or read the turns."""
        shares = self.validation_share, self.test_share
        if min(shares) < 0 or sum(shares) > 1 or (sum(shares) == 1 and not self._diarizes):
            raise UserError(
                f"data.validation_share={shares[0]} and data.test_share={shares[1]} must leave something for "
                "training: shares of all clips, such as 0.1 and 0.1."
            )
        self._check_settings()
        require_folder("data.path", self.path, "recordings and their metadata")
        self._rows = self._turn_rows(progress) if self._diarizes else list(self._read())
        if self._tags:
            check_spellings((row.reference for row in self._rows), self.path)
        facts = [
            (
                (row.id, row.split, row.reference, row.attributes, stat.st_size, stat.st_mtime_ns)
                + ((row.stretch, row.channel) if self._diarizes else ())
            )
            for row in self._rows
            if isinstance(row.audio, Path)
            for stat in [row.audio.stat()]
        ]
        return f"folder|{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}", len(self._rows)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Give the rows from the ``start``-th on, split by split."""
        by_split = (row for split in SPLITS for row in self._rows if row.split == split)
        return itertools.islice(by_split, start, None)

    @property
    def _tags(self) -> bool:
        return self.task.kind == "tagging"

    @property
    def _diarizes(self) -> bool:
        return self.task.kind == "diarization"

    def _check_settings(self) -> None:
        """Raise for a setting that is of another task."""
        if self.label_column is not None and not self._tags:
            instead = "RTTM files: leave it out"
            if not self._diarizes:
                instead = "transcripts: set data.text_column instead"
            raise UserError(
                f"data.label_column={self.label_column} is for a task that tags sounds, but task={self.task.name} "
                f"reads {instead}, or choose another task."
            )
        for name, default in (("last_seconds", None), ("faults", "refuse"), ("channels", "mix")):
            value = getattr(self.turn_rows, name)
            if value != default and not self._diarizes:
                raise UserError(
                    f"data.{name}={value} is for recordings whose turns are known, but task={self.task.name} knows "
                    "none. Leave it out, or choose another task."
                )

    def _turn_rows(self, progress: Progress) -> list[Row]:
        def draw(name: str) -> str:
            return self._split_of({}, name, name)

        return FolderTurns(self.path, _SPLIT_NAMES, draw, self.turn_rows).read(progress)

    def _read(self) -> Iterator[Row]:
        metadata = metadata_in(self.path)
        if metadata is not None:
            yield from self._rows_of(metadata, None)
            return
        folders = {
            folder: split
            for folder in sorted(self.path.iterdir())
            if (split := _SPLIT_NAMES.get(folder.name.lower())) and folder.is_dir()
        }
        found = {folder: metadata for folder in folders if (metadata := metadata_in(folder)) is not None}
        if not found and self._tags:
            yield from self._rows_of_folders()
            return
        if not found:
            raise UserError(
                f"data.path={self.path} holds no {', '.join(METADATA)}, nor do its folders train, validation, "
                "test. Write a metadata.csv with the columns file_name and "
                f"{self.text_column}, one line a clip."
            )
        for folder, split in folders.items():
            if folder not in found:
                others = ", ".join(each.name for each in found)
                raise UserError(
                    f"{folder} holds no {', '.join(METADATA)}, but {others} does. Write one for it, or rename it."
                )
            yield from self._rows_of(found[folder], split)

    def _rows_of_folders(self) -> Iterator[Row]:
        root = self.path.absolute()
        for file, label, split in class_folders(root, _SPLIT_NAMES):
            name = file.relative_to(root).as_posix()
            yield Row(name, split or self._split_of({}, name, name), file, write_labels([label]))

    def _rows_of(self, metadata: Path, split: str | None) -> Iterator[Row]:
        records = records_of(metadata)
        if not records:
            raise UserError(f"data.path={self.path}: {metadata} names no clip.")
        column = self.text_column
        if self._tags:
            columns = dict.fromkeys(name for _, record in records for name in record)
            column = label_column(columns, self.label_column, metadata)
        root = Path(os.path.normpath(self.path.absolute()))
        missing: list[str] = []
        seen: set[str] = set()
        for where, record in records:
            name = _text_in(record, "file_name", where, "", "Put it in quotes.")
            reference = self._reference_in(record, column, where)
            # Links are not followed: a recording may be linked into the folder.
            file = Path(os.path.normpath(metadata.parent.absolute() / name))
            if not name or not file.is_relative_to(root):
                raise UserError(f"{where}: file_name={name!r} must be a file inside {self.path}.")
            clip_id = file.relative_to(root).as_posix()
            if clip_id in seen:
                raise UserError(f"{where}: file_name={name!r} is named twice.")
            seen.add(clip_id)
            if not is_file(file):
                missing.append(name if len(name) <= 80 else f"{name[:79]}…")
                continue
            yield Row(
                id=clip_id,
                split=split or self._split_of(record, name, where),
                audio=file,
                reference=reference,
                attributes={
                    key: str(record[key]) for key in _ATTRIBUTES if record.get(key) not in (None, "")
                },
            )
        if missing:
            raise UserError(
                f"{metadata} names {len(missing)} of {len(records)} files that are not there: "
                f"{', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}. Add them, or take their lines out."
            )

    def _reference_in(self, record: dict[str, Any], column: str, where: str) -> str:
        if self._tags:
            if column not in record:
                raise UserError(f"{where} has no column {column!r}.{did_you_mean(column, record)}")
            return write_labels(classes_in(record[column], column, where))
        missing = " Set data.text_column to one of its columns."
        mistyped = "Put it in quotes, or set data.text_column to another column."
        return _text_in(record, column, where, missing, mistyped)

    def _split_of(self, record: dict[str, Any], name: str, where: str) -> str:
        if record.get("split"):
            split = _SPLIT_NAMES.get(str(record["split"]).lower())
            if split is None:
                raise UserError(
                    f"{where}: split={record['split']!r} of {name} must be one of {', '.join(SPLITS)}."
                )
            return split
        parts = Path(name).parts
        if len(parts) > 1 and parts[0].lower() in _SPLIT_NAMES:
            return _SPLIT_NAMES[parts[0].lower()]
        draw = random.Random(f"{self.split_seed}|{name}").random()
        if draw < self.test_share:
            return "test"
        return "validation" if draw < self.test_share + self.validation_share else "train"


def _text_in(record: dict[str, Any], column: str, where: str, missing: str, mistyped: str) -> str:
    """Return the text of a column, or raise with what to do where it is missing, or is no text."""
    if column not in record:
        raise UserError(f"{where} has no column {column!r}.{did_you_mean(column, record)}{missing}")
    if not isinstance(record[column], str | None):
        raise UserError(f"{where}: {column} must be text, but is {record[column]!r} instead. {mistyped}")
    return record[column] or ""
