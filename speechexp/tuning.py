"""Search of the parameters that no gradient reaches, by the figure they give: an evaluation for each trial."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from speechexp.errors import UserError

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
    storage: Path | None = None,
) -> Found:
    """Look for the parameters with the lowest value, with a tree-structured Parzen estimator (Bergstra et al. 2011).

    What is tried next depends on the seed and the trials before alone: a search that goes on from its journal ends as
    one that was never stopped. Parameters that come up again are not evaluated again. Whatever the objective raises
    passes through; the trials until then are in the journal.

    Args:
        space: The parameters by name.
        objective: Gives the value of parameters; lower is better.
        start: Tried first, whatever the limits, so that the result is never worse than theirs; of equals the earlier
            is kept.
        trials: How many, those of `start` and of the journal included.
        seed: Of what is drawn.
        progress: Called after each trial with how many are done, how many there will be, the latest and the best.
        seconds: No trial is begun later; None for no limit. The result then depends on the machine.
        storage: The journal, a file of JSON lines; made, or gone on from if it is there.

    Raises:
        UserError: The journal is damaged, or of another search.
        ValueError: Parameters of `start` are not of the space, or a value is no number.
    """
    import optuna

    for parameters in start:
        _check(parameters, space)
    total = max(trials, len(start))
    if total < 1:
        raise ValueError("`trials` must be at least 1 where there is nothing to start from.")
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    journal = None if storage is None else _Journal(storage, space, start, seed)
    done = [] if journal is None else journal.read()
    values = {_key(trial.parameters): trial.value for trial in done}
    distributions = {name: _distribution(each) for name, each in space.items()}

    def finished(trial: Trial) -> Any:
        return optuna.trial.create_trial(
            params=trial.parameters, distributions=distributions, value=trial.value
        )

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
        study.add_trials([finished(trial) for trial in done])
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
            if journal is not None:
                journal.append(done[-1])
            if progress is not None:
                progress(len(done), total, done[-1], _best(done))
    finally:
        optuna.logging.set_verbosity(verbosity)
    best = _best(done)
    return Found(best.parameters, best.value, done)


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.value)


def _key(parameters: Parameters) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(parameters.items()))


def _drawn(seed: int, number: int) -> int:
    """Return the seed of a trial's own generator: what was drawn before it need not be drawn again."""
    import numpy as np

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


class _Journal:
    """A search's trials, a line each behind a line that tells the search.

    optuna's own journal keeps trials under way and a lock, which a killed process leaves behind.
    """

    def __init__(self, path: Path, space: Space, start: Sequence[Parameters], seed: int) -> None:
        self.path = path
        self._space = space
        ranges = {name: [type(each).__name__, *vars(each).values()] for name, each in space.items()}
        self._search = json.loads(json.dumps({"space": ranges, "start": list(start), "seed": seed}))

    def read(self) -> list[Trial]:
        """Return the trials; a line that was cut short by a kill is taken off."""
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text.rfind(b"\n") + 1
        lines = text[:whole].splitlines()
        if not lines:
            if not _line(self._search).encode().startswith(text):
                raise self._damaged(1)
            self._write("w", self._search)
            return []
        if self._parsed(lines[0], 1) != self._search:
            raise UserError(
                f"{self.path} is the journal of another search: its parameters, its starting points or its seed "
                "differ. Delete it to search anew, or repeat the earlier settings to go on."
            )
        trials = [self._trial(line, number) for number, line in enumerate(lines[1:], start=2)]
        if whole < len(text):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        return trials

    def append(self, trial: Trial) -> None:
        """Write a trial."""
        self._write("a", trial._asdict())

    def _write(self, mode: str, content: object) -> None:
        with self.path.open(mode, encoding="utf-8") as file:
            file.write(_line(content))

    def _trial(self, line: bytes, number: int) -> Trial:
        content = self._parsed(line, number)
        try:
            _check(content["parameters"], self._space)
            return Trial(content["parameters"], float(content["value"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(number) from error

    def _parsed(self, line: bytes, number: int) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            raise self._damaged(number) from error

    def _damaged(self, number: int) -> UserError:
        return UserError(
            f"{self.path} is damaged: line {number} is not what a search writes. Delete the file to search anew, or "
            "that line and those behind it to go on from the trials before it."
        )


def _line(content: object) -> str:
    return json.dumps(content) + "\n"
