from collections import Counter
from pathlib import Path

import pytest

from speechexp.errors import UserError
from speechexp.rttm import (
    BACKWARDS,
    EARLY,
    LATE,
    OVERLAPPING,
    UNKNOWN_FILE,
    Placed,
    known_files,
    mend,
    read_rttm,
    read_uem,
    refuse,
    rttm_name,
    settle,
    write_rttm,
)
from speechexp.turns import Turn

GOOD = "SPEAKER call 1 0.50 1.25 <NA> <NA> ana <NA> <NA>\n"


def written(folder: Path, content: str | bytes, name: str = "x.rttm") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# -------------------------------------------------------------------------------------------- RTTM


def test_turns_are_read_by_file_with_their_places(tmp_path: Path) -> None:
    content = GOOD + ";; a note\n\nSPEAKER other 2 3 1 <NA> <NA> José <NA> <NA>\n" + GOOD.replace("0.50", "4")
    path = written(tmp_path, content)
    found = read_rttm(path)

    assert list(found) == ["call", "other"]
    assert [each.turn for each in found["call"]] == [Turn(0.5, 1.75, "ana"), Turn(4, 5.25, "ana")]
    assert found["other"][0].turn == Turn(3, 4, "José")
    assert (found["other"][0].channel, found["other"][0].line) == ("2", 4)
    assert found["other"][0].where == f"{path}:4"


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace(" ", "\t"),
        GOOD.replace(" ", "  \t"),
        GOOD.rstrip(),
        GOOD.replace(" <NA>\n", "\n"),
        "SPKR-INFO call 1 <NA> <NA> <NA> unknown ana <NA>\n"
        + GOOD
        + "NON-LEX call 1 0 1 breath other ana <NA>\n",
    ],
    ids=["BOM", "CRLF", "tabs", "mixed", "no newline", "nine fields", "other records"],
)
def test_what_rttm_files_look_like(tmp_path: Path, content: str) -> None:
    found = read_rttm(written(tmp_path, content))

    assert [each.turn for each in found["call"]] == [Turn(0.5, 1.75, "ana")]
    assert list(found) == ["call"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SPEAKER call 1 0.5", "4 fields instead of 10"),
        ("SPEAKER my call 1 0.5 1 <NA> <NA> ana <NA> <NA>", "names may hold no spaces"),
        (
            "SPEAKER call 1 half 1 <NA> <NA> ana <NA> <NA>",
            "its start as a number of seconds, but that is 'half'",
        ),
        ("SPEAKER call 1 0,5 1 <NA> <NA> ana <NA> <NA>", "'0,5'"),
        (
            "SPEAKER call 1 0.5 nan <NA> <NA> ana <NA> <NA>",
            "its duration as a number of seconds, but that is 'nan'",
        ),
        ("SPEAKER call 1 0.5 inf <NA> <NA> ana <NA> <NA>", "'inf'"),
        ("SPEAKER call 1 0.5 1 <NA> <NA> <NA> <NA> <NA>", "name its speaker"),
        ("SPEKAER call 1 0.5 1 <NA> <NA> ana <NA> <NA>", "Did you mean SPEAKER"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path, GOOD + line + "\n")
    with pytest.raises(UserError) as error:
        read_rttm(path)

    assert f"{path}:2" in str(error.value)
    assert said in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.rttm can't be read: No such file"):
        read_rttm(tmp_path / "none.rttm")
    with pytest.raises(UserError, match="must be UTF-8 text"):
        read_rttm(written(tmp_path, GOOD.replace("ana", "José").encode("latin-1")))


def test_written_turns_come_back(tmp_path: Path) -> None:
    turns = [Turn(3.0004, 4.9996, "b"), Turn(0, 61.123, "a"), Turn(5.0001, 5.0003, "b")]
    path = tmp_path / "x.rttm"
    write_rttm(path, "call", turns)

    assert path.read_text().splitlines() == [
        "SPEAKER call 1 0.000 61.123 <NA> <NA> a <NA> <NA>",
        "SPEAKER call 1 3.000 2.000 <NA> <NA> b <NA> <NA>",
    ]
    assert [each.turn for each in read_rttm(path)["call"]] == [Turn(0, 61.123, "a"), Turn(3, 5, "b")]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name", ["a call", "a\tcall", " ", "", "<NA>", "ñandú", "100%", "a\u00a0b", "a\nb", ";;a"]
)
def test_any_name_can_be_written(tmp_path: Path, name: str) -> None:
    write_rttm(tmp_path / "x.rttm", name, [Turn(0, 1, name)])

    ((file_id, (turn,)),) = read_rttm(tmp_path / "x.rttm").items()
    assert file_id == turn.turn.speaker == rttm_name(name)


def test_different_names_stay_different() -> None:
    names = ["a b", "a_b", "a%20b", "a%b", "a\tb", "a  b", "", "%", " ", "%25", "<NA>", "%3CNA>"]

    assert len({rttm_name(name) for name in names}) == len(names)
    assert rttm_name("es_419-call.01") == "es_419-call.01"


def test_pyannote_reads_what_is_written(tmp_path: Path) -> None:
    from pyannote.database.util import load_rttm

    write_rttm(tmp_path / "x.rttm", "a call", [Turn(0.5, 2, "ana"), Turn(1, 3, "bo b")])
    annotation = load_rttm(tmp_path / "x.rttm")["a%20call"]

    found = [
        (segment.start, segment.end, name) for segment, _, name in annotation.itertracks(yield_label=True)
    ]
    assert found == [(0.5, 2, "ana"), (1, 3, "bo%20b")]


# --------------------------------------------------------------------------------------------- UEM


def test_scored_stretches_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path, ";; from the corpus\ncall 1 10 20.5\r\ncall\t1\t0\t5\nother 1 0 7\ncall 2 4 6\n", "x.uem"
    )

    assert read_uem(path) == {"call": [(0, 6), (10, 20.5)], "other": [(0, 7)]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("call 1 0", "3 fields instead of 4"),
        ("call 1 a 3", "its start as a number of seconds, but that is 'a'"),
        ("call 1 0 nan", "'nan'"),
        ("call 1 3 3", "must end after it starts"),
        ("call 1 -1 3", "at 0 or later"),
    ],
)
def test_a_broken_stretch_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path, f"call 1 0 5\n{line}\n", "x.uem")
    with pytest.raises(UserError) as error:
        read_uem(path)

    assert f"{path}:2" in str(error.value)
    assert said in str(error.value)


# ------------------------------------------------------------------------------------------- faults


def placed(*turns: tuple[float, float, str]) -> list[Placed]:
    return [Placed(Turn(*turn), f"calls.csv row {row}") for row, turn in enumerate(turns, start=1)]


@pytest.mark.parametrize(
    ("turns", "kind", "said", "mended"),
    [
        ([(0, 5, "a"), (4, 6, "a")], OVERLAPPING, "row 2: a from 4.000 to 6.000 s", [Turn(0, 6, "a")]),
        (
            [(0, 9, "a"), (2, 3, "a"), (12, 13, "a")],
            OVERLAPPING,
            "row 1",
            [Turn(0, 9, "a"), Turn(12, 13, "a")],
        ),
        ([(1, 2, "a"), (3, 3, "b")], BACKWARDS, "row 2: b from 3.000 to 3.000 s", [Turn(1, 2, "a")]),
        ([(1, 2, "a"), (5, 3, "b")], BACKWARDS, "row 2: b from 5.000 to 3.000 s", [Turn(1, 2, "a")]),
        ([(1, 2, "a"), (5, float("nan"), "b")], BACKWARDS, "row 2: b from 5.000 to nan s", [Turn(1, 2, "a")]),
        ([(-1, 2, "a")], EARLY, "begins before 0", [Turn(0, 2, "a")]),
        ([(18, 21, "a")], LATE, "the audio ends at 20.000 s", [Turn(18, 20, "a")]),
        ([(1, 2, "a"), (21, 23, "b")], LATE, "row 2", [Turn(1, 2, "a")]),
    ],
)
def test_faults_are_refused_or_mended(turns, kind: str, said: str, mended: list[Turn]) -> None:
    with pytest.raises(UserError) as error:
        settle(placed(*turns), 20.0, "refuse")

    assert f"{kind} (1)" in str(error.value)
    assert said in str(error.value)
    assert "data.faults=mend" in str(error.value)
    assert settle(placed(*turns), 20.0, "mend") == (tuple(mended), Counter({kind: 1}))


def test_what_comes_from_rounding_is_no_fault() -> None:
    turns = placed((-0.03, 5.02, "a"), (5, 20.04, "a"), (4, 6, "b"), (20.01, 20.03, "b"))

    assert settle(turns, 20.0, "refuse") == ((Turn(0, 20, "a"), Turn(4, 6, "b")), Counter())


def test_speakers_may_speak_at_once_and_in_any_order() -> None:
    turns = placed((4, 8, "b"), (12, 14, "a"), (0, 5, "a"), (8, 9, "b"))

    assert settle(turns, 20.0, "refuse") == (
        (Turn(0, 5, "a"), Turn(4, 9, "b"), Turn(12, 14, "a")),
        Counter(),
    )


def test_a_long_turn_overlaps_with_all_within_it() -> None:
    turns = placed((0, 9, "a"), (2, 3, "a"), (5, 6, "a"))

    assert settle(turns, 20.0, "mend") == ((Turn(0, 9, "a"),), Counter({OVERLAPPING: 2}))


def test_an_empty_reference_is_allowed() -> None:
    assert settle([], 20.0, "refuse") == ((), Counter())


def test_all_faults_are_counted_and_the_first_are_shown() -> None:
    turns = placed(*((start, start, "a") for start in range(1, 10)), (30, 31, "b"))
    with pytest.raises(UserError) as error:
        settle(turns, 20.0, "refuse")

    text = str(error.value)
    assert f"{BACKWARDS} (9)" in text
    assert f"{LATE} (1)" in text
    assert "(10 in all)" in text
    assert text.count("calls.csv row") == 5


def test_faults_of_many_recordings_are_refused_as_one() -> None:
    found = [fault for start in (3, 4) for fault in mend(placed((start, 2, "a")), 20.0)[1]]
    with pytest.raises(UserError, match=rf"{BACKWARDS} \(2\)"):
        refuse(found)

    refuse([])


def test_files_without_a_recording(tmp_path: Path) -> None:
    turns = read_rttm(written(tmp_path, GOOD + GOOD.replace("call", "cal") + GOOD.replace("call", "cal")))
    with pytest.raises(
        UserError, match=rf"{UNKNOWN_FILE} \(1\).*:2: no recording is called cal\. Did you mean call"
    ):
        known_files(turns, ["call", "other"], "refuse")

    known, counts = known_files(turns, ["call", "other"], "mend")
    assert list(known) == ["call"]
    assert counts == Counter({UNKNOWN_FILE: 1})
