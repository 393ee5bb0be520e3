"""The prepared cache: every clip decoded once, into one memory-mapped file of int16 beside its manifest."""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechexp.audio import AudioError, decode
from speechexp.errors import UserError
from speechexp.manifest import Drop, Manifest, Row

_FORMAT = 2  # changes when decoding or the files below do


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready for training.

    Attributes:
        folder: Where it lies.
        manifest: Every clip that could be decoded.
        audio: ``(all samples,)`` int16, memory-mapped.
        unreadable: Every clip that could not.
        fingerprint: Hash of audio and labels: equal figures need equal data.
    """

    folder: Path
    manifest: Manifest
    audio: npt.NDArray[np.int16]
    unreadable: list[Drop]
    fingerprint: str


def default_cache_dir() -> Path:
    """Return ``$SPEECHEXP_CACHE``, else ``~/.cache/speechexp``."""
    return Path(os.environ.get("SPEECHEXP_CACHE") or "~/.cache/speechexp").expanduser()


def prepare(
    source: str,
    rows: Callable[[], Iterable[Row]],
    total: int | None,
    sample_rate: int,
    cache_dir: Path,
    progress: Callable[[int, int | None], None],
) -> Prepared:
    """Return the prepared form of a data set, from the cache if it is there.

    It is written beside and published by a rename, under a lock: a killed process leaves nothing that looks
    finished, and two that want the same data make it once.

    Args:
        source: What decides the content; a change of it makes a new cache entry.
        rows: Opens the source.
        total: How many rows there are, where that is known.
        sample_rate: Of the result, in Hz.
        cache_dir: Holds ``prepared/<key>/``.
        progress: Told how many rows are done, and of how many.

    Raises:
        UserError: The cache can't be written.
    """
    from filelock import FileLock

    key = hashlib.sha256(f"{_FORMAT}|{sample_rate}|{source}".encode()).hexdigest()[:16]
    folder = cache_dir / "prepared" / key
    if (found := _load_whole(folder)) is not None:
        return found
    lock = FileLock(folder.with_suffix(".lock"))
    with _writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        if (found := _load_whole(folder)) is not None:
            return found
        _publish(folder, rows, total, sample_rate, source, progress)
        return load(folder)
    finally:
        lock.release()


@contextmanager
def _writing(cache: Path) -> Iterator[None]:
    """Say of an `OSError` that it is the cache that can't be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The cache {cache} can't be written ({error.strerror or error}). "
            "Free some space there, or set data.cache_dir=DIR or SPEECHEXP_CACHE to another place."
        ) from error


def _load_whole(folder: Path) -> Prepared | None:
    """Open a cache entry; None if there is none, or not all of it."""
    try:
        return load(folder)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def load(folder: Path) -> Prepared:
    """Open a published cache entry.

    Raises:
        OSError: A file of it is missing.
        ValueError: A file of it is damaged.
    """
    summary = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    audio_path = folder / "audio.int16"
    size = audio_path.stat().st_size
    if size != summary["audio_bytes"]:
        raise ValueError(f"{audio_path} must have {summary['audio_bytes']} bytes, but has {size} instead.")
    # An empty file can't be mapped.
    audio = np.memmap(audio_path, dtype=np.int16, mode="r") if size else np.zeros(0, np.int16)
    return Prepared(
        folder=folder,
        manifest=Manifest.load(folder / "manifest.parquet"),
        audio=audio,
        unreadable=[Drop(**each) for each in summary["unreadable"]],
        fingerprint=summary["fingerprint"],
    )


def _publish(
    folder: Path,
    rows: Callable[[], Iterable[Row]],
    total: int | None,
    sample_rate: int,
    source: str,
    progress: Callable[[int, int | None], None],
) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _writing(folder.parent):
            partial.mkdir()
            file = (partial / "audio.int16").open("wb")
        kept: list[Row] = []
        lengths: list[int] = []
        peaks: list[float] = []
        unreadable: list[Drop] = []
        digest = hashlib.blake2b(digest_size=16)
        with file:
            for done, (row, decoded) in enumerate(_decoded(rows(), sample_rate), 1):
                progress(done, total)
                if isinstance(decoded, AudioError):
                    unreadable.append(Drop(row.id, row.split, "unreadable", str(decoded)))
                    continue
                with _writing(folder.parent):
                    file.write(decoded.tobytes())
                digest.update(decoded.tobytes())
                digest.update(json.dumps([row.id, row.split, row.reference, row.attributes]).encode())
                kept.append(replace(row, audio=b""))
                lengths.append(len(decoded))
                peaks.append(float(np.abs(decoded.astype(np.int32)).max(initial=0)) / 32768.0)
            with _writing(folder.parent):
                file.close()
        summary = {
            "format": _FORMAT,
            "source": source,
            "sample_rate": sample_rate,
            "clips": len(kept),
            "audio_bytes": 2 * sum(lengths),
            "fingerprint": digest.hexdigest(),
            "unreadable": [asdict(drop) for drop in unreadable],
        }
        with _writing(folder.parent):
            Manifest.from_rows(kept, lengths, peaks).save(partial / "manifest.parquet")
            (partial / "prepared.json").write_text(
                json.dumps(summary, ensure_ascii=False, indent=1), encoding="utf-8"
            )
            if folder.exists():  # it is not whole
                shutil.rmtree(folder)
            partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _decoded(
    rows: Iterable[Row], sample_rate: int
) -> Iterator[tuple[Row, npt.NDArray[np.int16] | AudioError]]:
    """Decode rows on all cores, in order, with a bounded number of them in memory.

    Threads suffice: libsndfile and the resampling filter work outside Python's lock.
    """

    def work(row: Row) -> npt.NDArray[np.int16] | AudioError:
        try:
            return decode(row.audio, sample_rate)
        except AudioError as error:
            return error

    workers = os.cpu_count() or 1
    waiting: deque[tuple[Row, Future[npt.NDArray[np.int16] | AudioError]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for row in rows:
            waiting.append((row, pool.submit(work, row)))
            if len(waiting) >= 8 * workers:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
