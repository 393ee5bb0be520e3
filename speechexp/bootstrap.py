"""An interval for a rate of sums: error rates of words or of seconds, shares of clips."""

import numpy as np
import numpy.typing as npt


def bootstrap_interval(
    errors: npt.ArrayLike, lengths: npt.ArrayLike, seed: int, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of a corpus error rate, resampling utterances or recordings.

    Bisani and Ney (2004), "Bootstrap estimates for confidence intervals in ASR performance evaluation".

    Args:
        errors: ``(utterances,)`` edits, or seconds in error, of each utterance.
        lengths: ``(utterances,)`` reference units, or seconds, of each utterance.
        seed: Of the resampling.
        resamples: How many corpora are drawn.
        level: The share of drawn rates inside the interval.

    Returns:
        Its ends. A drawn corpus without any length has no rate, and is left out; if all are, nan and nan.
    """
    error_counts, unit_counts = np.asarray(errors, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    if not unit_counts.sum() > 0:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    rates = np.full(resamples, np.nan)
    for i in range(resamples):  # one draw at a time: memory does not grow with the corpus × resamples
        drawn = generator.integers(0, len(error_counts), len(error_counts))
        units = unit_counts[drawn].sum()
        if units > 0:
            rates[i] = error_counts[drawn].sum() / units
    low, high = np.nanquantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
