"""From clustered chunks to turns, as pyannote's pipeline does it, with the memory of one chunk."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pyannote.core import Annotation, Segment, SlidingWindow
from pyannote.core.utils.generators import string_generator

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

NOBODY = -2  # the cluster of a chunk's speaker who doesn't speak there
_ROWS = 1 << 13  # frames sorted at once


def count_speakers(active: Bools, starts: Integers) -> Integers:
    """Return how many speak in each frame of a recording: the rounded mean over the chunks that hold it.

    Args:
        active: Who speaks, ``(chunks, frames, speakers)``.
        starts: Of `Chunks.frame_starts`.

    Returns:
        ``(recording's frames,)``.
    """
    total, chunks = np.zeros(starts[-1], np.float32), np.zeros(starts[-1], np.float32)
    frames = active.shape[1]
    for start, count in zip(starts[:-1], active.sum(axis=2, dtype=np.uint8), strict=True):
        total[start : start + frames] += count
        chunks[start : start + frames] += 1
    return np.rint(total / np.maximum(chunks, 1e-12)).astype(np.int64)


def cluster_activity(scores: Floats | Bools, clusters: Integers, starts: Integers) -> Floats:
    """Return how much speaks of each cluster in each frame of a recording: the sum over the chunks that hold it.

    In a chunk a cluster has the score of its loudest speaker there.

    Args:
        scores: ``(chunks, frames, speakers)``.
        clusters: The cluster of each chunk's speakers, or `NOBODY`, ``(chunks, speakers)``.
        starts: Of `Chunks.frame_starts`.

    Returns:
        ``(recording's frames, clusters)``.
    """
    # Each cluster's frames lie side by side, since that is how chunks come.
    total = np.zeros((int(clusters.max()) + 1, starts[-1]), np.float32)
    frames = scores.shape[1]
    for start, score, row in zip(starts[:-1], scores, clusters.tolist(), strict=True):
        for cluster in set(row) - {NOBODY}:
            who = [speaker for speaker, its in enumerate(row) if its == cluster]
            loudest = score[:, who[0]] if len(who) == 1 else score[:, who].max(axis=1)
            total[cluster, start : start + frames] += loudest
    return total.T


def loudest(activity: Floats, count: Integers) -> Bools:
    """Return who speaks: in each frame as many as counted, those of the highest activity.

    Args:
        activity: ``(frames, clusters)``.
        count: ``(frames,)``.

    Returns:
        ``(frames, clusters)``, with more clusters where more speakers were counted than there are.
    """
    width = max(activity.shape[1], int(count.max(initial=0)))
    speaks = np.zeros((len(activity), width), dtype=bool)
    held = np.flatnonzero(count)
    for at in np.split(held, range(_ROWS, len(held), _ROWS)):
        some = np.zeros((len(at), width), np.float32)
        some[:, : activity.shape[1]] = activity[at]
        order = np.argsort(-some, axis=-1)  # pyannote's own sort, so that ties fall the same way
        here = np.zeros_like(some, dtype=bool)
        np.put_along_axis(here, order, np.arange(width) < count[at, None], axis=-1)
        speaks[at] = here
    return speaks


def annotation(speaks: Bools, frames: SlidingWindow, min_duration_off: float) -> Annotation:
    """Return turns from the middle of the first frame to that of the first frame after the last.

    Args:
        speaks: ``(frames, clusters)``.
        frames: Their places; the first begins at 0.
        min_duration_off: Gaps of one speaker up to that many seconds are filled.
    """
    found = Annotation()
    tracks: Iterator[str] = string_generator()
    for cluster, column in enumerate(speaks.T):
        track = next(tracks)
        turns = np.flatnonzero(np.diff(column, prepend=False))
        ends = [*turns[1::2], len(column) - 1]  # the last is for a turn that is under way
        for first, last in zip(turns[::2], ends, strict=False):
            found[Segment(_middle(frames, first), _middle(frames, last)), track] = cluster
    return found.support(collar=min_duration_off) if min_duration_off > 0 else found


def _middle(frames: SlidingWindow, number: int) -> float:
    return float(SlidingWindow(start=0.0, duration=frames.duration, step=frames.step)[int(number)].middle)
