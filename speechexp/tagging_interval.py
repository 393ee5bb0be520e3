"""An interval for the mean average precision, resampling clips."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from speechexp.tagging_metrics import BoolArray, Cuts, FloatArray, check_scores, each_class

_RESAMPLES_AT_ONCE = 64  # their weights of 20,000 clips are 5 MB, which a processor's cache holds


def bootstrap_map_interval(
    scores: npt.ArrayLike, targets: npt.ArrayLike, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of the mean average precision, resampling clips (Efron 1979).

    All classes see the same draws. A class that a draw has no positive of is left out of that draw's mean. Each class
    is sorted once; a draw is then how often each clip was drawn, and precisions are sums of these counts. The cost is
    ``clips × classes × resamples`` additions, under half a nanosecond each (4.5 s for 1000 resamples of AudioSet's
    20,000 clips × 527 classes), more where positives are many, and two or three times the memory of the scores.

    Args:
        scores: ``(clips, classes)``.
        targets: ``(clips, classes)`` bool.
        seed: Of the resampling.
        resamples: How many times as many clips are drawn, with replacement.
        level: The share of drawn means inside the interval.

    Returns:
        Its ends; nan and nan if no class has a positive.

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    scored, present = check_scores(scores, targets)
    clips = len(scored)
    rankings = [_Ranking.of(cuts, present[:, index]) for index, cuts in each_class(scored, present)]
    if not rankings:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        block = means[start : start + _RESAMPLES_AT_ONCE]
        drawn = [generator.integers(0, clips, clips) for _ in block]
        times = np.stack([np.bincount(each, minlength=clips) for each in drawn], axis=1)
        weights = np.ascontiguousarray(times, dtype=_exact(clips))
        total, classes = np.zeros(len(block)), np.zeros(len(block))
        for ranking in rankings:
            values = ranking.average_precision(weights)
            seen = ~np.isnan(values)
            total += np.where(seen, values, 0)
            classes += seen
        block[:] = np.where(classes > 0, total / np.maximum(classes, 1), np.nan)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class _Ranking(NamedTuple):
    """A class's clips in the order of their scores, to be counted with weights.

    Attributes:
        taken: ``(cuts, clips)`` the clips between each cut that gains positives and the one before it.
        gained: ``(cuts, clips)`` the positive ones among them.
    """

    taken: csr_array
    gained: csr_array

    @classmethod
    def of(cls, cuts: Cuts, targets: BoolArray) -> "_Ranking":
        """Keep the cuts that gain positives: the precision of others is not asked for."""
        gains = np.diff(cuts.hits, prepend=0) > 0
        sizes, hits = cuts.sizes[gains], cuts.hits[gains]
        order = cuts.order[: sizes[-1]].astype(np.int32)
        return cls(_rows(order, sizes, len(targets)), _rows(order[targets[order]], hits, len(targets)))

    def average_precision(self, weights: npt.NDArray[Any]) -> FloatArray:
        """Return the ``(draws,)`` average precision under ``(clips, draws)`` weights; nan without a positive."""
        gained = (self.gained @ weights).astype(np.float64)
        sizes = np.cumsum(self.taken @ weights, axis=0, dtype=np.float64)
        hits = np.cumsum(gained, axis=0)
        gained *= hits / np.maximum(sizes, 1)
        return np.asarray(np.where(hits[-1] > 0, gained.sum(axis=0) / np.maximum(hits[-1], 1), np.nan))


def _rows(order: npt.NDArray[np.int32], ends: npt.NDArray[np.int64], clips: int) -> csr_array:
    """Return a matrix of ones whose rows take the clips between two ends, to sum their weights."""
    starts = np.append(0, ends).astype(np.int32)
    return csr_array((np.ones(len(order), dtype=_exact(clips)), order, starts), shape=(len(ends), clips))


def _exact(clips: int) -> type[np.floating[Any]]:
    """Return the type in which numbers up to as many clips are exact."""
    return np.float32 if clips < 2**24 else np.float64
