"""The search for parameters: never worse than where it starts, repeatable; and what is chosen of its trials."""

import logging
import math

import numpy as np
import pytest

from speechexp.errors import Interrupted
from speechexp.tuning import Choice, Integer, Parameters, Space, Trial, Uniform, cautious, search

SPACE: Space = {
    "threshold": Uniform(0.0, 2.0),
    "size": Integer(1, 20),
    "scale": Uniform(0.01, 10.0, log=True),
    "method": Choice(("average", "centroid")),
}
START: list[Parameters] = [
    {"threshold": 1.5, "size": 18, "scale": 5.0, "method": "average"},
    {"threshold": 0.9, "size": 12, "scale": 0.1, "method": "centroid"},
]


def bowl(parameters: Parameters) -> float:
    """Return 0 for the best there is: threshold 0.7, size 6, scale 0.3, centroid."""
    threshold, size, scale = (float(parameters[name]) for name in ("threshold", "size", "scale"))
    return (
        (threshold - 0.7) ** 2
        + ((size - 6) / 20) ** 2
        + 0.1 * math.log(scale / 0.3) ** 2
        + (0.2 if parameters["method"] == "average" else 0.0)
    )


class Stopping:
    """An objective that raises after some trials, and counts them."""

    def __init__(self, after: int, error: BaseException | None = None) -> None:
        self.left, self.error, self.seen = after, error, 0

    def __call__(self, parameters: Parameters) -> float:
        if self.seen == self.left and self.error is not None:
            raise self.error
        self.seen += 1
        return bowl(parameters)


def test_the_best_is_found() -> None:
    found = search(SPACE, bowl, START, trials=60, seed=0)
    drawn = search(SPACE, bowl, START, trials=12, seed=0)  # ten of them at random
    assert found.value < 0.03 < drawn.value
    assert found.value == bowl(found.parameters) == min(value for _, value in found.trials)
    assert found.parameters["method"] == "centroid"
    assert len(found.trials) == 60


def test_parameters_stay_in_their_space() -> None:
    for parameters, _ in search(SPACE, bowl, START, trials=40, seed=1).trials:
        assert isinstance(parameters["size"], int) and 1 <= parameters["size"] <= 20
        assert 0 <= float(parameters["threshold"]) <= 2 and 0.01 <= float(parameters["scale"]) <= 10
        assert parameters["method"] in ("average", "centroid")


def test_the_start_is_tried_first_and_stays_if_nothing_is_better() -> None:
    found = search(SPACE, lambda parameters: 0.5, START, trials=15, seed=0)
    assert [parameters for parameters, _ in found.trials[:2]] == START
    assert found.parameters == START[0]  # of equals the earlier
    only = search(SPACE, bowl, START, trials=1, seed=0, seconds=0.0)
    assert [parameters for parameters, _ in only.trials] == START and only.parameters == START[1]


def test_a_seed_tells_the_search() -> None:
    first, again, other = (search(SPACE, bowl, START, trials=20, seed=seed).trials for seed in (3, 3, 4))
    assert first == again
    assert first[:2] == other[:2] and first[2] != other[2]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), Interrupted(2, saved=False), RuntimeError("no audio")]
)
def test_what_the_objective_raises_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        search(SPACE, Stopping(5, error), START, trials=25, seed=0)


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        search(SPACE, lambda parameters: math.nan, START, trials=3, seed=0)


def test_parameters_are_not_evaluated_twice() -> None:
    objective = Stopping(100)
    space: Space = {"threshold": Choice((0.7,)), "size": Integer(5, 7), "scale": Choice((0.3,)),
                    "method": Choice(("centroid",))}  # fmt: skip
    found = search(space, objective, [], trials=20, seed=0)
    assert len(found.trials) == 20 and objective.seen <= 3 and found.value == 0.0


def test_no_trial_begins_when_time_is_over() -> None:
    import time

    def slow(parameters: Parameters) -> float:
        time.sleep(0.05)
        return bowl(parameters)

    assert 2 < len(search(SPACE, slow, START, trials=1000, seed=0, seconds=0.3).trials) < 8


def test_progress_tells_the_latest_and_the_best() -> None:
    told: list[tuple[int, int, Trial, Trial]] = []
    found = search(SPACE, bowl, START, trials=8, seed=0, progress=lambda *each: told.append(each))
    assert [each[:2] for each in told] == [(number, 8) for number in range(1, 9)]
    assert [each[2] for each in told] == found.trials
    assert told[-1][3] == Trial(found.parameters, found.value)


def test_it_is_quiet(recwarn: pytest.WarningsRecorder) -> None:
    import optuna

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    verbosity = optuna.logging.get_verbosity()
    logging.getLogger("optuna").addHandler(handler)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        search(SPACE, bowl, START, trials=14, seed=0)
        assert optuna.logging.get_verbosity() == optuna.logging.INFO  # as it was
    finally:
        optuna.logging.set_verbosity(verbosity)
        logging.getLogger("optuna").removeHandler(handler)
    assert said == []
    assert [str(each.message) for each in recwarn] == []


# What 12 recordings of a minute of speech each are wrong in, in seconds.
ERRORS = np.array([6.0, 9.0, 4.0, 7.0, 5.0, 8.0, 6.0, 9.0, 4.0, 7.0, 5.0, 8.0])
LINE: Space = {"threshold": Uniform(0.0, 2.0)}


def tried(threshold: float, errors: np.ndarray) -> tuple[Parameters, np.ndarray]:
    return {"threshold": threshold}, np.stack([errors, np.full_like(errors, 60.0)], axis=1)


def test_what_is_better_by_chance_alone_does_not_move_the_start() -> None:
    lucky = ERRORS.copy()
    lucky[0] -= 3.0  # one recording alone
    chosen, rate = cautious([tried(0.5, ERRORS), tried(1.5, lucky)], LINE)
    assert chosen == {"threshold": 0.5}
    assert rate == pytest.approx(ERRORS.sum() / 720)


def test_what_is_better_throughout_is_taken_and_the_nearest_of_equals() -> None:
    better, far = ERRORS - 2.0, ERRORS - 2.0
    far[3] -= 0.1
    chosen, rate = cautious([tried(0.5, ERRORS), tried(1.9, far), tried(0.9, better)], LINE)
    assert chosen == {"threshold": 0.9}
    assert rate == pytest.approx(better.sum() / 720)


def test_distances_are_shares_of_a_range() -> None:
    space: Space = {"threshold": Uniform(0.0, 2.0), "size": Integer(1, 201)}
    start = {"threshold": 1.0, "size": 100}, tried(1.0, ERRORS)[1]
    near = {"threshold": 1.1, "size": 105}, tried(1.1, ERRORS - 2.0)[1]  # 5 % and 2.5 %
    far = {"threshold": 1.3, "size": 101}, tried(1.3, ERRORS - 2.0)[1]
    assert cautious([start, far, near], space)[0] == near[0]


def test_a_single_recording_decides_by_itself() -> None:
    chosen, _ = cautious([tried(0.5, ERRORS[:1]), tried(1.5, ERRORS[:1] - 1.0)], LINE)
    assert chosen == {"threshold": 1.5}


@pytest.mark.parametrize(
    "change", [{"threshold": 2.5}, {"size": 2.5}, {"method": "ward"}, {"other": 1.0}, {"scale": "large"}]
)
def test_a_start_outside_the_space_is_refused(change: Parameters) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        search(SPACE, bowl, [{**START[0], **change}], trials=3, seed=0)
