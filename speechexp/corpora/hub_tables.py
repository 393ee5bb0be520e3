"""Data sets that are tables: from the hub, or from a local copy in any of its layouts."""

import hashlib
import itertools
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechexp.data import AudioData
from speechexp.errors import UserError, read_errors
from speechexp.hub import dataset_from_hub
from speechexp.manifest import SPLITS, Row
from speechexp.paths import expand, require_folder
from speechexp.prepare import Progress
from speechexp.task import Task


class HubTables(AudioData):
    """A data set of one row a clip, its audio in the column ``audio``; a subclass knows the other columns.

    Args:
        task: Says what labels mean.
        name: The data set's id on the hub.
        config: The part of it.
        revision: A branch, tag or commit of the hub's repository.
        path: A local copy that is used instead of the hub: parquet, or a ``save_to_disk`` folder.
        loading: What every data set has: see `AudioData`.
    """

    title: str  # as messages name the data set
    stand_in: str  # what works without a network
    layouts: Sequence[str]  # of local parquet, the likeliest first, with {config} and {split}
    batch_rows = 16  # read at a time

    def __init__(
        self,
        task: Task,
        name: str,
        config: str,
        revision: str | None = None,
        path: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(task, **loading)
        self.hub_id = name
        self.config = config
        self.revision = revision
        self.path: Path | None = expand(path) if path else None
        # By the source's own name of a split; only one of them holds something.
        self._files: dict[str, list[Path]] = {}
        self._tables: dict[str, Any] = {}

    # ----------------------------------------------------------------------------------- of a subclass

    @abstractmethod
    def read_columns(self) -> set[str]:
        """Return the columns that rows are made of."""

    @abstractmethod
    def check_columns(self, schema: Any, where: str) -> None:
        """Raise unless an Arrow schema has the columns, of their types.

        Raises:
            UserError: It names ``where``, the column and what was expected.
        """

    @abstractmethod
    def row(self, record: dict[str, Any], split: str) -> Row:
        """Make a row of a record, which has no audio if the row is passed over.

        To an id that its split has already, ``#2`` and so on is added.
        """

    @abstractmethod
    def reading(self) -> str:
        """Return the settings that decide, beside the source, what rows hold."""

    def opened(self) -> None:
        """Look at which splits the source has, where that matters."""

    def sources(self, split: str) -> tuple[str, ...]:
        """Return by which names a split may go in the source."""
        return (split,)

    # ------------------------------------------------------------------------------------- for AudioData

    def describe(self) -> str:
        """Say where the audio comes from."""
        return f"{self.path or self.hub_id} ({self.config})"

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Find the local files, or download from the hub."""
        if self.path is None:
            self._open_tables(dataset_from_hub(self.hub_id, self.config, self.revision, self.stand_in))
        else:
            require_folder("data.path", self.path, f"a copy of {self.title}")
            if (self.path / "dataset_dict.json").is_file():
                self._open_tables(self._saved(self.path))
            else:
                self._files = self._local_files(self.path)
        self.opened()
        if self._tables:
            fingerprints = [table._fingerprint for table in self._tables.values()]
            key = f"hub|{self.hub_id}|{self.config}|{self.reading()}|{fingerprints}"
            return key, sum(map(len, self._tables.values()))
        rows = sum(_num_rows(file) for files in self._files.values() for file in files)
        return self._local_fingerprint(), rows

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Give the rows from the ``start``-th on, split by split; audio stays encoded.

        Those before are read for their ids; files that hold no others, without their audio.
        """
        return itertools.islice(self._rows(start), start, None)

    def has_source(self, source: str) -> bool:
        """Tell whether the opened source has a split of that name."""
        return bool(self._files.get(source)) or source in self._tables

    def _rows(self, start: int) -> Iterator[Row]:
        done = 0
        for split in SPLITS:
            seen: Counter[str] = Counter()
            for source in self.sources(split):
                for record in self._records(source, start - done):
                    row = self.row(record, split)
                    seen[row.id] += 1
                    yield row if seen[row.id] == 1 else replace(row, id=f"{row.id}#{seen[row.id]}")
                    done += 1

    def _records(self, source: str, passed_over: int) -> Iterator[dict[str, Any]]:
        if self._tables:
            with read_errors(self.describe()):
                yield from self._tables.get(source, ())
            return
        import pyarrow.parquet as pq

        wanted = self.read_columns()
        for file in self._files.get(source, ()):
            with read_errors(str(file)):
                parquet = pq.ParquetFile(file, memory_map=True)
                columns = [name for name in parquet.schema_arrow.names if name in wanted]
                if parquet.metadata.num_rows <= passed_over:  # some ids hold the audio's path
                    columns[columns.index("audio")] = "audio.path"
                passed_over -= parquet.metadata.num_rows
                for batch in parquet.iter_batches(batch_size=self.batch_rows, columns=columns):
                    yield from batch.to_pylist()

    def _every_source(self) -> list[str]:
        return [source for split in SPLITS for source in self.sources(split)]

    # ---------------------------------------------------------------------------------------- datasets

    def _open_tables(self, loaded: dict[str, Any]) -> None:
        import datasets

        sources = self._every_source()
        if not set(loaded) & set(sources):
            raise UserError(
                f"{self.describe()} must have the splits {', '.join(sources)}, but has {', '.join(loaded)}."
            )
        self._tables = {}
        for source in sources:
            if source in loaded:
                self.check_columns(loaded[source].features.arrow_schema, f"{self.describe()}, {source}")
                with read_errors(self.describe()):
                    self._tables[source] = loaded[source].cast_column("audio", datasets.Audio(decode=False))

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
        for layout in self.layouts:
            files = {
                source: sorted(path.glob(layout.format(config=self.config, split=source)))
                for source in self._every_source()
            }
            if any(files.values()):
                for file in itertools.chain.from_iterable(files.values()):
                    try:
                        self.check_columns(pq.read_schema(file), str(file))
                    except (pa.ArrowInvalid, OSError) as error:
                        raise UserError(f"{file} is not a parquet file: {error}") from error
                return files
        raise UserError(self.nothing_in(path))

    def nothing_in(self, path: Path) -> str:
        """Say that a folder holds none of the layouts."""
        train = self.sources("train")
        name = train[0] if len(train) == 1 else f"{{{','.join(train)}}}"
        looked = "\n".join(
            f"  {path / layout.format(config=self.config, split=name)}" for layout in self.layouts
        )
        there = sorted({file.parent.relative_to(path).as_posix() for file in path.rglob("*.parquet")})
        hint = f" There is parquet in: {', '.join(there[:8])}; see data.config." if there else ""
        return f"data.path={path} holds no parquet of data.config={self.config}.{hint} Looked for\n{looked}"

    def _local_fingerprint(self) -> str:
        """Hash what the files are: name, size and time of change, not their gigabytes."""
        facts = [
            (source, file.name, file.stat().st_size, file.stat().st_mtime_ns)
            for source, files in self._files.items()
            for file in files
        ]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return f"parquet|{self.config}|{self.reading()}|{digest}"

    # ---------------------------------------------------------------------------------------- columns

    def require_columns(self, schema: Any, where: str, *columns: str) -> None:
        """Raise unless an Arrow schema has some columns."""
        for column in columns:
            if column not in schema.names:
                raise UserError(
                    f"{where} has no column {column!r}. It must have {self.title}'s columns; "
                    f"there is: {', '.join(schema.names)}."
                )

    def require_audio(self, schema: Any, where: str) -> None:
        """Raise unless the column ``audio`` can hold encoded files."""
        audio = schema.field("audio").type
        parts = {field.name for field in audio} if str(audio).startswith("struct") else set()
        if not parts & {"bytes", "path"} and not is_text(audio) and "binary" not in str(audio):
            raise UserError(
                f"{where}: its column audio must hold encoded files, alone or as {{bytes, path}}, but is {audio}."
            )


def _num_rows(file: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)


def is_text(kind: Any) -> bool:
    """Tell whether an Arrow type is text, or has no value that isn't null."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind))


def encoded(audio: Any) -> tuple[bytes | Path, str]:
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
