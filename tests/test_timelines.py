"""What the picture of a recording shows: lanes, colours, errors, time; not its pixels."""

import io
import itertools
import math
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from speechexp.diarization_metrics import score_file
from speechexp.timelines import clock, error_stretches, lane_colours, row_seconds, timeline_figure
from speechexp.turns import Reference, Turn

REFERENCE = Reference((Turn(0, 10, "ana"), Turn(8, 14, "bo"), Turn(20, 25, "ana")))
# Of ana's 20–25 the first second is taken for a third speaker; bo is found one second late.
HYPOTHESIS = (Turn(0, 10, "S1"), Turn(9, 15, "S0"), Turn(20, 21, "S2"), Turn(21, 25, "S1"))


def names_of(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def bars_of(axes: Any) -> list[tuple[str, list[tuple[float, float]]]]:
    """Return the colour and the stretches of each lane that has bars, from top to bottom."""
    found = []
    for bars in axes.collections:
        boxes = [path.get_extents() for path in bars.get_paths()]
        if boxes:
            stretches = [(round(box.x0, 3), round(box.x1, 3)) for box in boxes]
            found.append((boxes[0].y0, to_hex(bars.get_facecolor()[0]).upper(), stretches))
    return [(colour, stretches) for _, colour, stretches in sorted(found)]


def test_speakers_have_lanes_and_those_that_are_one_have_one_colour() -> None:
    (axes,) = timeline_figure(REFERENCE, HYPOTHESIS, 30, "a call").axes

    assert names_of(axes) == ["ana", "bo", "S1", "S0", "S2", "errors"]
    ana, bo, first, second, third = bars_of(axes)[:5]
    assert ana[1] == [(0, 10), (20, 25)]
    assert third[1] == [(20, 21)]
    assert ana[0] == first[0]
    assert bo[0] == second[0]
    assert len({ana[0], bo[0], third[0]}) == 3


def test_a_mapping_that_is_given_is_followed() -> None:
    (axes,) = timeline_figure(REFERENCE, HYPOTHESIS, 30, "a call", {"S2": "ana", "S0": "bo"}).axes

    colours = dict(zip(names_of(axes), [colour for colour, _ in bars_of(axes)], strict=False))
    assert colours["S2"] == colours["ana"] != colours["S1"]


def test_errors_are_below() -> None:
    figure = timeline_figure(REFERENCE, HYPOTHESIS, 30, "a call")
    strips = [stretches for _, stretches in bars_of(figure.axes[0])[5:]]

    assert strips == [[(8, 9)], [(14, 15)], [(20, 21)]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "missed",
        "false alarm",
        "confusion",
    ]


def test_errors_are_those_that_are_counted() -> None:
    rng = np.random.default_rng(0)

    def talk() -> list[Turn]:
        starts = rng.uniform(0, 90, 20)
        return [Turn(start, start + rng.uniform(0.5, 8), f"S{rng.integers(3)}") for start in starts]

    for scored in (None, ((5.0, 30.0), (40.0, 80.0))):
        reference, hypothesis = Reference(tuple(talk()), scored), talk()
        score = score_file(reference, hypothesis, 100)
        found = error_stretches(reference, hypothesis, 100, score.mapping)
        for name, seconds in {
            "missed": score.components["collar0_overlap"].missed,
            "false alarm": score.components["collar0_overlap"].false_alarm,
        }.items():
            length = sum(end - start for start, end in found[name])
            assert 0 < length <= seconds + 1e-6  # a stretch where two are missed counts twice
        inside = [stretch for each in found.values() for stretch in each]
        for start, end in inside:
            assert scored is None or any(first <= start and end <= last for first, last in scored)


def test_what_is_not_scored_is_hatched_and_has_no_errors() -> None:
    figure = timeline_figure(Reference(REFERENCE.turns, ((0.0, 8.5), (14.0, 19.0))), HYPOTHESIS, 30, "a call")
    (axes,) = figure.axes

    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    assert [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in hatched] == [(8.5, 14), (19, 30)]
    assert [stretches for _, stretches in bars_of(axes)[-2:]] == [[(8, 8.5)], [(14, 15)]]
    assert "not scored" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_recording_without_a_reference() -> None:
    figure = timeline_figure(None, HYPOTHESIS, 30, "my own")

    assert names_of(figure.axes[0]) == ["S1", "S0", "S2"]
    assert not figure.legends


@pytest.mark.parametrize("reference", [Reference(()), Reference((), ()), REFERENCE])
@pytest.mark.parametrize("seconds", [0.0, 0.4, 30.0])
def test_nobody_may_have_been_found(reference: Reference, seconds: float) -> None:
    figure = timeline_figure(reference, [], seconds, "nobody")
    figure.savefig(io.BytesIO())

    assert "nobody" in [text.get_text() for text in figure.axes[0].texts]


def test_a_long_recording_takes_rows_with_the_lanes_of_those_who_speak() -> None:
    reference = Reference((Turn(0, 10, "ana"), Turn(85, 95, "bo"), Turn(170, 175, "cleo")))
    rows = timeline_figure(reference, [Turn(0, 95, "S0")], 180, "three minutes").axes

    assert [names_of(axes) for axes in rows] == [
        ["ana", "S0", "errors"],
        ["bo", "S0", "errors"],
        ["cleo", "errors"],
    ]
    assert [axes.get_xlim() for axes in rows] == [(0, 60), (60, 120), (120, 180)]
    assert bars_of(rows[1])[0][1] == [(85, 95)]
    assert [label.get_text() for label in rows[1].get_xticklabels()][:2] == ["1:00", "1:10"]


@pytest.mark.parametrize(("seconds", "speakers"), [(91, 2), (600, 4), (3600, 2), (5000, 40), (40_000, 3)])
def test_rows_are_few(seconds: float, speakers: int) -> None:
    rows = math.ceil(seconds / row_seconds(seconds, speakers))

    assert 1 < rows <= 8
    assert row_seconds(60) == 60


def test_labels_do_not_overlap() -> None:
    turns = [Turn(index, index + 3, f"a speaker with a name that is long {index}") for index in range(14)]
    figure = timeline_figure(Reference(tuple(turns)), turns, 60, "14 speakers")
    figure.draw_without_rendering()
    (axes,) = figure.axes

    boxes = sorted((label.get_window_extent() for label in axes.get_yticklabels()), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in itertools.pairwise(boxes))
    boxes = sorted((label.get_window_extent() for label in axes.get_xticklabels()), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert min(label.get_window_extent().x0 for label in axes.get_yticklabels()) >= 0


def test_names_leave_room_for_the_lanes() -> None:
    figure = timeline_figure(None, [Turn(0, 9, 20 * "a long name " + "1"), Turn(2, 3, "b")], 10, "one name")
    figure.draw_without_rendering()

    assert names_of(figure.axes[0])[0].endswith("name 1")
    assert figure.axes[0].get_window_extent().width > 700
    assert min(label.get_window_extent().x0 for label in figure.axes[0].get_yticklabels()) >= 0


def test_twenty_speakers_have_colours_of_their_own() -> None:
    turns = [Turn(index, index + 1, f"S{index}") for index in range(20)]
    colours = lane_colours(turns[:13], turns, {f"S{index}": f"S{index}" for index in range(13)})

    assert len(set(colours.hypothesis.values())) == 20
    assert list(colours.hypothesis)[:13] == list(colours.reference)


def test_names_are_no_formulas() -> None:
    figure = timeline_figure(None, [Turn(0, 1, r"$\frac$"), Turn(1, 2, "$")], 5, r"a $\call$")
    figure.savefig(io.BytesIO())

    assert names_of(figure.axes[0]) == [r"$\frac$", "$"]


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00"), (65, "1:05"), (3599, "59:59"), (3725, "1:02:05")])
def test_times_are_told_as_on_a_clock(seconds: float, told: str) -> None:
    assert clock(seconds) == told
