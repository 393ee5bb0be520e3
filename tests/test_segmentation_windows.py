"""Windows cut out of recordings: all that is scored, nothing else, each with its own speakers."""

from pathlib import Path

import numpy as np
import pytest
from helpers_audio import RATE, no_progress
from helpers_turns import Turns
from test_diarization_runs import write_talk

from speechexp.corpora.audio_folder import AudioFolder
from speechexp.segmentation_targets import FrameGrid
from speechexp.segmentation_windows import Windows
from speechexp.turns import Reference, Turn, write_reference

GRID = FrameGrid(start=0.0, step=0.1, duration=0.1, count=20)  # centres at 0.05, 0.15, …
TALK = (Turn(0.0, 3.0, "A"), Turn(2.0, 5.0, "B"))


def windows(hop_share: float = 1.0, max_speakers: int = 3) -> Windows:
    """Return windows of two seconds."""
    return Windows(GRID, 2 * RATE, RATE, max_speakers, hop_share)


def seconds(places: list[tuple[int, int]]) -> list[tuple[float, float]]:
    return [(first / RATE, (first + count) / RATE) for first, count in places]


def text(*scored: tuple[float, float]) -> str:
    return write_reference(Reference(TALK, scored or None))


@pytest.mark.parametrize(
    ("length", "wanted"),
    [
        (6.0, [(0, 2), (2, 4), (4, 6)]),
        (5.0, [(0, 2), (2, 4), (3, 5)]),  # the last one ends where the recording does
        (2.0, [(0, 2)]),
        (1.5, [(0, 1.5)]),
        (0.01, [(0, 0.01)]),
    ],
)
def test_windows_follow_each_other_to_the_end(length, wanted):
    assert seconds(windows().starts(text(), round(length * RATE))) == wanted


def test_windows_may_overlap_by_a_share():
    places = seconds(windows(hop_share=0.5).starts(text(), 5 * RATE))
    assert places == [(0, 2), (1, 3), (2, 4), (3, 5)]


def test_what_is_not_scored_is_not_in_a_window():
    places = windows().starts(text((0.5, 3.5), (4.0, 5.0), (5.5, 9.0), (20.0, 30.0)), 6 * RATE)
    assert seconds(places) == [(0.5, 2.5), (1.5, 3.5), (4, 5), (5.5, 6)]
    assert windows().starts(write_reference(Reference(TALK, ())), 6 * RATE) == []


def test_targets_are_on_the_recordings_clock_and_count_speakers_anew():
    def bits(start: float) -> list[int]:
        return list(windows().target(text(), round(start * RATE), 2 * RATE))

    assert bits(0.0) == [1] * 20  # A alone
    assert bits(2.0) == [0b11] * 10 + [0b01] * 10  # B is heard longer: the first
    assert bits(4.0) == [1] * 10 + [0] * 10  # B alone
    assert bits(6.0) == [0] * 20


def test_of_more_speakers_than_the_network_tells_apart_the_least_talkative_are_left_out():
    crowd = write_reference(
        Reference(tuple(Turn(0.0, 0.5 + 0.5 * number, name) for number, name in enumerate("ABC")))
    )
    found = np.array(windows(max_speakers=2).target(crowd, 0, 2 * RATE))
    assert found.max() == 0b11
    assert ((found & 1) > 0).sum() == 15  # C
    assert ((found & 2) > 0).sum() == 10  # B


def test_stretches_hold_the_audio_and_the_targets_of_their_place(tmp_path: Path):
    write_talk(tmp_path / "own" / "train", "talk", 5.0, [(0.0, 3.0, "A"), (2.0, 5.0, "B")])
    write_talk(tmp_path / "own" / "validation", "other", 3.0, [(0.0, 2.0, "A")])
    data = AudioFolder(
        Turns(), path=str(tmp_path / "own"), min_seconds=0.5, cache_dir=str(tmp_path / "cache")
    )
    data.load(no_progress)
    data.stretching = windows()
    (whole,) = data.clips("train")
    stretches = data.stretches()
    assert stretches.lengths.tolist() == [2 * RATE] * 3
    for stretch, start in zip(stretches, (0, 2, 3), strict=False):
        assert stretch.id == f"train/talk@{start * RATE}"
        assert np.array_equal(stretch.audio, whole.audio[start * RATE : (start + 2) * RATE])
        assert list(stretch.target) == list(windows().target(text(), start * RATE, 2 * RATE))
    with (data.prepared.folder / "audio.int16").open("r+b") as file:
        file.truncate(2 * 2 * RATE)
    assert len(stretches[0].audio) == 2 * RATE  # nothing behind it is read
    with pytest.raises(OSError, match=r".+"):
        stretches[1]
