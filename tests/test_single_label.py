import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from speechexp.single_label import (
    accuracy,
    accuracy_interval,
    balanced_accuracy,
    confusion,
    only_labels,
    recalls,
)


def random_clips(clips: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of 5 classes and labels, of which class 4 is never heard."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, clips, p=[0.6, 0.2, 0.1, 0.1])
    return rng.random((clips, 5)) + 0.5 * np.eye(5)[labels], labels


SCORES, LABELS = random_clips(300)
PREDICTED = SCORES.argmax(axis=1)


def test_figures_are_scikit_learns() -> None:
    assert accuracy(SCORES, LABELS) == accuracy_score(LABELS, PREDICTED)
    np.testing.assert_array_equal(
        confusion(SCORES, LABELS), confusion_matrix(LABELS, PREDICTED, labels=range(5))
    )


def test_balanced_accuracy_is_over_the_classes_present() -> None:
    known = np.where(PREDICTED == 4, 0, PREDICTED)  # scikit-learn warns of a predicted class that no clip has
    scores = np.eye(5)[known]

    assert balanced_accuracy(scores, LABELS) == pytest.approx(balanced_accuracy_score(LABELS, known))
    assert balanced_accuracy(scores, LABELS) != pytest.approx(accuracy(scores, LABELS), abs=0.01)
    assert np.flatnonzero(np.isnan(recalls(scores, LABELS))).tolist() == [4]


def test_of_equal_scores_the_lower_index_is_predicted() -> None:
    assert accuracy([[0.5, 0.5], [0.2, 0.2]], [0, 1]) == 0.5


def test_interval_is_that_of_a_binomial_draw() -> None:
    share = accuracy(SCORES, LABELS)
    low, high = accuracy_interval(SCORES, LABELS, seed=1)

    assert low < share < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 300), rel=0.15)


def test_without_clips_there_is_no_figure() -> None:
    scores, labels = np.empty((0, 3)), np.empty(0, dtype=np.int64)

    assert np.isnan(accuracy(scores, labels))
    assert np.isnan(accuracy_interval(scores, labels, seed=1)).all()
    assert np.isnan(balanced_accuracy(scores, labels))
    assert confusion(scores, labels).sum() == 0


def test_labels_are_those_of_targets_with_one_class_a_clip() -> None:
    assert only_labels(np.eye(5, dtype=bool)[LABELS]).tolist() == LABELS.tolist()


@pytest.mark.parametrize(("row", "count"), [([False, False], 0), ([True, True], 2)])
def test_targets_of_no_or_several_classes_raise(row: list[bool], count: int) -> None:
    with pytest.raises(ValueError, match=f"one class a clip, but clip 1 has {count} instead"):
        only_labels(np.array([[True, False], row]))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros(4), [0] * 4, r"`scores` must be \(clips, classes\), but is \(4,\)"),
        (np.zeros((4, 2)), [0] * 3, r"`labels` must be \(4,\) whole numbers, but is \(3,\)"),
        (np.zeros((4, 2)), [0.0] * 4, r"`labels` must be \(4,\) whole numbers, but is \(4,\) float64"),
        (np.zeros((4, 2)), [0, 1, 2, 0], "`labels` must be from 0 to 1, but is from 0 to 2"),
        (np.zeros((4, 2)), [0, -1, 1, 0], "`labels` must be from 0 to 1, but is from -1 to 1"),
        (np.full((1, 2), np.nan), [0], "`scores` must be finite, .* class 0, clip 0 is nan"),
    ],
)
def test_arrays_that_do_not_fit_raise(scores: np.ndarray, labels: list[int], message: str) -> None:
    for figure in (accuracy, confusion, balanced_accuracy):
        with pytest.raises(ValueError, match=message):
            figure(scores, labels)
