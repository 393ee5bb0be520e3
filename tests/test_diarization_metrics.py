"""Diarization figures, against small cases counted by hand and against pyannote.metrics."""

import math
import random
import time
import warnings

import pytest

from speechexp.diarization_metrics import CONVENTIONS, FileScore, figures, score_file
from speechexp.turns import Reference, Turn, merged

STRICT, COLLAR, LENIENT = CONVENTIONS


def turns(text: str) -> tuple[Turn, ...]:
    """Return turns from text such as "A 0 10, B 5 12"."""
    parts = [each.split() for each in text.split(",") if each.strip()]
    return tuple(sorted(Turn(float(start), float(end), speaker) for speaker, start, end in parts))


def scored(reference: str, hypothesis: str, seconds: float = 20.0, regions=None) -> FileScore:
    return score_file(Reference(turns(reference), regions), turns(hypothesis), seconds)


def parts(score: FileScore, convention: str = STRICT) -> tuple[float, float, float, float]:
    """Return speech, false alarm, missed and confusion."""
    found = score.components[convention]
    return found.speech, found.false_alarm, found.missed, found.confusion


# ------------------------------------------------------------------------------------------ by hand


def test_the_names_of_speakers_do_not_matter() -> None:
    score = scored("A 0 10, B 10 15", "x 10 15, y 0 10")

    assert parts(score) == (15, 0, 0, 0)
    assert score.mapping == {"y": "A", "x": "B"}


def test_each_kind_of_error_is_counted_in_seconds() -> None:
    # 0–1 missed, 1–8 right, 8–10 y for A, 10–14 right, 14–15 missed, 15–16 false alarm (of x)
    score = scored("A 0 10, B 10 15", "x 1 8, y 8 14, x 15 16")

    assert parts(score) == pytest.approx((15, 1, 2, 2))
    assert score.der == pytest.approx(5 / 15)


def test_overlapped_speech_counts_once_for_each_speaker() -> None:
    score = scored("A 0 10, B 5 15", "x 0 10, y 10 15")

    assert parts(score) == pytest.approx((20, 0, 5, 0))
    assert parts(score, LENIENT)[0] == pytest.approx(10 - 0.25 - 0.25 - 0.25 - 0.25)


def test_a_collar_forgives_a_quarter_second_on_either_side_of_a_boundary() -> None:
    inside, outside = scored("A 5 10", "x 4.8 10.2"), scored("A 5 10", "x 4.5 10.2")

    assert parts(inside) == pytest.approx((5, 0.4, 0, 0))
    assert parts(inside, COLLAR) == pytest.approx((4.5, 0, 0, 0))
    assert parts(outside, COLLAR) == pytest.approx((4.5, 0.25, 0, 0))


def test_each_convention_has_the_mapping_that_suits_it_best() -> None:
    # With overlap x speaks 6 s with A and 4 s with B; without it, only with B.
    score = scored("A 0 6, B 6 10, C 0 6", "x 0 10, y 0 6")

    assert score.mapping == {"x": "A", "y": "C"}
    assert parts(score) == pytest.approx((16, 0, 0, 4))
    assert parts(score, LENIENT) == pytest.approx((3.5, 0, 0, 0))


def test_only_the_scored_stretches_count() -> None:
    score = scored("A 0 10, B 12 15", "x 0 8, x 12 15", regions=((2.0, 9.0),))

    assert parts(score) == pytest.approx((7, 0, 1, 0))
    assert score.jaccard == pytest.approx({"A": 1 / 7})
    assert score.speaker_count_error == 0


def test_jaccard_errors_weigh_speakers_equally() -> None:
    # A: 8 of 10 s; B, who says little, is not found: 1.
    score = scored("A 0 10, B 12 12.5", "x 0 8")

    assert score.jaccard == pytest.approx({"A": 0.2, "B": 1.0})
    assert figures([score])["jer"] == pytest.approx(0.6)


def test_speakers_are_counted() -> None:
    more, fewer, right = (
        scored("A 0 5", "x 0 4, y 4 5"),
        scored("A 0 5, B 6 9", "x 0 9"),
        scored("A 0 5", "x 1 5"),
    )

    assert [each.speaker_count_error for each in (more, fewer, right)] == [1, -1, 0]
    found = figures([more, fewer, right])
    assert found["speaker_count_error"] == pytest.approx(2 / 3)
    assert found["speaker_count_right"] == pytest.approx(1 / 3)


def test_overlap_is_looked_for_too() -> None:
    found = figures([scored("A 0 10, B 8 15", "x 0 11, y 9 15")])  # overlap 8–10, found 9–11

    assert found["overlap_precision"] == found["overlap_recall"] == found["overlap_f1"] == pytest.approx(0.5)


def test_a_total_is_of_seconds_not_a_mean_of_rates() -> None:
    long, short = scored("A 0 18", "x 0 18"), scored("A 0 2", "")

    assert figures([long, short])["der"] == pytest.approx(2 / 20)


def test_shares_add_up_to_the_rate() -> None:
    found = figures([scored("A 0 10, B 10 15", "x 1 8, y 8 14, x 15 16"), scored("A 0 5, B 3 9", "x 0 9")])

    for convention in CONVENTIONS:
        shares = sum(found[f"{kind}_{convention}"] for kind in ("false_alarm", "missed", "confusion"))
        assert shares == pytest.approx(found[f"der_{convention}"])
        assert shares > 0


def test_a_silent_recording_has_no_rate_but_its_false_alarms_count() -> None:
    silent, spoken = scored("", "x 2 5"), scored("A 0 10", "x 0 10")

    assert silent.der is None
    assert math.isnan(figures([silent])["der"])
    assert "jer" not in figures([silent])
    assert figures([silent, spoken])["der"] == pytest.approx(0.3)


def test_an_empty_hypothesis_misses_everything() -> None:
    score = scored("A 0 10, B 5 15", "")

    assert score.der == 1
    assert score.mapping == {}
    assert figures([score])["jer"] == 1
    assert "detection_precision" not in figures([score])


def test_a_speaker_who_overlaps_with_itself_counts_once() -> None:
    assert parts(scored("A 0 10", "x 0 6, x 4 10")) == (10, 0, 0, 0)


# --------------------------------------------------------------------------------------- pyannote.metrics


def random_turns(rng: random.Random, speakers: int, seconds: float, count: int) -> tuple[Turn, ...]:
    """Return turns that overlap at times; starts and ends have 2 decimals or any."""
    names = [f"S{index}" for index in range(speakers)]
    found = []
    for _ in range(count if speakers else 0):
        start = rng.uniform(0, seconds - 1)
        end = min(start + rng.expovariate(0.4) + 0.05, seconds)
        if rng.random() < 0.5:
            start, end = round(start, 2), round(end, 2)
        found.append(Turn(start, end, rng.choice(names)))
    return merged(found)


def perturbed(rng: random.Random, reference: tuple[Turn, ...], seconds: float) -> tuple[Turn, ...]:
    """Return turns like the reference's: moved, lost, by others, and with some added."""
    found = []
    for turn in reference:
        if rng.random() < 0.85:
            start = max(turn.start + rng.gauss(0, 0.3), 0)
            end = min(turn.end + rng.gauss(0, 0.3), seconds)
            speaker = turn.speaker if rng.random() < 0.8 else f"S{rng.randrange(6)}"
            if end > start:
                found.append(Turn(start, end, f"hypothesis {speaker}"))
    return merged([*found, *random_turns(rng, rng.randrange(3), seconds, 3)])


def random_case(seed: int) -> tuple[Reference, tuple[Turn, ...], float]:
    rng = random.Random(seed)
    seconds = rng.uniform(20, 120)
    reference = random_turns(rng, rng.randrange(7) if seed % 9 else 0, seconds, rng.randrange(1, 40))
    hypothesis = () if seed % 11 == 0 else perturbed(rng, reference, seconds)
    regions = None
    if seed % 3 == 0:
        marks = sorted(rng.uniform(0, seconds) for _ in range(4))
        regions = ((marks[0], marks[1]), (marks[2], marks[3]))
    return Reference(reference, regions), hypothesis, seconds


def test_figures_are_those_of_pyannote() -> None:
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics import detection, diarization

    def annotation(these: tuple[Turn, ...]) -> Annotation:
        made = Annotation()
        for track, turn in enumerate(these):
            made[Segment(turn.start, turn.end), track] = turn.speaker
        return made

    theirs = {
        STRICT: diarization.DiarizationErrorRate(),
        COLLAR: diarization.DiarizationErrorRate(collar=0.5),
        LENIENT: diarization.DiarizationErrorRate(collar=0.5, skip_overlap=True),
    }
    others = {
        "jer": diarization.JaccardErrorRate(),
        "speaker_count_error": diarization.DiarizationSpeakerCountError(),
        "speaker_count_right": diarization.DiarizationSpeakerCountAccuracy(),
        "detection_error": detection.DetectionErrorRate(),
        "detection_precision": detection.DetectionPrecision(),
        "detection_recall": detection.DetectionRecall(),
        "detection_f1": detection.DetectionPrecisionRecallFMeasure(),
    }
    ours, seen = [], set()
    for seed in range(60):
        reference, hypothesis, seconds = random_case(seed)
        expected, found = annotation(reference.turns), annotation(hypothesis)
        uem = Timeline([Segment(*each) for each in reference.scored or ((0, seconds),)])
        score = score_file(reference, hypothesis, seconds)
        ours.append(score)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for convention, metric in theirs.items():
                detail = metric(expected, found, uem=uem, detailed=True)
                names = ("total", "false alarm", "missed detection", "confusion")
                assert parts(score, convention) == pytest.approx([detail[name] for name in names], abs=1e-5)
                seen |= {(convention, name) for name in names if detail[name]}
            for metric in others.values():
                metric(expected, found, uem=uem)

    totals = figures(ours)
    for convention, metric in theirs.items():
        assert totals[f"der_{convention}"] == pytest.approx(abs(metric), abs=1e-6)
    for name, metric in others.items():
        value = metric.compute_metrics()[2] if name == "detection_f1" else abs(metric)
        assert totals[name] == pytest.approx(value, abs=1e-6), name
    assert totals["der"] == totals[f"der_{STRICT}"]
    assert len(seen) == 12  # every component of every convention was at stake


def test_a_long_recording_is_scored_in_milliseconds() -> None:
    rng = random.Random(1)
    reference = random_turns(rng, 6, 600, 220)
    hypothesis = perturbed(rng, reference, 600)

    taken = []
    for _ in range(5):
        started = time.perf_counter()
        score_file(Reference(reference), hypothesis, 600)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.05  # 1.5 ms on a core of 2024
