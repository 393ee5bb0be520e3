"""The parquet files of a generated corpus: made row by row, encoded and written in threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar

_Row = TypeVar("_Row")


def write_split(
    rows: Sequence[_Row],
    folder: Path,
    split: str,
    schema: Any,
    start: Callable[[_Row], Future[dict[str, Any]]],
    threads: Executor,
    rows_per_shard: int,
    rows_per_group: int,
) -> Iterator[_Row]:
    """Write a split as `SPLIT-NNNNN-of-NNNNN.parquet`.

    Args:
        rows: what to write, in this order.
        folder: where to; it exists.
        split: what the files' names begin with.
        schema: Arrow's schema of the files.
        start: begins with one row, in the order of the rows, and promises its record.
        threads: write the files. They begin with what they are given first, as both executors of
            `concurrent.futures` do, or a writer would wait for records that wait for it.
        rows_per_shard: rows of a file at most.
        rows_per_group: rows of a row group at most; two groups are in memory at a time.

    Yields:
        Each row, once it is begun.

    Raises:
        OSError: when the folder cannot be written.
    """
    num_shards = -(-len(rows) // rows_per_shard)
    for shard in range(num_shards):
        first, last = (len(rows) * (shard + more) // num_shards for more in (0, 1))
        file = folder / f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
        yield from _write_shard(rows[first:last], file, schema, start, threads, rows_per_group)


def _write_shard(
    rows: Sequence[_Row],
    file: Path,
    schema: Any,
    start: Callable[[_Row], Future[dict[str, Any]]],
    threads: Executor,
    rows_per_group: int,
) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Audio hardly compresses, and statistics would hold whole clips.
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(file, schema, **options) as writer:

        def write(records: list[Future[dict[str, Any]]]) -> None:
            table = pa.Table.from_pylist([record.result() for record in records], schema=schema)
            writer.write_table(table, row_group_size=rows_per_group)

        written: Future[None] | None = None
        for first in range(0, len(rows), rows_per_group):
            records = []
            for row in rows[first : first + rows_per_group]:
                records.append(start(row))
                yield row
            if written is not None:
                written.result()
            written = threads.submit(write, records)
        if written is not None:
            written.result()
