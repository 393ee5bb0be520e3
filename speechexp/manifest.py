"""The manifest: a line for each clip of a prepared data set, in memory-mapped columns."""

import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

SPLITS = ("train", "validation", "test")
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One clip as its source gives it.

    Attributes:
        id: Unique within the data set.
        split: ``train``, ``validation`` or ``test``.
        audio: An encoded file's bytes, or its path.
        reference: The label as it stands in the source.
        attributes: Columns to break figures down by.
        stretch: What is taken of the audio, from and to, in seconds; None for all of it.
        channel: The only one that is taken, from 1; None for their mean.
    """

    id: str
    split: str
    audio: bytes | Path
    reference: str
    attributes: dict[str, str] = field(default_factory=dict)
    stretch: tuple[float, float] | None = None
    channel: int | None = None


@dataclass(frozen=True)
class Drop:
    """A clip that is left out, and why."""

    id: str
    split: str
    reason: str
    detail: str = ""


class Pages:
    """A file that is mapped for reading, and can give its pages back.

    Pages that were given back stay in the kernel's cache and come again when they are read, but count as this
    process's memory no more.

    Args:
        path: Of the file.

    Raises:
        OSError: It can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            empty = path.stat().st_size == 0  # which can't be mapped
            self._mapping = None if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.content: mmap.mmap | bytes = self._mapping or b""

    def release(self) -> None:
        """Give all pages back."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)


class Column(Sequence[T]):
    """A column that is read value by value, and as a whole block by block.

    Args:
        values: An Arrow ``ChunkedArray``.
        convert: Makes a value of what Arrow gives.
    """

    def __init__(self, values: Any, convert: Callable[[Any], T]) -> None:
        self._values = values
        self._convert = convert

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._convert(value) for value in self._values[index].to_pylist()]
        return self._convert(self._values[int(index)].as_py())

    def __iter__(self) -> Iterator[T]:
        for block in self._values.iterchunks():
            yield from map(self._convert, block.to_pylist())


class Manifest:
    """Clips in columns: millions of them cost what is read of them.

    Args:
        table: An Arrow table of `manifest_schema`.
        pages: Where it lies.

    Attributes:
        ids: Unique ids.
        references: Labels as the source gives them.
        attributes: Columns to break figures down by.
        splits: ``(clips,)`` int8, places in `SPLITS`.
        offsets: ``(clips,)`` int64, a clip's first sample in the audio file.
        num_samples: ``(clips,)`` int64.
        peaks: ``(clips,)`` float32, largest absolute sample, full scale 1.0.
        digests: Hash of each clip's audio and label.
    """

    def __init__(self, table: Any, pages: Pages) -> None:
        self.table = table
        self.pages = pages
        self.ids: Column[str] = Column(table.column("id"), str)
        self.references: Column[str] = Column(table.column("reference"), str)
        self.attributes: Column[dict[str, str]] = Column(table.column("attributes"), dict)
        self.digests: Column[bytes] = Column(table.column("digest"), bytes)
        self.splits: npt.NDArray[np.int8] = table.column("split").to_numpy()
        self.num_samples: npt.NDArray[np.int64] = table.column("num_samples").to_numpy()
        self.peaks: npt.NDArray[np.float32] = table.column("peak").to_numpy()
        self.offsets: npt.NDArray[np.int64] = np.cumsum(self.num_samples) - self.num_samples

    def __len__(self) -> int:
        return len(self.num_samples)

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Open a manifest file, memory-mapped.

        Raises:
            OSError: It is missing.
            ValueError: It is damaged.
        """
        return cls(*open_table(path))


def manifest_schema() -> Any:
    """Return the Arrow schema of a manifest file."""
    import pyarrow as pa

    return pa.schema(
        {
            "id": pa.string(),
            "split": pa.int8(),
            "reference": pa.string(),
            "attributes": pa.map_(pa.string(), pa.string()),
            "num_samples": pa.int64(),
            "peak": pa.float32(),
            "digest": pa.binary(),  # of the audio and the label
        }
    )


def open_table(path: Path) -> tuple[Any, Pages]:
    """Open an Arrow file, memory-mapped.

    Raises:
        OSError: It is missing.
        ValueError: It is damaged.
    """
    import pyarrow as pa

    pages = Pages(path)
    return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(pages.content))).read_all(), pages


def summarise(drops: Iterable[Drop]) -> Iterator[tuple[str, str, int]]:
    """Yield how many clips of each split were dropped for each reason."""
    counts = Counter((drop.split, drop.reason) for drop in drops)
    for (split, reason), count in sorted(
        counts.items(), key=lambda item: (SPLITS.index(item[0][0]), -item[1])
    ):
        yield split, reason, count
