"""Changing the sampling rate by a polyphase filter: of a clip at once, or block by block with the same result."""

from math import ceil, gcd

import numpy as np
import numpy.typing as npt

_LEAST = 1 << 16  # samples that are worth a call of the filter


def resample(samples: npt.NDArray[np.float32], rate: int, to_rate: int) -> npt.NDArray[np.float32]:
    """Change the sampling rate; ``(samples,)`` in and out."""
    if rate == to_rate:
        return samples
    from scipy.signal import resample_poly

    divisor = gcd(rate, to_rate)
    return np.asarray(resample_poly(samples, to_rate // divisor, rate // divisor), dtype=np.float32)


class Resampler:
    """Changes the sampling rate of audio that comes in blocks: bit by bit what `resample` makes of the whole.

    An output sample depends on no more than ten periods of the lower rate on either side (scipy's filter), so each
    block is filtered with so much of its neighbours, from a place where both rates have a sample.

    Args:
        rate: Of the blocks, in Hz.
        to_rate: Of the result, in Hz.
    """

    def __init__(self, rate: int, to_rate: int) -> None:
        self._rates = rate, to_rate
        divisor = gcd(rate, to_rate)
        self._up, self._down = to_rate // divisor, rate // divisor
        reach = 10 * max(self._up, self._down) / self._up + 1
        self._margin = ceil(reach / self._down) * self._down
        self._waiting: list[npt.NDArray[np.float32]] = []
        self._length = 0  # of what waits
        self._done = 0  # how much of it was given out already, and is there for its neighbours

    def push(self, block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Take a block, ``(samples,)``, and return what is certain by now, ``(samples,)``, often nothing."""
        if self._up == self._down:
            return block
        self._waiting.append(block)
        self._length += len(block)
        ready = (self._length - self._margin) // self._down * self._down
        if ready - self._done < _LEAST:
            return np.zeros(0, np.float32)
        return self._give(ready)

    def finish(self) -> npt.NDArray[np.float32]:
        """Return the rest, ``(samples,)``."""
        return self._give(None) if self._length > self._done else np.zeros(0, np.float32)

    def _give(self, ready: int | None) -> npt.NDArray[np.float32]:
        samples = np.concatenate(self._waiting)
        first = self._done * self._up // self._down
        last = None if ready is None else ready * self._up // self._down
        result = resample(samples, *self._rates)[first:last]
        if ready is None:
            self._waiting, self._length, self._done = [], 0, 0
        else:
            kept = max(ready - self._margin, 0)
            self._waiting, self._length = [samples[kept:].copy()], len(samples) - kept
            self._done = ready - kept
        return result
