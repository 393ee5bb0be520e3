import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from speechexp.tagging_interval import bootstrap_map_interval
from speechexp.tagging_metrics import (
    FALLBACK_THRESHOLD,
    average_precision,
    best_thresholds,
    count_pairs,
    d_prime,
    f1_at,
    mean_over_present,
    roc_auc,
    top_labels,
)


def random_tags(
    clips: int, classes: int, seed: int, share: float = 0.2, levels: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores that say something of the targets, in float32, and with ties where levels are given."""
    rng = np.random.default_rng(seed)
    targets = rng.random((clips, classes)) < share
    scores = (rng.random((clips, classes)) + 0.4 * targets) / 1.4
    if levels:
        scores = np.round(scores * levels) / levels
    return scores.astype(np.float32), targets


pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # classes without a figure are no accident

# name → clips, classes, seed, share of positives, distinct scores
KINDS = {
    "plain": (500, 12, 0, 0.2, 0),
    "few positives": (400, 12, 1, 0.01, 0),
    "nearly all positive": (300, 8, 2, 0.97, 0),
    "ties": (400, 12, 3, 0.2, 10),
    "two scores": (200, 12, 4, 0.3, 1),
    "tiny": (3, 40, 5, 0.4, 3),
    "two clips": (2, 40, 6, 0.5, 2),
}
TAGS = {name: random_tags(*kind) for name, kind in KINDS.items()}
every_kind = pytest.mark.parametrize("kind", KINDS)


def their_average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.array(
        [
            average_precision_score(targets[:, index], scores[:, index])
            if targets[:, index].any()
            else np.nan
            for index in range(targets.shape[1])
        ]
    )


def has_both(targets: np.ndarray) -> np.ndarray:
    return targets.any(axis=0) & ~targets.all(axis=0)


def test_the_kinds_hold_classes_without_a_positive_and_without_a_negative() -> None:
    assert not TAGS["tiny"][1].any(axis=0).all()
    assert TAGS["tiny"][1].all(axis=0).any()


@every_kind
def test_average_precision_is_scikit_learns(kind: str) -> None:
    scores, targets = TAGS[kind]

    np.testing.assert_allclose(
        average_precision(scores, targets), their_average_precision(scores, targets), atol=1e-9, rtol=0
    )


@every_kind
def test_roc_auc_is_scikit_learns(kind: str) -> None:
    scores, targets = TAGS[kind]
    theirs = [
        roc_auc_score(targets[:, index], scores[:, index]) if both else np.nan
        for index, both in enumerate(has_both(targets))
    ]

    np.testing.assert_allclose(roc_auc(scores, targets), theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_any_float_type_are_ranked_as_they_are(dtype: type) -> None:
    scores = random_tags(300, 6, 7)[0].astype(dtype)
    targets = random_tags(300, 6, 7)[1]
    scores[:150] = scores[150:] + np.finfo(dtype).eps  # neighbours that a coarser type would tie

    np.testing.assert_allclose(
        average_precision(scores, targets), their_average_precision(scores, targets), atol=1e-9
    )


def test_a_constant_score_has_the_share_of_positives_and_an_auc_of_a_half() -> None:
    targets = TAGS["plain"][1]
    scores = np.full(targets.shape, 0.3)

    np.testing.assert_allclose(average_precision(scores, targets), targets.mean(axis=0))
    np.testing.assert_array_equal(roc_auc(scores, targets), np.full(targets.shape[1], 0.5))


def test_a_class_of_positives_alone_is_perfect_in_precision_and_has_no_auc() -> None:
    scores = TAGS["plain"][0][:, :1]
    targets = np.ones_like(scores, dtype=bool)

    assert average_precision(scores, targets).tolist() == [1.0]
    assert np.isnan(roc_auc(scores, targets)).all()


def test_a_class_without_a_positive_has_no_figure() -> None:
    scores, targets = TAGS["plain"]
    targets = targets.copy()
    targets[:, 3] = False

    for values in (average_precision(scores, targets), roc_auc(scores, targets)):
        assert np.flatnonzero(np.isnan(values)).tolist() == [3]


def test_without_clips_no_class_has_a_figure() -> None:
    scores, targets = np.empty((0, 3)), np.empty((0, 3), dtype=bool)

    for values in (average_precision(scores, targets), roc_auc(scores, targets)):
        assert values.shape == (3,)
        assert np.isnan(values).all()


def test_order_of_clips_does_not_matter_where_scores_are_tied() -> None:
    scores, targets = TAGS["ties"]
    order = np.random.default_rng(0).permutation(len(scores))

    np.testing.assert_array_equal(
        average_precision(scores, targets), average_precision(scores[order], targets[order])
    )
    np.testing.assert_array_equal(roc_auc(scores, targets), roc_auc(scores[order], targets[order]))


@pytest.mark.parametrize(("auc", "expected"), [(0.5, 0.0), (0.959, 2.459), (0.975, 2.772), (0.041, -2.459)])
def test_d_prime_is_that_of_its_formula(auc: float, expected: float) -> None:
    assert float(d_prime(auc, 10**6)) == pytest.approx(expected, abs=2e-3)


def test_d_prime_is_the_distance_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    targets = np.tile([[True], [False]], (20_000, 1))
    auc = roc_auc(rng.normal(size=targets.shape) + 1.7 * targets, targets)

    assert d_prime(auc, count_pairs(targets)) == pytest.approx(1.7, abs=0.03)


def test_d_prime_of_a_perfect_class_is_finite_and_grows_with_its_pairs() -> None:
    few, many = d_prime([1.0, 1.0], [20, 20_000])

    assert np.isfinite([few, many]).all()
    assert d_prime(1 - 1 / 20, 20) < few < many
    assert d_prime([0.0], [20]) == pytest.approx(-few)
    json.dumps(float(few), allow_nan=False)


def test_d_prime_of_a_class_without_an_auc_is_left_out() -> None:
    assert mean_over_present(d_prime([np.nan, 0.5], [0, 20])) == 0.0


def test_pairs_are_of_a_positive_and_a_negative_clip() -> None:
    assert count_pairs(
        np.array([[True, True, False], [False, True, False], [False, True, False]])
    ).tolist() == [
        2,
        0,
        0,
    ]


def test_mean_is_over_the_classes_that_have_a_figure() -> None:
    assert mean_over_present([0.2, np.nan, 0.6]) == pytest.approx(0.4)
    assert np.isnan(mean_over_present([np.nan, np.nan]))
    assert np.isnan(mean_over_present([]))


@every_kind
def test_no_threshold_has_a_higher_f1_than_the_best(kind: str) -> None:
    scores, targets = TAGS[kind]
    values = best_thresholds(scores, targets)[1]
    for index in np.flatnonzero(targets.any(axis=0)):
        precision, recall, _ = precision_recall_curve(targets[:, index], scores[:, index])
        theirs = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert values[index] == pytest.approx(theirs.max(), abs=1e-9)


@every_kind
def test_f1_at_the_best_thresholds_is_the_best_f1(kind: str) -> None:
    scores, targets = TAGS[kind]
    thresholds, values = best_thresholds(scores, targets)

    np.testing.assert_allclose(f1_at(scores, targets, thresholds).per_class, values, atol=1e-12)


def test_a_threshold_lies_between_the_scores_it_parts() -> None:
    scores = np.array([[0.9], [0.7], [0.7], [0.2], [0.1]])
    targets = np.array([[True], [True], [False], [False], [False]])

    thresholds, values = best_thresholds(scores, targets)

    assert thresholds == pytest.approx([0.45])  # two of the three from 0.7 on
    assert values == pytest.approx([0.8])


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    scores = np.array([[0.9], [0.5], [0.4], [0.3]])
    targets = np.array([[True], [False], [False], [True]])  # F1 is 2/3 from 0.9 on and from 0.3 on

    assert best_thresholds(scores, targets)[0] == pytest.approx([0.7])


def test_the_threshold_that_takes_every_clip_is_the_lowest_score() -> None:
    thresholds, values = best_thresholds(np.array([[0.4], [0.25]]), np.array([[False], [True]]))

    assert thresholds.tolist() == [0.25]
    assert values == pytest.approx([2 / 3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_threshold_parts_neighbouring_numbers(dtype: type) -> None:
    above = np.nextafter(dtype(0.7), dtype(1))
    scores, targets = np.array([[above], [dtype(0.7)]]), np.array([[True], [False]])
    thresholds, values = best_thresholds(scores, targets)

    assert values.tolist() == [1.0]
    assert f1_at(scores, targets, thresholds).per_class.tolist() == [1.0]


def test_without_a_positive_the_threshold_is_the_fallback() -> None:
    thresholds, values = best_thresholds(np.array([[0.1, 0.9], [0.2, 0.8]]), np.zeros((2, 2), dtype=bool))

    assert thresholds.tolist() == [FALLBACK_THRESHOLD] * 2
    assert np.isnan(values).all()


@pytest.mark.parametrize("thresholds", [0.5, np.linspace(0.2, 0.9, 12)], ids=["one", "one a class"])
def test_f1_is_scikit_learns_over_the_classes_present(thresholds: float | np.ndarray) -> None:
    scores, targets = TAGS["few positives"]
    present = targets.any(axis=0)
    given = scores >= thresholds
    ours = f1_at(scores, targets, thresholds)

    assert not present.all()
    assert np.isnan(ours.per_class[~present]).all()
    theirs = f1_score(targets[:, present], given[:, present], average=None)
    np.testing.assert_allclose(ours.per_class[present], theirs, atol=1e-9)
    for average in ("micro", "macro"):
        theirs = f1_score(targets[:, present], given[:, present], average=average)
        assert getattr(ours, average) == pytest.approx(theirs, abs=1e-9)


def test_thresholds_of_another_count_raise() -> None:
    with pytest.raises(ValueError, match=r"`thresholds` must be \(12,\) or a number, but is \(11,\) instead"):
        f1_at(*TAGS["plain"], np.full(11, 0.5))


def naive_interval(scores: np.ndarray, targets: np.ndarray, seed: int, resamples: int) -> list[float]:
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = generator.integers(0, len(scores), len(scores))
        if targets[drawn].any():
            means.append(np.nanmean(their_average_precision(scores[drawn], targets[drawn])))
    return [float(end) for end in np.quantile(means, [0.05, 0.95])]


@pytest.mark.parametrize("levels", [0, 6], ids=["distinct", "tied"])
@pytest.mark.parametrize(("clips", "share"), [(25, 0.5), (40, 0.03), (4, 0.25)])
def test_interval_is_that_of_resampled_clips(clips: int, share: float, levels: int) -> None:
    scores, targets = random_tags(clips, 3, 8, share, levels)

    ours = bootstrap_map_interval(scores, targets, seed=3, resamples=70, level=0.9)

    assert ours == pytest.approx(naive_interval(scores, targets, 3, 70), abs=1e-9)


def test_interval_is_seeded() -> None:
    scores, targets = random_tags(60, 3, 9)

    assert bootstrap_map_interval(scores, targets, 1) == bootstrap_map_interval(scores, targets, 1)
    assert bootstrap_map_interval(scores, targets, 1) != bootstrap_map_interval(scores, targets, 2)


def test_interval_holds_the_true_figure_as_often_as_it_says() -> None:
    true = mean_over_present(average_precision(*random_tags(200_000, 2, 10)))
    held = 0
    for seed in range(200):
        low, high = bootstrap_map_interval(*random_tags(300, 2, 100 + seed), seed, resamples=200, level=0.9)
        held += low < true < high

    assert held / 200 == pytest.approx(0.9, abs=0.06)


def test_interval_without_a_positive_is_none() -> None:
    assert np.isnan(bootstrap_map_interval(np.ones((4, 2)), np.zeros((4, 2), dtype=bool), seed=1)).all()
    assert np.isnan(bootstrap_map_interval(np.ones((0, 2)), np.zeros((0, 2), dtype=bool), seed=1)).all()


def test_top_labels_come_best_first_and_by_index_where_tied() -> None:
    assert top_labels([0.5, 0.9, 0.5, 0.1], 3) == [(1, 0.9), (0, 0.5), (2, 0.5)]
    assert top_labels([0.1, 0.9], 5) == [(1, 0.9), (0, 0.1)]
    many = np.random.default_rng(0).integers(0, 4, 527) / 4
    assert [index for index, _ in top_labels(many, 100)] == np.flatnonzero(many == 0.75)[:100].tolist()


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_raises_with_its_place(damage: float) -> None:
    scores, targets = random_tags(5, 4, 11)
    scores[3, 2], scores[4, 0] = damage, np.nan

    for figure in (average_precision, roc_auc, best_thresholds):
        with pytest.raises(
            ValueError, match=rf"`scores` must be finite, .* class 2, clip 3 is {damage} instead"
        ):
            figure(scores, targets)
    with pytest.raises(ValueError, match="class 2, clip 3"):
        f1_at(scores, targets, 0.5)
    with pytest.raises(ValueError, match="class 2, clip 3"):
        bootstrap_map_interval(scores, targets, seed=1)
    with pytest.raises(ValueError, match=f"class 2 is {damage} instead"):
        top_labels(scores[3], 1)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros(4), np.zeros(4, dtype=bool), r"`scores` must be \(clips, classes\), but is \(4,\) instead"),
        (np.zeros((4, 2)), np.zeros((4, 3), dtype=bool), r"`targets` must be \(4, 2\).* is \(4, 3\) instead"),
        (np.zeros((4, 2)), np.zeros((4, 2)), "`targets` must be bool, but is float64 instead"),
    ],
)
def test_arrays_that_do_not_fit_raise(scores: np.ndarray, targets: np.ndarray, message: str) -> None:
    for figure in (average_precision, roc_auc, best_thresholds):
        with pytest.raises(ValueError, match=message):
            figure(scores, targets)
