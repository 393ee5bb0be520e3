"""Targets of a segmentation network: who is active in each output frame of a stretch of a recording."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from speechexp.turns import Turn


@dataclass(frozen=True)
class FrameGrid:
    """Where the output frames of a network lie in its window; a frame is what the network sees of the audio for it.

    Attributes:
        start: Of the first frame, in seconds from the window's beginning.
        step: From one frame to the next, in seconds.
        duration: Of a frame, in seconds; frames overlap where it exceeds the step.
        count: Frames in the window.
    """

    start: float
    step: float
    duration: float
    count: int

    @cached_property
    def centres(self) -> npt.NDArray[np.float64]:
        """``(count,)``, the middle of each frame in seconds from the window's beginning."""
        return self.start + self.duration / 2 + self.step * np.arange(self.count, dtype=np.float64)


def grid_of(network: Any, num_samples: int) -> FrameGrid:
    """Return the frames of a pyannote ``Model`` for a window of ``num_samples``."""
    frames = network.receptive_field
    return FrameGrid(frames.start, frames.step, frames.duration, int(network.num_frames(num_samples)))


@dataclass(frozen=True)
class TurnIndex:
    """The turns of a recording, laid out so that those of a stretch are found without looking at all.

    Attributes:
        starts: ``(turns,)`` ascending, in seconds.
        ends: ``(turns,)`` in seconds.
        latest_ends: ``(turns,)``, the latest end up to each turn: ascending, which the ends themselves need not be.
        speakers: ``(turns,)``, which speaker each turn is of, by the order of their names.
    """

    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    latest_ends: npt.NDArray[np.float64]
    speakers: npt.NDArray[np.int64]

    @classmethod
    def of(cls, turns: Iterable[Turn]) -> Self:
        """Lay out turns, in whatever order they come."""
        ordered = sorted(turns)
        ends = np.array([turn.end for turn in ordered], np.float64)
        _, speakers = np.unique([turn.speaker for turn in ordered], return_inverse=True)
        return cls(
            starts=np.array([turn.start for turn in ordered], np.float64),
            ends=ends,
            latest_ends=np.maximum.accumulate(ends),
            speakers=speakers.astype(np.int64),
        )


def frame_targets(
    turns: TurnIndex, start_seconds: float, grid: FrameGrid, max_speakers: int
) -> npt.NDArray[np.int64]:
    """Return who is active in each frame of a stretch, as bits: bit k for the k-th speaker.

    A speaker is active in a frame whose centre lies in a turn. Speakers are numbered anew in each stretch, from the one
    who is active in the most frames down; equals come by their names. Beyond ``max_speakers`` the least talkative are
    left out, as pyannote leaves them out where a window has more speakers than its network tells apart.

    Args:
        turns: Of the recording.
        start_seconds: Where the stretch begins in it.
        grid: The network's frames in the stretch.
        max_speakers: How many the network tells apart.

    Returns:
        ``(frames,)``.
    """
    centres = start_seconds + grid.centres
    first = np.searchsorted(turns.latest_ends, centres[0], side="right")
    last = np.searchsorted(turns.starts, centres[-1], side="right")
    speakers, places = np.unique(turns.speakers[first:last], return_inverse=True)
    # Where turns begin and end; their running sum is how many turns of a speaker a frame lies in.
    edges = np.zeros((len(speakers), grid.count + 1), np.int64)
    np.add.at(edges, (places, np.searchsorted(centres, turns.starts[first:last])), 1)
    np.add.at(edges, (places, np.searchsorted(centres, turns.ends[first:last])), -1)
    active = np.cumsum(edges, axis=1)[:, :-1] > 0
    kept = active[np.argsort(-active.sum(axis=1), kind="stable")[:max_speakers]]
    bits: npt.NDArray[np.int64] = (kept << np.arange(len(kept), dtype=np.int64)[:, None]).sum(
        axis=0, dtype=np.int64
    )
    return bits
