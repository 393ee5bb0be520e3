"""An interval for the diarization error rate, resampling recordings."""

from collections.abc import Sequence

from speechexp.bootstrap import bootstrap_interval
from speechexp.diarization_metrics import WATCHED, FileScore


def der_interval(files: Sequence[FileScore], seed: int, resamples: int = 2000) -> dict[str, float]:
    """Return ``der_ci95_low`` and ``der_ci95_high``, the 95 % percentile interval of ``der``.

    Recordings are drawn whole, since errors within one go together: a speaker that is missed is missed throughout. With
    few recordings the interval is too narrow; with a single one that has speech there is none, and nothing is returned.

    Args:
        files: The scores of the recordings; silent ones bring their false alarms.
        seed: Of the resampling.
        resamples: How many times as many recordings are drawn, with replacement.
    """
    parts = [file.components[WATCHED] for file in files]
    if sum(part.speech > 0 for part in parts) < 2:
        return {}
    low, high = bootstrap_interval(
        [part.error for part in parts], [part.speech for part in parts], seed, resamples
    )
    return {"der_ci95_low": low, "der_ci95_high": high}
