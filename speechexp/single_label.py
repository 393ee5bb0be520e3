"""Figures for clips that hold exactly one class each: accuracy with an interval, confusion, balanced accuracy.

Throughout, ``scores`` are ``(clips, classes)``, and ``labels`` ``(clips,)`` the index of each clip's class. The class
of the highest score is predicted; of equal ones the lower index, as `top_labels` has it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from speechexp.bootstrap import bootstrap_interval
from speechexp.tagging_metrics import FloatArray, as_floats, mean_over_present

IntArray = npt.NDArray[np.int64]


def only_labels(targets: npt.ArrayLike) -> IntArray:
    """Return the ``(clips,)`` labels of ``(clips, classes)`` bool targets.

    Raises:
        ValueError: A clip has no class, or several.
    """
    present = np.asarray(targets)
    if present.ndim != 2 or present.dtype != np.bool_:
        raise ValueError(
            f"`targets` must be (clips, classes) bool, but is {present.shape} {present.dtype} instead."
        )
    counts = present.sum(axis=1)
    if (counts != 1).any():
        clip = int(np.argmax(counts != 1))
        raise ValueError(f"`targets` must have one class a clip, but clip {clip} has {counts[clip]} instead.")
    return np.asarray(present.argmax(axis=1), dtype=np.int64)


def accuracy(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the share of clips whose class is predicted; nan without clips.

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    predicted, expected, _ = _predict(scores, labels)
    return float((predicted == expected).mean()) if len(expected) else float("nan")


def accuracy_interval(
    scores: npt.ArrayLike, labels: npt.ArrayLike, seed: int, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of the accuracy, resampling clips; see `bootstrap_interval`.

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    predicted, expected, _ = _predict(scores, labels)
    if not len(expected):
        return float("nan"), float("nan")
    return bootstrap_interval(predicted == expected, np.ones(len(expected)), seed, resamples, level)


def confusion(scores: npt.ArrayLike, labels: npt.ArrayLike) -> IntArray:
    """Return ``(classes, classes)`` counts of clips: a row for each class, a column for what was predicted.

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    predicted, expected, classes = _predict(scores, labels)
    counts = np.bincount(expected * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def recalls(scores: npt.ArrayLike, labels: npt.ArrayLike) -> FloatArray:
    """Return the ``(classes,)`` share of each class's clips that is found; nan for classes without a clip.

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    counts = confusion(scores, labels)
    clips = counts.sum(axis=1)
    return np.where(clips > 0, counts.diagonal() / np.maximum(clips, 1), np.nan)


def balanced_accuracy(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the recall, averaged over the classes that have a clip.

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    return mean_over_present(recalls(scores, labels))


def _predict(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[npt.NDArray[Any], IntArray, int]:
    """Return the predicted and the expected ``(clips,)`` classes, and how many classes there are."""
    scored, expected = np.asarray(scores), np.asarray(labels)
    if scored.ndim != 2 or not scored.shape[1]:
        raise ValueError(f"`scores` must be (clips, classes), but is {scored.shape} instead.")
    clips, classes = scored.shape
    if expected.shape != (clips,) or not np.issubdtype(expected.dtype, np.integer):
        raise ValueError(
            f"`labels` must be ({clips},) whole numbers, but is {expected.shape} {expected.dtype} instead."
        )
    if clips and not 0 <= expected.min() <= expected.max() < classes:
        raise ValueError(
            f"`labels` must be from 0 to {classes - 1}, but is from {expected.min()} to {expected.max()} instead."
        )
    return as_floats(scored).argmax(axis=1), expected.astype(np.int64), classes
