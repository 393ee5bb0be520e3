"""A recording's turns as a picture: the reference above the hypothesis, and below them where they differ."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from speechexp.activity import activity, stretches_of
from speechexp.diarization_metrics import score_file
from speechexp.turns import Reference, Turn, cut, merged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Stretch = tuple[float, float]

# Okabe and Ito (2008), "Color universal design", without black; then the same ones paler, then darker.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_ERRORS = {
    "missed": "#000000",
    "false alarm": "#9A9A9A",
    "confusion": "#E6004C",
}  # they differ in lightness too

_ONE_ROW_SECONDS = 90.0
_ROW_SECONDS = (60, 90, 120, 180, 240, 300, 450, 600, 900, 1200, 1500, 1800, 2400, 3600)
_MOST_ROWS, _FEWEST_ROWS, _MOST_LANES = 8, 4, 80  # long recordings of many speakers get a coarser scale
_TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_MOST_TICKS = 10

_WIDTH_INCHES, _LANE_INCHES = 10.0, 0.17
_HEADING, _GAP, _STRIP = 0.85, 0.4, 1.5  # heights, in lanes
_NAME_CHARACTERS = 18


def timeline_figure(
    reference: Reference | None,
    hypothesis: Sequence[Turn],
    seconds: float,
    title: str,
    mapping: Mapping[str, str] | None = None,
) -> "Figure":
    """Draw who speaks when, a lane for each speaker.

    A hypothesis speaker has the colour of the reference speaker it stands for; one that stands for none has a colour of
    its own. Long recordings take several rows, each with the lanes of those who speak in it.

    Args:
        reference: What is not scored of it is hatched; None for a recording without one.
        hypothesis: In any order.
        seconds: The length of the recording.
        title: Above all.
        mapping: Hypothesis speakers to reference speakers, as of `FileScore`; by default the best one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if reference is not None and mapping is None:
        mapping = score_file(reference, hypothesis, seconds).mapping
    mapping = mapping or {}
    expected = () if reference is None else merged(reference.turns)
    found = merged(hypothesis)
    colours = lane_colours(expected, found, mapping)
    errors = {} if reference is None else error_stretches(reference, found, seconds, mapping)
    unscored = [] if reference is None or reference.scored is None else _gaps(reference.scored, seconds)

    panels = []
    width = row_seconds(seconds, len(colours.reference) + len(colours.hypothesis))
    for index in range(max(math.ceil(seconds / width - 1e-9), 1)):
        start, end = index * width, (index + 1) * width
        groups = [_Group("hypothesis", *_lanes(cut(found, start, end), colours.hypothesis))]
        if reference is not None:
            groups.insert(0, _Group("reference", *_lanes(cut(expected, start, end), colours.reference)))
        panels.append(groups)
    heights = [
        sum(_HEADING + max(len(group.speakers), 1) for group in groups)
        + (_GAP + _STRIP + 0.15) * (reference is not None)
        for groups in panels
    ]
    figure = Figure(  # not pyplot's, which keeps each figure
        figsize=(_WIDTH_INCHES, 0.65 + 0.3 * len(panels) + _LANE_INCHES * sum(heights)),
        dpi=100,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for index, (axes, groups, height) in enumerate(zip(rows, panels, heights, strict=True)):
        start, end = index * width, (index + 1) * width
        axes.set(xlim=(start, end), ylim=(height, 0))
        _draw_lanes(axes, groups, errors)
        _draw_unscored(axes, unscored)
        _draw_time(axes, start, end, seconds)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False)
    keys = [Patch(facecolor=colour, label=name) for name, colour in _ERRORS.items() if errors]
    if unscored:
        keys.append(Patch(facecolor="white", edgecolor="#777777", hatch="////", label="not scored"))
    if keys:
        figure.legend(handles=keys, loc="outside lower right", ncols=4, fontsize=8, frameon=False)
    return figure


def row_seconds(seconds: float, speakers: int = 2) -> float:
    """Return how much of a recording a row shows: all of a short one, else what makes eight rows at most, or fewer.

    Args:
        seconds: The length of the recording.
        speakers: Of reference and hypothesis together; with many, rows are high.
    """
    if seconds <= _ONE_ROW_SECONDS:
        return max(seconds, 1.0)
    rows = min(max(_MOST_LANES // (speakers + 4), _FEWEST_ROWS), _MOST_ROWS)
    fitting = (float(each) for each in _ROW_SECONDS if seconds <= each * rows)
    return next(fitting, 3600.0 * math.ceil(seconds / 3600 / rows))


class LaneColours(NamedTuple):
    """The colours of speakers, by name in the order of their first turns.

    Attributes:
        reference: Of reference speakers.
        hypothesis: Of hypothesis speakers, those with a counterpart first.
    """

    reference: dict[str, str]
    hypothesis: dict[str, str]


def lane_colours(
    reference: Sequence[Turn], hypothesis: Sequence[Turn], mapping: Mapping[str, str]
) -> LaneColours:
    """Return a colour for each speaker, the same for those that the mapping says are one."""
    expected = list(dict.fromkeys(turn.speaker for turn in sorted(reference)))
    found = list(dict.fromkeys(turn.speaker for turn in sorted(hypothesis)))
    alone = [voice for voice in found if mapping.get(voice) not in expected]
    colours = {name: _colour(place) for place, name in enumerate(expected)}
    matched = sorted(set(found) - set(alone), key=lambda voice: expected.index(mapping[voice]))
    own = {voice: _colour(len(expected) + place) for place, voice in enumerate(alone)}
    return LaneColours(colours, {voice: colours[mapping[voice]] for voice in matched} | own)


def error_stretches(
    reference: Reference, hypothesis: Sequence[Turn], seconds: float, mapping: Mapping[str, str]
) -> dict[str, list[Stretch]]:
    """Return where speech is ``missed``, where there is a ``false alarm``, and where speakers are in ``confusion``.

    Nothing is forgiven around boundaries, and what is not scored is left out.

    Args:
        reference: Who really speaks.
        hypothesis: In any order.
        seconds: The length of the recording.
        mapping: Hypothesis speakers to reference speakers.
    """
    expected, found = merged(reference.turns), merged(hypothesis)
    unscored = [] if reference.scored is None else _gaps(reference.scored, seconds)
    marks = [0.0, seconds, *(time for stretch in unscored for time in stretch)]
    cuts = np.unique(np.concatenate([stretches_of(expected).ravel(), stretches_of(found).ravel(), marks]))
    speakers, speaking = activity(expected, cuts)
    voices, voicing = activity(found, cuts)
    count, count_found = speaking.sum(axis=0), voicing.sum(axis=0)
    right = np.zeros_like(count)
    for place, voice in enumerate(voices):
        if mapping.get(voice) in speakers:
            right += voicing[place] * speaking[speakers.index(mapping[voice])]
    middles = (cuts[:-1] + cuts[1:]) / 2
    inside = np.ones(len(middles), dtype=bool)
    for start, end in unscored:
        inside &= (middles < start) | (middles > end)
    kinds = (count > count_found, count_found > count, np.minimum(count, count_found) > right)
    return {
        name: [
            (turn.start, turn.end)
            for turn in merged(
                Turn(float(cuts[i]), float(cuts[i + 1]), name) for i in np.flatnonzero(kind & inside)
            )
            if turn.seconds > 1e-3  # not what comes from rounding
        ]
        for name, kind in zip(_ERRORS, kinds, strict=True)
    }


class _Group(NamedTuple):
    """The lanes of the reference or of the hypothesis in one row."""

    title: str
    speakers: dict[str, str]
    turns: Sequence[Turn]


def _lanes(turns: Sequence[Turn], colours: Mapping[str, str]) -> tuple[dict[str, str], Sequence[Turn]]:
    speaking = {turn.speaker for turn in turns}
    return {name: colour for name, colour in colours.items() if name in speaking}, turns


def _draw_lanes(axes: "Axes", groups: Sequence[_Group], errors: Mapping[str, Sequence[Stretch]]) -> None:
    top = 0.0
    names: dict[float, str] = {}
    for group in groups:
        _say(axes, top + _HEADING / 2, group.title)
        top += _HEADING
        if not group.speakers:
            _say(axes, top + 0.5, "nobody")
        for lane, (speaker, colour) in enumerate(group.speakers.items()):
            if lane % 2 == 0:
                axes.axhspan(top, top + 1, color="#F4F4F4", zorder=0, linewidth=0)
            bars = [(turn.start, turn.seconds) for turn in group.turns if turn.speaker == speaker]
            edge = _mixed(colour, "black", 0.3)
            axes.broken_barh(
                bars, (top + 0.12, 0.76), facecolor=colour, edgecolor=edge, linewidth=0.4, zorder=2
            )
            names[top + 0.5] = _short(speaker)
            top += 1
        top += not group.speakers
    if errors:
        top += _GAP
        axes.axhline(top, color="#BBBBBB", linewidth=0.6)
        names[top + _STRIP / 2] = "errors"
        for place, (name, colour) in enumerate(_ERRORS.items()):
            band = (top + (place + 0.1) * _STRIP / 3, 0.8 * _STRIP / 3)
            bars = [(start, end - start) for start, end in errors[name]]
            axes.broken_barh(bars, band, facecolor=colour, edgecolor=colour, linewidth=0.4, zorder=2)
    axes.set_yticks(list(names), list(names.values()), fontsize=8, parse_math=False)
    axes.tick_params(axis="y", length=0)


def _say(axes: "Axes", y: float, text: str) -> None:
    behind = {"facecolor": "white", "alpha": 0.8, "pad": 0.5, "linewidth": 0}
    where = axes.get_yaxis_transform()  # x as a share of the axes' width
    axes.text(
        0.003, y, text, transform=where, va="center", fontsize=7.5, color="#555555", bbox=behind, zorder=5
    )


def _draw_unscored(axes: "Axes", unscored: Sequence[Stretch]) -> None:
    for start, end in unscored:
        axes.axvspan(
            start, end, facecolor=(1, 1, 1, 0.55), edgecolor="#777777", hatch="////", linewidth=0, zorder=3
        )


def _draw_time(axes: "Axes", start: float, end: float, seconds: float) -> None:
    if end > seconds:
        axes.axvspan(max(seconds, start), end, color="#EEEEEE", zorder=4, linewidth=0)
    step = next((each for each in _TICK_SECONDS if (end - start) / each <= _MOST_TICKS), end - start)
    places = [start + step * index for index in range(int((min(end, seconds) - start) / step + 1e-9) + 1)]
    axes.set_xticks(places, [clock(place) for place in places], fontsize=8)
    axes.tick_params(axis="x", length=2, pad=1)
    axes.grid(axis="x", color="#D0D0D0", linewidth=0.5, zorder=1)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def clock(seconds: float) -> str:
    """Return a time as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _colour(place: int) -> str:
    pure = _PALETTE[place % len(_PALETTE)]
    return (pure, _mixed(pure, "white", 0.6), _mixed(pure, "black", 0.5))[place // len(_PALETTE) % 3]


def _mixed(colour: str, other: str, share: float) -> str:
    """Return a colour with a share of another in it."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (1 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(other))
    return to_hex((red, green, blue)).upper()


def _short(name: str) -> str:
    """Return a name that fits beside its lane; the ends of names tell them apart."""
    half = _NAME_CHARACTERS // 2
    return name if len(name) <= _NAME_CHARACTERS else f"{name[: half - 1]}…{name[-half:]}"


def _gaps(scored: Sequence[Stretch], seconds: float) -> list[Stretch]:
    """Return the stretches of a recording that lie between those that are scored."""
    edges = [0.0, *(time for stretch in scored for time in stretch), seconds]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end > start]
