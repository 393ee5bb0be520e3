"""Search of the parameters that no gradient reaches, by the figure they give: an evaluation for each trial."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Value = float | int | str
Parameters = dict[str, Value]


@dataclass(frozen=True)
class Uniform:
    """Any number between two, these included.

    Attributes:
        low: The least.
        high: The greatest.
        log: Search by factors instead of differences.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Integer:
    """A whole number between two, these included.

    Attributes:
        low: The least.
        high: The greatest.
        log: Search by factors instead of differences.
    """

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of several values without an order.

    Attributes:
        values: What there is to choose from.
    """

    values: tuple[Value, ...]


Space = Mapping[str, Uniform | Integer | Choice]


class Trial(NamedTuple):
    """What was tried, and what came of it."""

    parameters: Parameters
    value: float


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        parameters: The best.
        value: What the objective gave for them.
        trials: All, in their order.
    """

    parameters: Parameters
    value: float
    trials: list[Trial]


def search(
    space: Space,
    objective: Callable[[Parameters], float],
    start: Sequence[Parameters],
    trials: int,
    seed: int,
    progress: Callable[[int, int, Trial, Trial], None] | None = None,
    seconds: float | None = None,
) -> Found:
    """Look for the parameters with the lowest value, with a tree-structured Parzen estimator (Bergstra et al. 2011).

    What is tried next depends on the seed and the trials before alone. Parameters that come up again are not evaluated
    again. Whatever the objective raises passes through.

    Args:
        space: The parameters by name.
        objective: Gives the value of parameters; lower is better.
        start: Tried first, whatever the limits, so that the result is never worse than theirs; of equals the earlier
            is kept.
        trials: How many, those of `start` included.
        seed: Of what is drawn.
        progress: Called after each trial with how many are done, how many there will be, the latest and the best.
        seconds: No trial is begun later; None for no limit. The result then depends on the machine.

    Raises:
        ValueError: Parameters of `start` are not of the space, or a value is no number.
    """
    import optuna

    for parameters in start:
        _check(parameters, space)
    total = max(trials, len(start))
    if total < 1:
        raise ValueError("`trials` must be at least 1 where there is nothing to start from.")
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    done: list[Trial] = []
    values: dict[tuple[tuple[str, Value], ...], float] = {}
    distributions = {name: _distribution(each) for name, each in space.items()}

    def finished(trial: Trial) -> Any:
        return optuna.trial.create_trial(
            params=trial.parameters, distributions=distributions, value=trial.value
        )

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
        while len(done) < total and (len(done) < len(start) or time.monotonic() < deadline):
            asked = None
            if len(done) < len(start):
                parameters = dict(start[len(done)])
            else:
                study.sampler = optuna.samplers.TPESampler(seed=_drawn(seed, len(done)), constant_liar=False)
                asked = study.ask(distributions)
                parameters = asked.params
            value = values.get(_key(parameters))
            if value is None:
                value = float(objective(dict(parameters)))
                if math.isnan(value):
                    raise ValueError(f"The objective is not a number for {parameters}.")
            done.append(Trial(parameters, value))
            values[_key(parameters)] = value
            if asked is None:
                study.add_trial(finished(done[-1]))
            else:
                study.tell(asked, value)
            if progress is not None:
                progress(len(done), total, done[-1], _best(done))
    finally:
        optuna.logging.set_verbosity(verbosity)
    best = _best(done)
    return Found(best.parameters, best.value, done)


def cautious(
    tried: Sequence[tuple[Parameters, npt.NDArray[np.float64]]], space: Space
) -> tuple[Parameters, float]:
    """Choose parameters that are as good as the best as far as can be told, and nearest to those tried first.

    The best of many trials on a few recordings is best by chance as well. So all count as equal that are not worse than
    it by more than one standard error of the difference, recording by recording (the one-standard-error rule of Breiman
    et al. 1984), and what was there before is left only for a reason.

    Args:
        tried: Parameters, and ``(recordings, 2)`` what an error rate is made of: errors, and the length that they are
            a share of.
        space: Distances count in shares of its ranges.

    Returns:
        The parameters and their error rate.
    """
    parts = np.stack([each for _, each in tried])
    rates = parts[..., 0].sum(axis=1) / parts[..., 1].sum(axis=1)
    best, recordings = int(rates.argmin()), parts.shape[1]
    differences = (parts[..., 0] - parts[best, :, 0]) * recordings / parts[best, :, 1].sum()
    spread = differences.std(axis=1, ddof=1) if recordings > 1 else np.zeros(len(parts))
    equal = np.flatnonzero(rates <= rates[best] + spread / math.sqrt(recordings)).tolist()
    first = tried[0][0]
    distances = [
        sum(_distance(space[name], tried[number][0][name], first[name]) ** 2 for name in space)
        for number in equal
    ]
    chosen: int = equal[int(np.argmin(distances))]
    return tried[chosen][0], float(rates[chosen])


def _distance(range_: Uniform | Integer | Choice, one: Value, other: Value) -> float:
    """Return how far two values are from each other, as a share of their range."""
    if isinstance(range_, Choice):
        return float(one != other)
    assert not isinstance(one, str) and not isinstance(other, str)
    if range_.log:
        return abs(math.log(one / other)) / math.log(range_.high / range_.low)
    return abs(one - other) / max(range_.high - range_.low, 1e-9)


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.value)


def _key(parameters: Parameters) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(parameters.items()))


def _drawn(seed: int, number: int) -> int:
    """Return the seed of a trial's own generator: what was drawn before it need not be drawn again."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _distribution(range_: Uniform | Integer | Choice) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(range_, Choice):
        return CategoricalDistribution(range_.values)
    if isinstance(range_, Integer):
        return IntDistribution(range_.low, range_.high, log=range_.log)
    return FloatDistribution(range_.low, range_.high, log=range_.log)


def _holds(range_: Uniform | Integer | Choice, value: object) -> bool:
    if isinstance(range_, Choice):
        return value in range_.values
    kinds = (int,) if isinstance(range_, Integer) else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and range_.low <= value <= range_.high


def _check(parameters: Mapping[str, object], space: Space) -> None:
    """Raise ValueError where parameters are not of the space."""
    if set(parameters) != set(space):
        raise ValueError(f"Parameters must be {sorted(space)}, but are {sorted(parameters)} instead.")
    for name, value in parameters.items():
        if not _holds(space[name], value):
            raise ValueError(f"{name} must be of {space[name]}, but is {value!r} instead.")
