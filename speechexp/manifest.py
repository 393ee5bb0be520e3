"""The manifest: a line for each clip of a prepared data set, in columns."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Row:
    """One clip as its source gives it.

    Attributes:
        id: Unique within the data set.
        split: ``train``, ``validation`` or ``test``.
        audio: An encoded file's bytes, or its path.
        reference: The label as it stands in the source.
        attributes: Columns to break figures down by.
    """

    id: str
    split: str
    audio: bytes | Path
    reference: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """A clip that is left out, and why."""

    id: str
    split: str
    reason: str
    detail: str = ""


@dataclass
class Manifest:
    """Clips in columns, all of one length.

    Attributes:
        ids: Unique ids.
        splits: Names of splits.
        offsets: First sample in the audio file.
        num_samples: Length in samples.
        peaks: Largest absolute sample, full scale 1.0.
        references: Labels as the source gives them.
        attributes: Columns to break figures down by.
    """

    ids: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    offsets: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    num_samples: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    peaks: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    references: list[str] = field(default_factory=list)
    attributes: list[dict[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write the manifest as parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            "id": pa.array(self.ids, pa.string()),
            "split": pa.array(self.splits, pa.string()),
            "offset": pa.array(self.offsets),
            "num_samples": pa.array(self.num_samples),
            "peak": pa.array(self.peaks),
            "reference": pa.array(self.references, pa.string()),
            "attributes": pa.array(
                [list(each.items()) for each in self.attributes], pa.map_(pa.string(), pa.string())
            ),
        }
        pq.write_table(pa.table(columns), path)

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read a manifest that `save` wrote."""
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        column = table.column
        return cls(
            ids=column("id").to_pylist(),
            splits=column("split").to_pylist(),
            offsets=column("offset").to_numpy(),
            num_samples=column("num_samples").to_numpy(),
            peaks=column("peak").to_numpy(),
            references=column("reference").to_pylist(),
            attributes=[dict(each) for each in column("attributes").to_pylist()],
        )

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Row],
        num_samples: Sequence[int],
        peaks: Sequence[float],
    ) -> "Manifest":
        """Build the manifest of rows whose audio lies one behind the other."""
        lengths = np.asarray(num_samples, dtype=np.int64)
        return cls(
            ids=[row.id for row in rows],
            splits=[row.split for row in rows],
            offsets=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
            if len(rows)
            else np.zeros(0, np.int64),
            num_samples=lengths,
            peaks=np.asarray(peaks, dtype=np.float32),
            references=[row.reference for row in rows],
            attributes=[row.attributes for row in rows],
        )


def summarise(drops: Iterable[Drop]) -> Iterator[tuple[str, str, int]]:
    """Yield how many clips of each split were dropped for each reason."""
    counts = Counter((drop.split, drop.reason) for drop in drops)
    for (split, reason), count in sorted(
        counts.items(), key=lambda item: (SPLITS.index(item[0][0]), -item[1])
    ):
        yield split, reason, count
