import random

import jiwer
import numpy as np
import pytest

from speechexp.bootstrap import bootstrap_interval
from speechexp.metrics import ErrorRate, count_edits

WORDS = ["la", "calle", "y", "el", "perro", "leen", "niño", "ñandú", "a", "e", "o", "casa", "caza", "él"]


def random_pairs(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return references, and predictions with words changed, dropped, added, or nothing at all."""
    rng = random.Random(seed)
    references, predictions = [], []
    for _ in range(count):
        words = rng.choices(WORDS, k=rng.randint(1, 12))
        references.append(" ".join(words))
        heard: list[str] = []
        for word in words:
            kind = rng.random()
            if kind < 0.6:
                heard.append(word)
            elif kind < 0.8:
                heard.append(rng.choice(WORDS))
            elif kind < 0.9:
                heard += [word, rng.choice(WORDS)]
        predictions.append("" if rng.random() < 0.05 else " ".join(heard))
    return references, predictions


PAIRS = random_pairs(400)


def rate_of(unit: str, references: list[str], predictions: list[str], batch: int) -> float:
    metric = ErrorRate(unit)
    for start in range(0, len(references), batch):
        metric.update(references[start : start + batch], predictions[start : start + batch])
    return metric.compute().item()


def test_the_random_pairs_hold_empty_predictions() -> None:
    assert "" in PAIRS[1]


def test_word_error_rate_is_jiwers() -> None:
    assert rate_of("word", *PAIRS, batch=400) == pytest.approx(jiwer.wer(*PAIRS), abs=1e-9)


def test_character_error_rate_is_jiwers() -> None:
    assert rate_of("character", *PAIRS, batch=400) == pytest.approx(jiwer.cer(*PAIRS), abs=1e-9)


def test_rate_of_each_single_pair_is_jiwers() -> None:
    for reference, prediction in zip(*PAIRS, strict=True):
        ours = rate_of("word", [reference], [prediction], batch=1)
        assert ours == pytest.approx(jiwer.wer(reference, prediction), abs=1e-9), (reference, prediction)


def test_counts_are_jiwers() -> None:
    theirs = jiwer.process_words(*PAIRS)
    metric = ErrorRate("word")
    metric.update(*PAIRS)

    ours = (metric.substitutions.item(), metric.deletions.item(), metric.insertions.item())
    assert ours == (theirs.substitutions, theirs.deletions, theirs.insertions)


def test_a_word_replaced_one_missing_one_too_many() -> None:
    assert count_edits("el perro lee", "un perro").errors == 2
    assert count_edits("el perro", "el gran perro").insertions == 1
    assert count_edits("el perro lee", "el lee").deletions == 1
    assert count_edits("el perro lee", "el gato lee").substitutions == 1


def test_characters_count_spaces() -> None:
    assert count_edits("a b", "ab", "character").deletions == 1
    assert count_edits("a b", "ab", "character").reference_length == 3


@pytest.mark.parametrize("unit", ["word", "character"])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_rate_does_not_depend_on_batches(unit: str, batch: int) -> None:
    assert rate_of(unit, *PAIRS, batch=batch) == rate_of(unit, *PAIRS, batch=400)


def test_rate_does_not_depend_on_order() -> None:
    backwards = [pairs[::-1] for pairs in PAIRS]

    assert rate_of("word", *backwards, batch=9) == rate_of("word", *PAIRS, batch=400)


def test_rate_is_exact_where_a_32_bit_sum_is_not() -> None:
    metric = ErrorRate("character")
    metric.update(["a" * 20_000_001], ["a" * 20_000_000])

    assert metric.compute().item() == 1 / 20_000_001


def test_rate_before_any_reference_is_not_a_number() -> None:
    assert np.isnan(ErrorRate("word").compute().item())


def test_reset_forgets() -> None:
    metric = ErrorRate("word")
    metric.update(["a b"], ["x y"])
    metric.reset()
    metric.update(["a b"], ["a b"])

    assert metric.compute().item() == 0.0


@pytest.mark.parametrize("predictions", [[], ["a"], ["a", "b", "c"]])
def test_lists_of_unequal_length_raise(predictions: list[str]) -> None:
    with pytest.raises(ValueError, match=f"2 references, but there are {len(predictions)}"):
        ErrorRate("word").update(["a", "b"], predictions)


def utterances(count: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return edits and reference words of random utterances at a rate of about 0.2."""
    rng = np.random.default_rng(seed)
    words = rng.integers(3, 25, count)
    return rng.binomial(words, 0.2), words


def test_interval_holds_the_rate() -> None:
    errors, words = utterances(200)
    low, high = bootstrap_interval(errors, words, seed=1)

    assert low < errors.sum() / words.sum() < high


def test_interval_is_that_of_a_binomial_draw() -> None:
    errors, words = utterances(400)
    low, high = bootstrap_interval(errors, words, seed=1)

    expected = 2 * 1.96 * np.sqrt(0.2 * 0.8 / words.sum())
    assert high - low == pytest.approx(expected, rel=0.2)


def test_interval_is_seeded() -> None:
    errors, words = utterances(50)

    assert bootstrap_interval(errors, words, seed=1) == bootstrap_interval(errors, words, seed=1)
    assert bootstrap_interval(errors, words, seed=1) != bootstrap_interval(errors, words, seed=2)


def test_interval_shrinks_with_more_utterances() -> None:
    widths = [np.diff(bootstrap_interval(*utterances(count), seed=1))[0] for count in (25, 400, 1600)]

    assert widths[0] > 2 * widths[1]
    assert widths[1] > 1.5 * widths[2]


def test_interval_widens_with_its_level() -> None:
    errors, words = utterances(100)
    (low, high), (lower, higher) = (
        bootstrap_interval(errors, words, 1, level=level) for level in (0.8, 0.99)
    )

    assert lower < low < high < higher


def test_interval_weighs_utterances_by_their_words() -> None:
    errors, words = np.tile([0, 1], 100), np.tile([99, 1], 100)
    low, high = bootstrap_interval(errors, words, seed=1)

    assert 0.005 < low < 0.01 < high < 0.02


def test_interval_of_a_perfect_test_is_zero() -> None:
    assert bootstrap_interval([0, 0, 0], [4, 5, 6], seed=1) == (0.0, 0.0)
