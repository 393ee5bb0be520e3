"""The windows that a segmentation network is trained on, cut out of recordings."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from speechexp.segmentation_targets import FrameGrid, TurnIndex, frame_targets
from speechexp.turns import Reference, read_reference


class Windows:
    """Cuts recordings into a network's windows, one after the other (a `speechexp.loading.Stretching`).

    Only what is scored is trained on: outside it, nobody has written down who speaks.

    Args:
        grid: The network's frames in a window.
        samples: Of a window.
        sample_rate: In Hz.
        max_speakers: The network's outputs.
        hop_share: From the start of a window to that of the next, as a share of a window.
    """

    def __init__(
        self, grid: FrameGrid, samples: int, sample_rate: int, max_speakers: int, hop_share: float = 1.0
    ) -> None:
        self.grid = grid
        self.samples = samples
        self.sample_rate = sample_rate
        self.max_speakers = max_speakers
        self.hop = max(round(hop_share * samples), 1)

    def starts(self, reference: str, num_samples: int) -> list[tuple[int, int]]:
        """Return the first sample of each window, and how many samples it has: fewer where there are no more."""
        scored = read_reference(reference).scored
        places: list[tuple[int, int]] = []
        for start, end in ((0.0, num_samples / self.sample_rate),) if scored is None else scored:
            first = max(round(start * self.sample_rate), 0)
            last = min(round(end * self.sample_rate), num_samples)
            if last <= first:
                continue
            whole = max(last - first - self.samples, 0)
            begins = [*range(0, whole, self.hop), whole]  # the last one ends where the stretch does
            places += [(first + begin, min(self.samples, last - first)) for begin in begins]
        return places

    def target(self, reference: str, first: int, count: int) -> Sequence[int]:
        """Return the speakers of each frame of a window, as bits."""
        targets: npt.NDArray[np.int64] = frame_targets(
            _indexed(reference), first / self.sample_rate, self.grid, self.max_speakers
        )
        bits: list[int] = targets.tolist()
        return bits


@lru_cache(maxsize=1024)
def _indexed(reference: str) -> TurnIndex:
    found: Reference = read_reference(reference)
    return TurnIndex.of(found.turns)
