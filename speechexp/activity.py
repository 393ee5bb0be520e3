"""Who speaks between the cuts of a recording, the ground for counting seconds exactly."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speechexp.turns import Turn

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def stretches_of(turns: Sequence[Turn]) -> FloatArray:
    """Return ``(turns, 2)`` starts and ends in seconds."""
    return np.array([(turn.start, turn.end) for turn in turns], dtype=np.float64).reshape(-1, 2)


def depth(stretches: FloatArray, cuts: FloatArray) -> IntArray:
    """Return ``(cuts - 1,)`` how many stretches lie over what is between two cuts.

    Args:
        stretches: ``(stretches, 2)`` starts and ends in seconds, all of them among the cuts.
        cuts: ``(cuts,)`` seconds, sorted.
    """
    steps = np.zeros(len(cuts), dtype=np.int64)
    np.add.at(steps, np.searchsorted(cuts, stretches[:, 0]), 1)
    np.add.at(steps, np.searchsorted(cuts, stretches[:, 1]), -1)
    return np.cumsum(steps)[:-1]


def activity(turns: Sequence[Turn], cuts: FloatArray) -> tuple[list[str], IntArray]:
    """Return the speakers, sorted, and ``(speakers, cuts - 1)`` whether each speaks (1) between two cuts.

    Args:
        turns: Those of one speaker may not overlap.
        cuts: ``(cuts,)`` seconds, sorted; all starts and ends are among them.
    """
    speakers = sorted({turn.speaker for turn in turns})
    rows = [
        depth(stretches_of([turn for turn in turns if turn.speaker == speaker]), cuts) for speaker in speakers
    ]
    return speakers, np.array(rows, dtype=np.int64).reshape(len(rows), max(len(cuts) - 1, 0))
