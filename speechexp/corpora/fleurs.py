"""FLEURS (Conneau et al. 2022): from the hub, or from a local copy in any of its layouts."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechexp.data import AudioData
from speechexp.errors import UserError, read_errors
from speechexp.hub import dataset_from_hub
from speechexp.manifest import SPLITS, Row
from speechexp.paths import expand, require_folder
from speechexp.prepare import Progress
from speechexp.recognition import SpeechRecognition

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
        self.path: Path | None = expand(path) if path else None
        self.text_column = text_column
        self._files: dict[str, list[Path]] = {}
        self._splits: dict[str, Any] = {}

    def describe(self) -> str:
        """Say where the audio comes from."""
        return f"{self.path or self.hub_id} ({self.config})"

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Find the local files, or download from the hub."""
        if self.path is None:
            return self._open_splits(dataset_from_hub(self.hub_id, self.config, self.revision))
        require_folder("data.path", self.path, "a copy of FLEURS")
        if (self.path / "dataset_dict.json").is_file():
            return self._open_splits(self._saved(self.path))
        self._files = self._local_files(self.path)
        rows = sum(_num_rows(file) for files in self._files.values() for file in files)
        return self._local_fingerprint(), rows

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Give the rows from the ``start``-th on, split by split; audio stays encoded.

        Those before are read, for their ids, but not decoded.
        """
        return itertools.islice(self._rows(), start, None)

    def _rows(self) -> Iterator[Row]:
        for split in SPLITS:
            seen: dict[str, int] = {}
            for record in self._records(split):
                content, name = _encoded(record["audio"])
                stem = Path(str(record.get("path") or name)).stem or str(record["id"])
                clip_id = f"{record['id']}-{stem}" if stem != str(record["id"]) else stem
                seen[clip_id] = seen.get(clip_id, 0) + 1
                if seen[clip_id] > 1:
                    clip_id += f"#{seen[clip_id]}"
                attributes = {"gender": _gender(record["gender"])} if record.get("gender") is not None else {}
                yield Row(clip_id, split, content, record[self.text_column] or "", attributes)

    def _records(self, split: str) -> Iterator[dict[str, Any]]:
        if self._splits:
            with read_errors(self.describe()):
                yield from self._splits.get(split, ())
            return
        import pyarrow.parquet as pq

        for file in self._files.get(split, ()):
            with read_errors(str(file)):
                parquet = pq.ParquetFile(file, memory_map=True)
                wanted = {"id", "path", "audio", "gender", self.text_column}
                columns = [name for name in parquet.schema_arrow.names if name in wanted]
                for batch in parquet.iter_batches(batch_size=16, columns=columns):
                    yield from batch.to_pylist()

    # ---------------------------------------------------------------------------------------- datasets

    def _open_splits(self, loaded: dict[str, Any]) -> tuple[str, int]:
        import datasets

        if not set(loaded) & set(SPLITS):
            raise UserError(
                f"{self.describe()} must have the splits {', '.join(SPLITS)}, but has {', '.join(loaded)}."
            )
        self._splits = {}
        for split in SPLITS:
            if split in loaded:
                self._check_columns(loaded[split].features.arrow_schema, f"{self.describe()}, {split}")
                with read_errors(self.describe()):
                    self._splits[split] = loaded[split].cast_column("audio", datasets.Audio(decode=False))
        fingerprints = [rows._fingerprint for rows in self._splits.values()]
        source = f"hub|{self.hub_id}|{self.config}|{self.text_column}|{fingerprints}"
        return source, sum(map(len, self._splits.values()))

    def _saved(self, path: Path) -> dict[str, Any]:
        import datasets

        with read_errors(f"data.path={path}"):
            return dict(datasets.load_from_disk(str(path)))

    # ------------------------------------------------------------------------------------------ local

    def _local_files(self, path: Path) -> dict[str, list[Path]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if (path / "state.json").is_file():
            raise UserError(
                f"data.path={path} holds one data set that save_to_disk wrote, but its splits are needed. "
                "Put them into a DatasetDict with train, validation and test, and save that."
            )
        for layout in _LAYOUTS:
            files = {
                split: sorted(path.glob(layout.format(config=self.config, split=split))) for split in SPLITS
            }
            if any(files.values()):
                for file in (file for found in files.values() for file in found):
                    try:
                        self._check_columns(pq.read_schema(file), str(file))
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

    def _check_columns(self, schema: Any, where: str) -> None:
        """Raise unless an Arrow schema has FLEURS's columns, of its types."""
        names = schema.names
        for column in ("id", "audio", self.text_column):
            if column not in names:
                setting = (
                    "data.text_column must be a column"
                    if column == self.text_column
                    else "It must have FLEURS's columns"
                )
                raise UserError(f"{where} has no column {column!r}. {setting}; there is: {', '.join(names)}.")
        text, audio = schema.field(self.text_column).type, schema.field("audio").type
        if not _is_text(text):
            texts = ", ".join(field.name for field in schema if _is_text(field.type))
            raise UserError(
                f"data.text_column={self.text_column} must be a column of text, but is {text} in {where}. "
                f"There is: {texts}."
            )
        parts = {field.name for field in audio} if str(audio).startswith("struct") else set()
        if not parts & {"bytes", "path"} and not _is_text(audio) and "binary" not in str(audio):
            raise UserError(
                f"{where}: its column audio must hold encoded files, alone or as {{bytes, path}}, but is {audio}."
            )

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


def _is_text(kind: Any) -> bool:
    """Tell whether an Arrow type is text, or has no value that isn't null."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind))


def _encoded(audio: Any) -> tuple[bytes | Path, str]:
    """Return a cell's encoded file, or its path, and its name; without either it has no bytes."""
    name = ""
    if isinstance(audio, dict):
        name = audio.get("path") or ""
        audio = name if audio.get("bytes") is None else audio["bytes"]
    elif isinstance(audio, str):
        name = audio
    if isinstance(audio, bytes):
        return audio, name
    return (Path(name) if name else b""), name


def _gender(value: int | float | str) -> str:
    """Return FLEURS's class label as a word."""
    return _GENDERS[int(value)] if value in (0, 1, 2) else str(value)
