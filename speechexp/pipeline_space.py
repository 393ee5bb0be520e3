"""What can be tuned of pyannote's diarization pipeline."""

from collections.abc import Mapping
from typing import Any

from pyannote.pipeline import parameter as pyannote_parameter

from speechexp.pyannote_models import parameters_of_pipeline
from speechexp.tuning import Integer, Parameters, Space, Uniform

_EUCLIDEAN = (
    "centroid",
    "median",
)  # linkages whose distances are Euclidean; of the others they are 1 - cosine
_BY_FACTORS = ("clustering.Fa", "clustering.Fb")


def pipeline_space(pipeline: Any) -> Space:
    """Return the parameters of a ``SpeakerDiarization`` worth a search, and between what values.

    The linkage (``clustering.method``) stays as it is. Ranges are pyannote's own but for these:

    - The threshold of agglomerative clustering, 0 to 2 with pyannote. With centroid linkage it is the distance of unit
      vectors, sqrt(2 - 2 cos): at 0.2 (cosine 0.98) hardly two windows of one voice are joined, and at 1.3 (0.16)
      voices are joined that are all but unrelated. With average linkage and the like it is 1 - cos, and 0.02 to 0.85
      are the same cosines. Ward's distances grow with the clusters, and keep pyannote's range.
    - VBx's Fa and Fb span two orders of magnitude and more, and are searched by factors.

    A range is widened where the value that the pipeline has lies outside.

    Args:
        pipeline: With its parameters given (``instantiate``).
    """
    given = parameters_of_pipeline(pipeline)
    ranges = {
        f"{part}.{name}": _range(f"{part}.{name}", own, given)
        for part, parameters in pipeline.parameters().items()
        if isinstance(parameters, Mapping)
        for name, own in parameters.items()
    }
    return {name: range_ for name, range_ in ranges.items() if range_ is not None}


def _range(name: str, own: Any, given: Parameters) -> Uniform | Integer | None:
    """Return where to search for a parameter; None where there is nothing to search."""
    low, high = getattr(own, "low", None), getattr(own, "high", None)
    if low is None or high is None:  # a choice, or frozen
        return None
    if name == "clustering.threshold" and "clustering.method" in given:
        low, high = _threshold_bounds(str(given["clustering.method"]), low, high)
    value = given.get(name, low)
    assert not isinstance(value, str)
    low, high = min(low, value), max(high, value)
    if isinstance(own, pyannote_parameter.Integer):
        return Integer(int(low), int(high))
    return Uniform(float(low), float(high), log=name in _BY_FACTORS and low > 0)


def _threshold_bounds(method: str, low: float, high: float) -> tuple[float, float]:
    if method == "ward":
        return low, high
    return (0.2, 1.3) if method in _EUCLIDEAN else (0.02, 0.85)
