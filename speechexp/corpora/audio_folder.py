"""A user's own recordings: a folder of audio with metadata.csv, .jsonl or .parquet."""

import csv
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechexp.data import AudioData, Progress
from speechexp.errors import UserError, did_you_mean
from speechexp.manifest import SPLITS, Row
from speechexp.task import SpeechRecognition

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
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

    Args:
        task: Says what labels mean.
        path: The folder.
        text_column: The column with the transcript.
        validation_share: Share of clips drawn for validation where the folder has no splits.
        test_share: The same for the test.
        split_seed: Of that draw; it depends on a clip's name alone, so new clips never move old ones.
        loading: What every data set has: see `AudioData`.
    """

    def __init__(
        self,
        task: SpeechRecognition,
        path: str,
        text_column: str = "transcription",
        validation_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 1,
        **loading: Any,
    ) -> None:
        super().__init__(task, **loading)
        self.path = Path(path).expanduser()
        self.text_column = text_column
        self.validation_share = validation_share
        self.test_share = test_share
        self.split_seed = split_seed
        self._rows: list[Row] = []

    def describe(self) -> str:
        """Say where the audio comes from."""
        return f"the folder {self.path}"

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Read the metadata and check every file it names."""
        if not self.path.is_dir():
            raise UserError(f"data.path={self.path} must be a folder, but it does not exist.")
        self._rows = list(self._read())
        if not self._rows:
            raise UserError(f"data.path={self.path}: its metadata names no clip.")
        facts = [
            (row.id, row.split, row.reference, row.attributes, stat.st_size, stat.st_mtime_ns)
            for row in self._rows
            if isinstance(row.audio, Path)
            for stat in [row.audio.stat()]
        ]
        return f"folder|{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}", len(self._rows)

    def rows(self) -> Iterator[Row]:
        """Give the rows split by split."""
        for split in SPLITS:
            yield from (row for row in self._rows if row.split == split)

    def _read(self) -> Iterator[Row]:
        metadata = _metadata_of(self.path)
        if metadata is not None:
            yield from self._rows_of(metadata, None)
            return
        folders = [
            (folder, _SPLIT_NAMES[folder.name])
            for folder in sorted(self.path.iterdir())
            if folder.is_dir() and folder.name in _SPLIT_NAMES
        ]
        found = [
            (metadata, split) for folder, split in folders if (metadata := _metadata_of(folder)) is not None
        ]
        if not found:
            raise UserError(
                f"data.path={self.path} holds no {', '.join(_METADATA)}, nor do its folders train, validation, "
                "test. Write a metadata.csv with the columns file_name and "
                f"{self.text_column}, one line a clip."
            )
        for metadata, split in found:
            yield from self._rows_of(metadata, split)

    def _rows_of(self, metadata: Path, split: str | None) -> Iterator[Row]:
        records = _records(metadata)
        if not records:
            return
        columns = list(records[0])
        for column, setting in (("file_name", "the metadata"), (self.text_column, "data.text_column")):
            if column not in columns:
                change = "" if column == "file_name" else f" Set {setting} to one of its columns."
                raise UserError(
                    f"{metadata} has no column {column!r}.{did_you_mean(column, columns)}{change}"
                )
        missing: list[str] = []
        rows: list[Row] = []
        seen: set[str] = set()
        for number, record in enumerate(records, 1):
            name = str(record["file_name"] or "")
            file = (metadata.parent / name).resolve()
            if not name or not file.is_relative_to(self.path.resolve()):
                raise UserError(
                    f"{metadata}, clip {number}: file_name={name!r} must be a file inside {self.path}."
                )
            if not file.is_file():
                missing.append(name)
                continue
            clip_id = file.relative_to(self.path.resolve()).as_posix()
            if clip_id in seen:
                raise UserError(f"{metadata}, clip {number}: file_name={name!r} is named twice.")
            seen.add(clip_id)
            text = record[self.text_column]
            rows.append(
                Row(
                    id=clip_id,
                    split=split or self._split_of(record, name, metadata),
                    audio=file,
                    reference="" if text is None else str(text),
                    attributes={
                        key: str(record[key]) for key in _ATTRIBUTES if record.get(key) not in (None, "")
                    },
                )
            )
        if missing:
            raise UserError(
                f"{metadata} names {len(missing)} of {len(records)} files that are not there: "
                f"{', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}."
            )
        yield from rows

    def _split_of(self, record: dict[str, Any], name: str, metadata: Path) -> str:
        if record.get("split"):
            split = _SPLIT_NAMES.get(str(record["split"]).lower())
            if split is None:
                raise UserError(
                    f"{metadata}: split={record['split']!r} of {name} must be one of {', '.join(SPLITS)}."
                )
            return split
        parts = Path(name).parts
        if len(parts) > 1 and parts[0] in _SPLIT_NAMES:
            return _SPLIT_NAMES[parts[0]]
        draw = random.Random(f"{self.split_seed}|{name}").random()
        if draw < self.test_share:
            return "test"
        return "validation" if draw < self.test_share + self.validation_share else "train"


def _metadata_of(folder: Path) -> Path | None:
    return next((folder / name for name in _METADATA if (folder / name).is_file()), None)


def _records(metadata: Path) -> list[dict[str, Any]]:
    """Read a metadata file whole.

    Raises:
        UserError: It can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if metadata.suffix == ".parquet":
            records: list[dict[str, Any]] = pq.read_table(metadata).to_pylist()
            return records
        with metadata.open(encoding="utf-8-sig", newline="") as file:
            if metadata.suffix == ".jsonl":
                return [json.loads(line) for line in file if line.strip()]
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error, pa.ArrowInvalid) as error:
        raise UserError(f"{metadata} can't be read: {error}") from error
