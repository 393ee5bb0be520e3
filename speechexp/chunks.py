"""The chunks of a recording that a segmentation network hears, where pyannote's sliding window puts them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pyannote.core import SlidingWindow


@dataclass(frozen=True)
class Chunks:
    """Chunks of equal length that overlap; zeros fill the last one up.

    Attributes:
        samples: Of the recording.
        rate: Samples a second.
        duration: Seconds of a chunk.
        step: Seconds from one chunk's beginning to the next's.
    """

    samples: int
    rate: int
    duration: float
    step: float

    @property
    def size(self) -> int:
        """Samples of a chunk."""
        return round(self.duration * self.rate)

    @property
    def count(self) -> int:
        """How many there are; at least one."""
        return 1 + max(0, -(-(self.samples - self.size) // self._hop))

    @property
    def window(self) -> SlidingWindow:
        """Their places in seconds, as pyannote has them."""
        return SlidingWindow(start=0.0, duration=self.duration, step=self.step)

    @property
    def heard_at(self) -> list[int]:
        """The samples at which segmentation's chunks begin: steps are whole samples there."""
        return [number * self._hop for number in range(self.count)]

    @property
    def embedded_at(self) -> list[int]:
        """The samples at which embedding's chunks begin: each is rounded by itself there."""
        return [round(number * self.step * self.rate) for number in range(self.count)]

    def frame_starts(self, frames: SlidingWindow) -> npt.NDArray[np.int64]:
        """Return the frame of the recording that is each chunk's first, and last the number of frames.

        Args:
            frames: The network's receptive field.

        Returns:
            ``(chunks + 1,)``.
        """
        grid = SlidingWindow(start=0.0, duration=frames.duration, step=frames.step)
        half = 0.5 * frames.duration
        starts = [grid.closest_frame(number * self.step + half) for number in range(self.count)]
        end = grid.closest_frame(0.0 + self.duration + (self.count - 1) * self.step + half) + 1
        return np.array([*starts, end])

    @property
    def _hop(self) -> int:
        return round(self.step * self.rate)


def stacked(audio: torch.Tensor, starts: Sequence[int], size: int) -> torch.Tensor:
    """Return pieces of a recording, with zeros behind its end.

    Args:
        audio: ``(samples,)``.
        starts: Each piece's first sample.
        size: Samples of a piece.

    Returns:
        ``(pieces, 1, size)``.
    """
    pieces = audio.new_zeros(len(starts), 1, size)
    for piece, start in zip(pieces, starts, strict=True):
        found = audio[start : start + size]
        piece[0, : len(found)] = found
    return pieces
