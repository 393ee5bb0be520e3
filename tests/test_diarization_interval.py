import numpy as np
import pytest

from speechexp.diarization_interval import der_interval
from speechexp.diarization_metrics import FileScore, figures, score_file
from speechexp.turns import Reference, Turn


def recordings(count: int, rng: np.random.Generator) -> list[FileScore]:
    """Return scores of recordings of various lengths, of which various shares were missed, a third on the whole."""
    found = []
    for _ in range(count):
        speech = rng.uniform(20, 80)
        missed = speech * rng.beta(1, 2)
        found.append(
            score_file(
                Reference((Turn(0, speech, "A"),)),
                [Turn(missed, speech, "x")] if missed < speech else [],
                100,
            )
        )
    return found


def test_the_interval_holds_the_figure() -> None:
    files = recordings(30, np.random.default_rng(0))
    found = der_interval(files, seed=1)

    assert found["der_ci95_low"] < figures(files)["der"] < found["der_ci95_high"]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(150):
        found = der_interval(recordings(30, rng), seed, resamples=300)
        covered += found["der_ci95_low"] <= 1 / 3 <= found["der_ci95_high"]

    assert 0.87 <= covered / 150 <= 0.99


def test_silent_recordings_bring_their_false_alarms() -> None:
    spoken = recordings(10, np.random.default_rng(0))
    silent = [score_file(Reference(()), [Turn(0, 30, "x")], 100)] * 10

    without, beside = der_interval(spoken, seed=1), der_interval([*spoken, *silent], seed=1)
    assert beside["der_ci95_low"] > without["der_ci95_high"]


def test_a_draw_without_speech_has_no_rate() -> None:
    silent = [score_file(Reference(()), [Turn(0, 30, "x")], 100)] * 10
    found = der_interval([*recordings(2, np.random.default_rng(0)), *silent], seed=1)

    assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize("silent", [0, 3])
def test_a_single_recording_has_no_interval(silent: int) -> None:
    files = recordings(1, np.random.default_rng(0))

    assert der_interval([*files, *[score_file(Reference(()), [], 10)] * silent], seed=1) == {}
