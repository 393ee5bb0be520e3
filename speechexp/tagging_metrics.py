"""How well tags are ranked and decided: average precision, ROC AUC, d-prime, F1.

Throughout, ``scores`` are ``(clips, classes)`` and grow with how likely a clip holds a class, such as probabilities;
``targets`` are ``(clips, classes)`` bool. Clips of one score are tied: no figure depends on how they are ordered. A
class of which the clips at hand hold no example has nan.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FALLBACK_THRESHOLD = 0.5  # where no positive clip says better


class F1(NamedTuple):
    """The harmonic mean of precision and recall.

    Attributes:
        per_class: ``(classes,)``, nan for classes without a positive.
        micro: Of the decisions on all classes that have a positive, taken together.
        macro: The mean over the classes that have a positive.
    """

    per_class: FloatArray
    micro: float
    macro: float


def average_precision(scores: npt.ArrayLike, targets: npt.ArrayLike) -> FloatArray:
    """Return the ``(classes,)`` average precision: the precision at each positive clip, averaged.

    Not interpolated, which is how AST's mAP is computed (Gong et al. 2021, "AST: Audio Spectrogram Transformer"). The
    precision at a clip counts every clip that scores at least as high.

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    scored, present = check_scores(scores, targets)
    values = np.full(scored.shape[1], np.nan)
    for index, cuts in each_class(scored, present):
        gained = np.diff(cuts.hits, prepend=0)
        values[index] = (gained * (cuts.hits / cuts.sizes)).sum() / cuts.hits[-1]
    return values


def roc_auc(scores: npt.ArrayLike, targets: npt.ArrayLike) -> FloatArray:
    """Return the ``(classes,)`` area under the ROC curve; nan for classes without a positive or without a negative.

    It is the share of the pairs of a positive and a negative clip that are ranked rightly, a tie being half right
    (Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic curve").

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    scored, present = check_scores(scores, targets)
    values = np.full(scored.shape[1], np.nan)
    for index, cuts in each_class(scored, present):
        negatives = np.diff(cuts.sizes - cuts.hits, prepend=0)
        above = np.append(0, cuts.hits[:-1])
        pairs = cuts.hits[-1] * negatives.sum()
        if pairs:
            values[index] = (negatives * (above + cuts.hits)).sum() / (2 * pairs)
    return values


def count_pairs(targets: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the ``(classes,)`` pairs of a positive and a negative clip that an AUC is the share of."""
    present = np.asarray(targets)
    positives: npt.NDArray[np.int64] = present.sum(axis=0, dtype=np.int64)
    return positives * (len(present) - positives)


def d_prime(auc: npt.ArrayLike, pairs: npt.ArrayLike) -> FloatArray:
    """Return d' = √2 Φ⁻¹(AUC), the distance of two unit normal distributions with this AUC.

    Hershey et al. (2017), "CNN architectures for large-scale audio classification", who report that of the mean AUC.
    At an AUC of 1 it is infinite: an AUC is taken to be at least half a pair away from 0 and from 1, as signal
    detection does with rates of 0 and 1 (Macmillan and Kaplan 1985, "Detection theory analysis of group data").

    Args:
        auc: Of a class, of several, or their mean.
        pairs: As many as `count_pairs` says; for a mean AUC, the sum over its classes.
    """
    nearest = 1 / (2 * np.maximum(np.asarray(pairs, dtype=np.float64), 1))
    clipped = np.clip(np.asarray(auc, dtype=np.float64), nearest, 1 - nearest)
    return np.asarray(np.sqrt(2) * ndtri(clipped))


def mean_over_present(values: npt.ArrayLike) -> float:
    """Return the mean over the classes that have a figure; nan if none has."""
    figures = np.asarray(values, dtype=np.float64)
    figures = figures[~np.isnan(figures)]
    return float(figures.mean()) if len(figures) else float("nan")


def best_thresholds(scores: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the ``(classes,)`` thresholds of the highest F1, and that F1.

    A clip is given each class whose score is at least its threshold. Every distinct score is tried; of cuts that are
    equally good, the one that gives the fewest clips the class is taken. A threshold lies in the middle between the
    lowest score above the cut and the next one below it, or is the lowest score of all. Classes without a positive
    have `FALLBACK_THRESHOLD` and an F1 of nan. Thresholds are float64 and should be compared as such: rounded to
    float32, one between two neighbouring scores falls on either.

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    scored, present = check_scores(scores, targets)
    thresholds = np.full(scored.shape[1], FALLBACK_THRESHOLD)
    values = np.full(scored.shape[1], np.nan)
    for index, cuts in each_class(scored, present):
        f1 = 2 * cuts.hits / (cuts.sizes + cuts.hits[-1])
        best = int(f1.argmax())
        above, below = float(cuts.scores[best]), float(cuts.scores[min(best + 1, len(f1) - 1)])
        middle = above / 2 + below / 2
        thresholds[index] = middle if below < middle <= above else above
        values[index] = f1[best]
    return thresholds, values


def f1_at(scores: npt.ArrayLike, targets: npt.ArrayLike, thresholds: npt.ArrayLike) -> F1:
    """Return the F1 of giving a clip each class whose score is at least its threshold.

    Args:
        scores: ``(clips, classes)``.
        targets: ``(clips, classes)`` bool.
        thresholds: ``(classes,)``, or one for all.

    Raises:
        ValueError: The arrays do not fit each other, or a score is not finite.
    """
    scored, present = check_scores(scores, targets)
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.shape not in ((), (scored.shape[1],)):
        raise ValueError(
            f"`thresholds` must be ({scored.shape[1]},) or a number, but is {limits.shape} instead."
        )
    given = scored >= np.broadcast_to(limits, scored.shape[1])
    hits, positives = (given & present).sum(axis=0), present.sum(axis=0)
    held = positives > 0
    hits, decisions = hits[held], (given.sum(axis=0) + positives)[held]
    per_class = np.full(len(held), np.nan)
    per_class[held] = 2 * hits / decisions
    micro = float(2 * hits.sum() / decisions.sum()) if held.any() else float("nan")
    return F1(per_class, micro, mean_over_present(per_class))


def top_labels(scores: npt.ArrayLike, k: int) -> list[tuple[int, float]]:
    """Return the index and the score of a clip's k best classes, best first; of equal ones the lower index first.

    Args:
        scores: ``(classes,)`` of one clip.
        k: How many; all classes if there are fewer.
    """
    row = np.asarray(scores)
    if row.ndim != 1:
        raise ValueError(f"`scores` must be (classes,), but is {row.shape} instead.")
    if k < 0:
        raise ValueError(f"`k` must be at least 0, but is {k} instead.")
    best = np.argsort(-as_floats(row), kind="stable")[:k]
    return [(int(index), float(row[index])) for index in best]


def as_floats(scores: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return scores as float64, or as float32 where nothing is lost.

    Raises:
        ValueError: A score is not finite, as those of a network that diverged.
    """
    scored = np.asarray(scores)
    scored = scored.astype(np.float32 if scored.dtype in (np.float16, np.float32) else np.float64, copy=False)
    if not np.isfinite(scored).all():
        place = np.argwhere(~np.isfinite(scored))[0]
        where = ", ".join(f"{axis} {at}" for axis, at in zip(("class", "clip"), place[::-1], strict=False))
        raise ValueError(f"`scores` must be finite, but that of {where} is {scored[tuple(place)]} instead.")
    return scored


def check_scores(scores: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[npt.NDArray[Any], BoolArray]:
    """Return scores and targets as arrays.

    Raises:
        ValueError: They do not fit each other, targets are not bool, or a score is not finite.
    """
    scored, present = np.asarray(scores), np.asarray(targets)
    if scored.ndim != 2:
        raise ValueError(f"`scores` must be (clips, classes), but is {scored.shape} instead.")
    if present.shape != scored.shape:
        raise ValueError(
            f"`targets` must be {scored.shape}, as `scores` are, but is {present.shape} instead."
        )
    if present.dtype != np.bool_:
        raise ValueError(f"`targets` must be bool, but is {present.dtype} instead.")
    return as_floats(scored), present


class Cuts(NamedTuple):
    """The places where a class's clips, best first, can be parted without parting equal scores.

    Attributes:
        order: ``(clips,)`` indices of clips, best first.
        scores: ``(cuts,)`` the lowest score above each cut.
        sizes: ``(cuts,)`` clips above it.
        hits: ``(cuts,)`` positive clips above it.
    """

    order: npt.NDArray[np.int64]
    scores: npt.NDArray[Any]
    sizes: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]


def each_class(scores: npt.NDArray[Any], targets: BoolArray) -> Iterator[tuple[int, Cuts]]:
    """Give the cuts of each class that has a positive."""
    for index in np.flatnonzero(targets.any(axis=0)):
        order = np.argsort(scores[:, index])[::-1]
        ranked = scores[order, index]
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        hits = np.cumsum(targets[order, index], dtype=np.int64)[ends]
        yield int(index), Cuts(order, ranked[ends], ends + 1, hits)
