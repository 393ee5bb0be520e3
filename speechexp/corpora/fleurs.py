"""FLEURS (Conneau et al. 2022): from the hub, or from a local copy in any of its layouts."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechexp.data import AudioData, Progress
from speechexp.errors import UserError
from speechexp.hub import dataset_from_hub
from speechexp.manifest import SPLITS, Row
from speechexp.task import SpeechRecognition

# In the order of the hub's: {config} is the language. The first two are the hub's own, newer and older.
_LAYOUTS = (
    "parquet-data/{config}/{split}-*.parquet",
    "{config}/{split}/*.parquet",
    "{config}/{split}-*.parquet",
    "data/{split}-*.parquet",
    "{split}-*.parquet",
    "{split}/*.parquet",
)
_GENDERS = ["male", "female", "other"]


class Fleurs(AudioData):
    """FLEURS, or any data set with its columns.

    Args:
        task: Says what labels mean.
        name: The data set's id on the hub.
        config: The language, such as ``es_419``.
        revision: A branch, tag or commit of the hub's repository.
        path: A local copy that is used instead of the hub: parquet, or a ``save_to_disk`` folder.
        text_column: ``transcription`` or ``raw_transcription``.
        loading: What every data set has: see `AudioData`.
    """

    def __init__(
        self,
        task: SpeechRecognition,
        name: str = "google/fleurs",
        config: str = "es_419",
        revision: str | None = None,
        path: str | None = None,
        text_column: str = "transcription",
        **loading: Any,
    ) -> None:
        super().__init__(task, **loading)
        self.hub_id = name
        self.config = config
        self.revision = revision
        self.path: Path | None = Path(path).expanduser() if path else None
        self.text_column = text_column
        self._files: dict[str, list[Path]] = {}
        self._hub: dict[str, Any] = {}

    def describe(self) -> str:
        """Say where the audio comes from."""
        return f"{self.path or self.hub_id} ({self.config})"

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Find the local files, or download from the hub."""
        if self.path is not None and not (self.path / "dataset_dict.json").is_file():
            self._files = self._local_files(self.path)
            return self._local_fingerprint(), sum(
                _num_rows(file) for files in self._files.values() for file in files
            )
        self._hub = dataset_from_hub(self.hub_id, self.config, self.revision, self.path, SPLITS)
        for split, rows in self._hub.items():
            self._check_columns(rows.column_names, f"{self.describe()}, {split}")
        fingerprints = [rows._fingerprint for rows in self._hub.values()]
        return f"hub|{self.hub_id}|{self.config}|{self.text_column}|{fingerprints}", sum(
            map(len, self._hub.values())
        )

    def rows(self) -> Iterator[Row]:
        """Give the rows split by split; audio stays encoded."""
        for split in SPLITS:
            seen: dict[str, int] = {}
            for record in self._records(split):
                audio = record["audio"]
                stem = Path(record.get("path") or audio.get("path") or "").stem or str(record["id"])
                clip_id = f"{record['id']}-{stem}" if stem != str(record["id"]) else stem
                seen[clip_id] = seen.get(clip_id, 0) + 1
                if seen[clip_id] > 1:
                    clip_id += f"#{seen[clip_id]}"
                content = audio["bytes"] if audio.get("bytes") is not None else Path(audio["path"] or "")
                attributes = {"gender": _gender(record["gender"])} if record.get("gender") is not None else {}
                yield Row(clip_id, split, content, record[self.text_column] or "", attributes)

    def _records(self, split: str) -> Iterator[dict[str, Any]]:
        if self._hub:
            yield from self._hub.get(split, ())
            return
        import pyarrow.parquet as pq

        for file in self._files.get(split, ()):
            parquet = pq.ParquetFile(file)
            wanted = {"id", "path", "audio", "gender", self.text_column}
            columns = [name for name in parquet.schema_arrow.names if name in wanted]
            for batch in parquet.iter_batches(batch_size=64, columns=columns):
                yield from batch.to_pylist()

    # ------------------------------------------------------------------------------------------ local

    def _local_files(self, path: Path) -> dict[str, list[Path]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not path.is_dir():
            raise UserError(
                f"data.path={path} must be a folder with a copy of FLEURS, but it does not exist."
            )
        for layout in _LAYOUTS:
            files = {
                split: sorted(path.glob(layout.format(config=self.config, split=split))) for split in SPLITS
            }
            if any(files.values()):
                for file in (file for found in files.values() for file in found):
                    try:
                        self._check_columns(pq.read_schema(file).names, str(file))
                    except (pa.ArrowInvalid, OSError) as error:
                        raise UserError(f"{file} is not a parquet file: {error}") from error
                return files
        looked = "\n".join(
            f"  {path / layout.format(config=self.config, split='train')}" for layout in _LAYOUTS
        )
        there = sorted({file.parent.relative_to(path).as_posix() for file in path.rglob("*.parquet")})
        hint = f" There is parquet in: {', '.join(there[:8])}; see data.config." if there else ""
        raise UserError(
            f"data.path={path} holds no parquet of data.config={self.config}.{hint} Looked for\n{looked}"
        )

    def _check_columns(self, names: list[str], where: str) -> None:
        for column in ("id", "audio", self.text_column):
            if column not in names:
                setting = (
                    "data.text_column must be a column"
                    if column == self.text_column
                    else "It must have FLEURS's columns"
                )
                raise UserError(f"{where} has no column {column!r}. {setting}; there is: {', '.join(names)}.")

    def _local_fingerprint(self) -> str:
        """Hash what the files are: name, size and time of change, not their gigabytes."""
        facts = [
            (split, file.name, file.stat().st_size, file.stat().st_mtime_ns)
            for split, files in self._files.items()
            for file in files
        ]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return f"parquet|{self.config}|{self.text_column}|{digest}"


def _num_rows(file: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)


def _gender(value: int | str) -> str:
    """Return FLEURS's class label as a word."""
    if isinstance(value, str):
        return value
    return _GENDERS[value] if 0 <= value < len(_GENDERS) else str(value)
