"""The prepared cache: every clip decoded once, into one file of int16 beside its memory-mapped manifest."""

import hashlib
import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from rich.markup import escape

from speechexp.audio import AudioError, clip_seconds, decode, decoding_bytes
from speechexp.console import gigabytes, say, say_row
from speechexp.errors import UserError
from speechexp.manifest import SPLITS, Drop, Manifest, Pages, Row, manifest_schema, open_table
from speechexp.paths import write_json

Progress = Callable[[str, int, int | None], None]

_FORMAT = 3  # changes when decoding or the files below do
_PART_ROWS, _PART_BYTES = 512, 128 << 20  # what a kill can lose
_BATCH_ROWS = 1 << 16  # of the manifest's Arrow file
_DECODING_BYTES = 1 << 30  # memory for clips under way, unless a single one needs more


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready for training.

    Attributes:
        folder: Where it lies.
        manifest: Every clip that could be decoded.
        unreadable: Every clip that could not.
        fingerprint: Hash of audio and labels: equal figures need equal data.
    """

    folder: Path
    manifest: Manifest
    unreadable: list[Drop]
    fingerprint: str
    _audio: IO[bytes]

    def samples(self, index: int, first: int = 0, count: int | None = None) -> npt.NDArray[np.int16]:
        """Read a clip's audio, or a stretch of it, ``(samples,)`` int16.

        It is read by its place in the file. A map of the file would fetch more around each clip, and all that was
        read would count as this process's memory.

        Args:
            index: The clip's place in the manifest.
            first: The first sample of the stretch.
            count: Its samples; None for all that follow.

        Raises:
            OSError: The file ends before it.
        """
        start = int(self.manifest.offsets[index]) + first
        count = int(self.manifest.num_samples[index]) - first if count is None else count
        content = os.pread(self._audio.fileno(), 2 * count, 2 * start)
        if len(content) != 2 * count:
            raise OSError(f"{self._audio.name} ends within the clip {self.manifest.ids[index]}.")
        return np.frombuffer(content, np.int16)

    def __reduce__(self) -> Any:
        return load, (self.folder,)  # a process that loads batches opens the same files


class CacheError(UserError):
    """The cache can't be written."""


def default_cache_dir() -> Path:
    """Return ``$SPEECHEXP_CACHE``, else ``~/.cache/speechexp``."""
    return Path(os.environ.get("SPEECHEXP_CACHE") or "~/.cache/speechexp").expanduser()


def entry_folder(source: str, sample_rate: int, cache_dir: Path) -> Path:
    """Return where `prepare` puts its result."""
    key = hashlib.sha256(f"{_FORMAT}|{sample_rate}|{source}".encode()).hexdigest()[:16]
    return cache_dir / "prepared" / key


def prepare(
    source: str,
    rows: Callable[[int], Iterable[Row]],
    total: int | None,
    sample_rate: int,
    cache_dir: Path,
    progress: Progress,
    check: bool = False,
) -> Prepared:
    """Return the prepared form of a data set, from the cache if it is there.

    It is made beside and published by a rename, under a lock: two processes that want the same data make it
    once. A process that was killed is taken up where it was. An entry whose files were changed, or all of them
    if ``check`` is set, is compared with its checksums, and made again if it is damaged.

    Memory stays bounded whatever the number of clips and cores: about 1 GB for clips that are being decoded,
    or what a single longer clip needs.

    Args:
        source: What decides the content; a change of it makes a new cache entry.
        rows: Opens the source; gives its rows from the n-th on, always in one order.
        total: How many rows there are, where that is known.
        sample_rate: Of the result, in Hz.
        cache_dir: Holds ``prepared/<key>/``.
        progress: Told of what is under way: its name, how much is done, and of how much.
        check: Compare every clip with its checksum.

    Raises:
        UserError: The cache can't be written, or has too little room.
    """
    folder = entry_folder(source, sample_rate, cache_dir)
    if not check and (found := _load_whole(folder, progress)) is not None:
        return found
    with locked(folder):
        if (found := _load_whole(folder, progress, check)) is not None:
            return found
        _make(folder, rows, total, sample_rate, source, progress)
        return load(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that writes a cache entry.

    Raises:
        CacheError: It can't be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_suffix(".lock"))
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say_row("waiting", f"another process is preparing {folder}")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Say of an `OSError` that it is the cache that can't be written."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"The cache {cache} can't be written ({error.strerror or error}). "
            "Free some space there, or set data.cache_dir=DIR or SPEECHEXP_CACHE to another place."
        ) from error


# -------------------------------------------------------------------------------------------------- reading


def load(folder: Path) -> Prepared:
    """Open a published cache entry.

    Raises:
        OSError: A file of it is missing.
        ValueError: A file of it is damaged.
    """
    summary = _summary(folder)
    for name, (size, _) in summary["files"].items():
        found = (folder / name).stat().st_size
        if found != size:
            raise ValueError(f"{folder / name} must have {size} bytes, but has {found} instead.")
    return Prepared(
        folder=folder,
        manifest=Manifest.load(folder / "manifest.arrow"),
        unreadable=[Drop(**each) for each in summary["unreadable"]],
        fingerprint=summary["fingerprint"],
        _audio=(folder / "audio.int16").open("rb", buffering=0),
    )


def _summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    return content


def _stamp(file: Path) -> list[int]:
    """Return what changes when a file does: its size in bytes, and its time of change."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _load_whole(folder: Path, progress: Progress, check: bool = False) -> Prepared | None:
    """Open a cache entry; None if there is none, or not all of it."""
    try:
        prepared = load(folder)
        summary = _summary(folder)
        stamps = {name: _stamp(folder / name) for name in summary["files"]}
        if check or stamps != summary["files"]:
            _verify(prepared, progress)
        if stamps != summary["files"]:
            with suppress(OSError):  # a cache that is shared may not be ours to write
                write_json(folder / "prepared.json", summary | {"files": stamps})
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return prepared


def _verify(prepared: Prepared, progress: Progress) -> None:
    """Compare every clip with its checksum.

    Raises:
        ValueError: One differs.
    """
    manifest = prepared.manifest
    manifest.table.validate(full=True)
    if 2 * manifest.num_samples.sum() != (prepared.folder / "audio.int16").stat().st_size:
        raise ValueError(f"{prepared.folder}: the manifest is not that of its audio.")
    columns = zip(
        manifest.ids, manifest.references, manifest.attributes, manifest.digests, manifest.splits, strict=True
    )
    for index, (clip_id, reference, attributes, digest, split) in enumerate(columns):
        progress("checking", index + 1, len(manifest))
        row = Row(clip_id, SPLITS[split], b"", reference, attributes)
        if _digest(row, prepared.samples(index)) != digest:
            raise ValueError(f"{prepared.folder}: the clip {clip_id} is not what was prepared.")


def _digest(row: Row, audio: npt.NDArray[np.int16]) -> bytes:
    digest = hashlib.sha256(np.ascontiguousarray(audio).data)  # faster than others where the processor has it
    digest.update(json.dumps([row.id, row.split, row.reference, row.attributes]).encode())
    return digest.digest()[:16]


# --------------------------------------------------------------------------------------------------- making


def _make(
    folder: Path,
    rows: Callable[[int], Iterable[Row]],
    total: int | None,
    sample_rate: int,
    source: str,
    progress: Progress,
) -> None:
    partial = folder.with_suffix(".partial")
    try:
        with writing(folder.parent):
            parts = _Parts(partial)
        try:
            left = iter(rows(parts.rows))
            first = list(_first(left))
            _announce(first, parts, total, sample_rate)
            decoded = _decoded(itertools.chain(first, left), sample_rate)
            for done, (row, audio) in enumerate(decoded, parts.rows + 1):
                progress("decoding", done, total)
                with writing(folder.parent):
                    parts.add(row, audio)
            with writing(folder.parent):
                parts.flush()
        finally:
            with suppress(OSError):  # a full disk was met before
                parts.audio.close()
        with writing(folder.parent):
            _publish(folder, partial, source, sample_rate)
    except Exception as error:
        if not any(partial.glob("part-*.arrow")):
            shutil.rmtree(partial, ignore_errors=True)
        elif isinstance(error, UserError):
            raise type(error)(f"{error} What is done is kept, and the next start goes on from it.") from error
        raise


def _first(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield a few rows, and no more than memory takes."""
    size = 0
    for row in itertools.islice(rows, 64):
        yield row
        size += len(row.audio) if isinstance(row.audio, bytes) else 0
        if size >= _PART_BYTES:
            return


def _announce(rows: list[Row], parts: "_Parts", total: int | None, sample_rate: int) -> None:
    """Say how much room the audio takes, from the headers of the first clips that are left.

    Raises:
        CacheError: There is less.
    """
    known = [seconds for row in rows if (seconds := _seconds(row))]
    if not known or not total:
        return
    cache = parts.folder.parent
    needed = int(2 * sample_rate * sum(known) / len(known) * (total - parts.rows))
    free = shutil.disk_usage(cache).free
    room = f"The cache {cache} has {gigabytes(free)} free, but the audio takes about {gigabytes(needed)}."
    remedy = "Free some space there, or set data.cache_dir=DIR or SPEECHEXP_CACHE to another place."
    if needed > 2 * free:  # it is an estimate
        raise CacheError(f"{room} {remedy}")
    if needed > free:
        say(f"[yellow]{escape(room)} {remedy}[/yellow]")
    going_on = f", after {parts.rows:,} clips that are there already" if parts.rows else ""
    say_row("preparing", f"about {gigabytes(needed)} in {cache} ({gigabytes(free)} free){going_on}")


def _seconds(row: Row) -> float | None:
    """Return how long a row's audio is by what is known of it."""
    return row.stretch[1] - row.stretch[0] if row.stretch else clip_seconds(row.audio)


class _Parts:
    """A cache entry under way: its audio, and a part of its manifest for each stretch of audio that is on disk.

    Args:
        folder: Of the entry; what a killed process left there is taken up.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.rows = self.bytes = self._count = 0
        audio = folder / "audio.int16"
        there = audio.stat().st_size if audio.exists() else 0
        found = sorted(folder.glob("part-*"))
        for path in found:  # up to one that is missing or damaged, or whose audio isn't there
            if path != self._part(self._count):
                break
            try:
                table, _ = open_table(path)
            except (OSError, ValueError):
                break
            size = self.bytes + 2 * sum(table.column("num_samples").to_pylist())
            if size > there:
                break
            self.rows, self.bytes, self._count = self.rows + len(table), size, self._count + 1
        for path in found[self._count :]:
            path.unlink()
        self.audio = audio.open("ab")
        self.audio.truncate(self.bytes)
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.arrow"

    def add(self, row: Row, audio: "npt.NDArray[np.int16] | AudioError") -> None:
        """Take a clip up, or why it could not be decoded."""
        error = str(audio) if isinstance(audio, AudioError) else None
        samples = np.zeros(0, np.int16) if isinstance(audio, AudioError) else audio
        self.audio.write(np.ascontiguousarray(samples).data)
        self._pending.append(
            {
                "id": row.id,
                "split": SPLITS.index(row.split),
                "reference": row.reference,
                "attributes": list(row.attributes.items()),
                "num_samples": len(samples),
                "peak": max(-int(samples.min(initial=0)), int(samples.max(initial=0))) / 32768.0,
                "digest": _digest(row, samples),
                "error": error,
            }
        )
        self._pending_bytes += samples.nbytes
        if len(self._pending) >= _PART_ROWS or self._pending_bytes >= _PART_BYTES:
            self.flush()

    def flush(self) -> None:
        """Put what was taken up on disk."""
        import pyarrow as pa

        if not self._pending:
            return
        self.audio.flush()
        os.fsync(self.audio.fileno())
        schema = manifest_schema().append(pa.field("error", pa.string()))
        table = pa.Table.from_pylist(self._pending, schema=schema)
        path = self._part(self._count)
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            with pa.ipc.new_file(file, schema) as out:
                out.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        self._count += 1
        self._pending, self._pending_bytes = [], 0


def _publish(folder: Path, partial: Path, source: str, sample_rate: int) -> None:
    """Join the parts to one manifest, and move the entry to its place."""
    import pyarrow as pa
    import pyarrow.compute as pc

    fingerprint = hashlib.blake2b(digest_size=16)
    unreadable: list[Drop] = []
    clips = 0
    path = partial / "manifest.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, manifest_schema()) as out:
        waiting: list[Any] = []
        for part in sorted(partial.glob("part-*.arrow")):
            table, _ = open_table(part)
            readable = table.filter(pc.is_null(table.column("error")))
            for row in table.filter(pc.is_valid(table.column("error"))).to_pylist():
                unreadable.append(Drop(row["id"], SPLITS[row["split"]], "unreadable", row["error"]))
            fingerprint.update(b"".join(readable.column("digest").to_pylist()))
            clips += len(readable)
            waiting.append(readable.drop_columns("error"))
            if sum(map(len, waiting)) >= _BATCH_ROWS:
                out.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting = []
        if waiting:
            out.write_table(pa.concat_tables(waiting).combine_chunks())
    write_summary(partial, source, sample_rate, fingerprint.hexdigest(), clips, unreadable)
    if folder.exists():  # it is not whole
        shutil.rmtree(folder)
    partial.rename(folder)
    for part in folder.glob("part-*"):  # only now: a killed process goes on from them
        part.unlink()


def write_summary(
    folder: Path, source: str, sample_rate: int, fingerprint: str, clips: int, unreadable: Iterable[Drop] = ()
) -> None:
    """Write the file that makes audio and a manifest an entry of the cache: ``prepared.json``."""
    summary = {
        "format": _FORMAT,
        "source": source,
        "sample_rate": sample_rate,
        "clips": clips,
        "fingerprint": fingerprint,
        "files": {name: _stamp(folder / name) for name in ("audio.int16", "manifest.arrow")},
        "unreadable": [asdict(drop) for drop in unreadable],
    }
    write_json(folder / "prepared.json", summary)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decoded(
    rows: Iterable[Row], sample_rate: int
) -> Iterator[tuple[Row, npt.NDArray[np.int16] | AudioError]]:
    """Decode rows on all cores, in order, with bounded memory for those under way.

    Threads suffice: libsndfile and the resampling filter work outside Python's lock.
    """

    def work(row: Row) -> npt.NDArray[np.int16] | AudioError:
        try:
            return decode(row.audio, sample_rate, row.stretch, row.channel)
        except AudioError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                raise UserError(
                    f"The clip {row.id} can't be read: {error}. Mend that, and start again."
                ) from error
            return error

    workers = usable_cores()
    waiting: deque[tuple[Row, int, Future[npt.NDArray[np.int16] | AudioError]]] = deque()
    held = 0
    with ThreadPoolExecutor(workers) as pool:
        try:
            for row in rows:
                cost = decoding_bytes(row.audio, sample_rate)
                while waiting and (len(waiting) >= 8 * workers or held + cost > _DECODING_BYTES):
                    first, its_cost, result = waiting.popleft()
                    held -= its_cost
                    yield first, result.result()
                held += cost
                waiting.append((row, cost, pool.submit(work, row)))
            for first, _, result in waiting:
                yield first, result.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# --------------------------------------------------------------------------------------------------- labels

Cleaning = Callable[[list[str]], tuple[list[str | None], list[int]]]
Symbols = Callable[[str], Iterable[str]]


@dataclass(frozen=True)
class Labels:
    """The cleaned labels of a prepared data set.

    Attributes:
        texts: An Arrow ``ChunkedArray`` of strings; null where nothing is left of a label.
        sizes: ``(clips,)`` int32, how large each is: network frames that CTC needs for it, or its classes.
        symbols: What the texts of each split are made of: characters, or classes.
        pages: Where they lie.
    """

    texts: Any
    sizes: npt.NDArray[np.int32]
    symbols: dict[str, set[str]]
    pages: Pages

    def __reduce__(self) -> Any:
        return _load_labels, (self.pages.path,)


def prepare_labels(
    prepared: Prepared, settings: str, clean: Cleaning, symbols_of: Symbols, progress: Progress
) -> Labels:
    """Return the labels as they are trained on and scored, from the cache if they are there.

    They lie in a file of their own beside the audio, so that another normaliser doesn't decode anything again.

    Args:
        prepared: Whose labels.
        settings: What decides the result; a change of it makes a new file.
        clean: Gives cleaned labels, and the size of each. Many go through all cores, for which it must be picklable.
        symbols_of: Gives what a cleaned label is made of.
        progress: Told of what is under way.

    Raises:
        CacheError: The cache can't be written.
    """
    name = f"labels-{hashlib.sha256(f'{_FORMAT}|{settings}'.encode()).hexdigest()[:16]}.arrow"
    try:
        return _labels_in(prepared.folder, name, prepared.manifest, clean, symbols_of, progress)
    except CacheError:  # a cache that is shared may not be ours to write: labels are small
        own = default_cache_dir() / "labels" / prepared.folder.name
        return _labels_in(own, name, prepared.manifest, clean, symbols_of, progress)


def _labels_in(
    folder: Path, name: str, manifest: Manifest, clean: Cleaning, symbols_of: Symbols, progress: Progress
) -> Labels:
    path = folder / name
    if (found := _load_labels(path)) is not None:
        return found
    with locked(folder):
        if (found := _load_labels(path)) is not None:
            return found
        with writing(folder):
            folder.mkdir(exist_ok=True)
            _write_labels(path, manifest, clean, symbols_of, progress)
    labels = _load_labels(path)
    assert labels is not None
    return labels


def _load_labels(path: Path) -> Labels | None:
    """Open a file of labels; None if there is none, or it was changed."""
    try:
        summary = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if summary["stamp"] != _stamp(path):
            return None
        table, pages = open_table(path)
        symbols = {split: set(summary["symbols"][split]) for split in SPLITS}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Labels(table.column("text"), table.column("size").to_numpy(), symbols, pages)


def _write_labels(
    path: Path, manifest: Manifest, clean: Cleaning, symbols_of: Symbols, progress: Progress
) -> None:
    import pyarrow as pa

    schema = pa.schema({"text": pa.string(), "size": pa.int32()})
    new = path.with_suffix(".new")
    symbols: list[set[str]] = [set() for _ in SPLITS]
    done = 0
    with pa.OSFile(str(new), "wb") as file, pa.ipc.new_file(file, schema) as out:
        for texts, sizes in _cleaned(manifest, clean):
            out.write_batch(pa.record_batch({"text": texts, "size": sizes}, schema=schema))
            splits = manifest.splits[done : done + len(texts)].tolist()
            for text, split in zip(texts, splits, strict=True):
                if text is not None:
                    symbols[split].update(symbols_of(text))
            done += len(texts)
            progress("cleaning", done, len(manifest))
    new.replace(path)
    sorted_symbols = {split: sorted(found) for split, found in zip(SPLITS, symbols, strict=True)}
    write_json(path.with_suffix(".json"), {"stamp": _stamp(path), "symbols": sorted_symbols})


def _cleaned(manifest: Manifest, clean: Cleaning) -> Iterator[tuple[list[str | None], list[int]]]:
    """Clean labels block by block; many of them in processes of their own, since this is Python alone."""
    references = manifest.references
    blocks = (references[start : start + _BATCH_ROWS] for start in range(0, len(references), _BATCH_ROWS))
    if len(references) <= 4 * _BATCH_ROWS:
        yield from map(clean, blocks)
        return
    from multiprocessing import get_context

    with get_context("spawn").Pool(min(usable_cores(), 8)) as pool:  # each holds some hundred MB of imports
        yield from pool.imap(clean, blocks)
