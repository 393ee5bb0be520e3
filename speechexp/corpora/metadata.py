"""The metadata of a folder of recordings: metadata.csv, .jsonl or .parquet."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechexp.errors import UserError, read_errors

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def metadata_in(folder: Path) -> Path | None:
    """Return a folder's metadata file, if it has one."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def records_of(metadata: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read a metadata file whole: for each clip its place, as an error names it, and its columns.

    Raises:
        UserError: It can't be read.
    """
    with read_errors(str(metadata)):
        if metadata.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(metadata).to_pylist()
            return [(f"{metadata}, clip {number}", row) for number, row in enumerate(rows, 1)]
        try:
            with metadata.open(encoding="utf-8-sig", newline="") as file:
                lines = list(file)
        except UnicodeDecodeError as error:
            raise UserError(f"{metadata} can't be read: it must be UTF-8. Save it as UTF-8.") from error
        return list((_json_records if metadata.suffix == ".jsonl" else _csv_records)(metadata, lines))


def _json_records(metadata: Path, lines: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    numbered = ((line, text) for line, text in enumerate(lines, 1) if text.strip())
    for clip, (line, text) in enumerate(numbered, 1):
        where = f"{metadata}, line {line}, clip {clip}"
        with read_errors(where):
            record = json.loads(text)
        if not isinstance(record, dict):
            raise UserError(
                f'{where} must be an object such as {{"file_name": …}}, but is {text.strip()[:40]}.'
            )
        yield where, record


def _csv_records(metadata: Path, lines: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.reader(lines, strict=True)  # a quote that is not closed would swallow the lines behind it
    try:
        header = next(reader, [])
        other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
        if other:
            raise UserError(
                f"{metadata} is separated by {other!r}. Save it with commas, its texts in quotes."
            )
        twice = {name for name in header if name and header.count(name) > 1}
        if twice:
            raise UserError(f"{metadata} has the column {', '.join(sorted(twice))} more than once.")
        for clip, cells in enumerate((row for row in reader if row), 1):
            where = f"{metadata}, line {reader.line_num}, clip {clip}"
            if len(cells) != len(header):
                hint = "Put a text that holds a comma in quotes." if len(cells) > len(header) else ""
                raise UserError(
                    f"{where} must have {len(header)} columns, as its first line has, but has {len(cells)}: "
                    f"{','.join(cells)[:60]}. {hint}".rstrip()
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{metadata}, line {reader.line_num} can't be read: {error}. Is a quote left open there, or before?"
        ) from error
