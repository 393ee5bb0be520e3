import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_audio import encode, no_progress, tone, write_tone
from helpers_turns import Turns

from speechexp.corpora.audio_folder import AudioFolder
from speechexp.errors import UserError
from speechexp.manifest import Row
from speechexp.recognition import SpeechRecognition
from speechexp.turns import Reference, Turn, read_reference

AB = [(0.0, 0.5, "A"), (0.4, 1.0, "B")]
REFERENCE = Reference((Turn(0.0, 0.5, "A"), Turn(0.4, 1.0, "B")))


def rttm(file_id: str, turns: list[tuple[float, float, str]], channel: str = "1") -> str:
    """Return lines of an RTTM file."""
    return "".join(
        f"SPEAKER {file_id} {channel} {start:.3f} {end - start:.3f} <NA> <NA> {speaker} <NA> <NA>\n"
        for start, end, speaker in turns
    )


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(texts))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def rows(folder: Path, **settings: Any) -> dict[str, Row]:
    data = AudioFolder(Turns(), path=str(folder), cache_dir=str(folder.parent / "cache"), **settings)
    data.open_source(no_progress)
    return {row.id: row for row in data.rows()}


def references(folder: Path, **settings: Any) -> dict[str, Reference]:
    return {name: read_reference(row.reference) for name, row in rows(folder, **settings).items()}


def refused(folder: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as raised:
        rows(folder, **settings)
    return str(raised.value)


# ---------------------------------------------------------------------------------------------- where turns lie


@pytest.mark.parametrize(
    "layout",
    [
        {"x.rttm": rttm("x", AB), "y.rttm": rttm("y", AB[:1])},
        {"rttm/x.rttm": rttm("x", AB), "rttm/y.rttm": rttm("y", AB[:1])},
        {"all.rttm": rttm("x", AB) + rttm("y", AB[:1])},
    ],
    ids=["beside", "folder", "one"],
)
def test_turns_are_found_beside_in_a_folder_or_in_one_file(folder: Path, layout: dict[str, str]) -> None:
    write_tone(folder / "x.wav")
    write_tone(folder / "y.wav")
    for name, text in layout.items():
        write(folder / name, text)

    assert references(folder) == {"x": REFERENCE, "y": Reference((Turn(0.0, 0.5, "A"),))}


def test_like_named_recordings_of_split_folders_are_told_apart_by_where_the_turns_lie(folder: Path) -> None:
    for split, turns in (("train", AB), ("validation", AB[:1]), ("test", AB[1:])):
        write_tone(folder / split / "x.wav")
        write(folder / split / "x.rttm", rttm("x", turns))

    found = rows(folder)

    assert {name: row.split for name, row in found.items()} == {
        "train/x": "train",
        "validation/x": "validation",
        "test/x": "test",
    }
    assert read_reference(found["test/x"].reference).turns == (Turn(0.4, 1.0, "B"),)


def test_one_file_tells_like_named_recordings_apart_by_their_folders(folder: Path) -> None:
    for split in ("train", "test"):
        write_tone(folder / split / "x.wav")
    write(folder / "all.rttm", rttm("train/x", AB), rttm("test/x", AB[:1]))

    assert references(folder)["train/x"] == REFERENCE

    write(folder / "all.rttm", rttm("x", AB))
    assert "x is test/x.wav and train/x.wav. Write folders too, such as test/x" in refused(folder)


def test_name_with_a_space_is_found_as_rttm_writes_it(folder: Path) -> None:
    write_tone(folder / "my call.wav")
    write(folder / "all.rttm", rttm("my%20call", AB))

    assert references(folder) == {"my call": REFERENCE}


def test_splits_are_drawn_by_name(folder: Path) -> None:
    for number in range(40):
        write_tone(folder / f"{number}.wav", 0.6)
        write(folder / f"{number}.rttm", rttm(str(number), AB[:1]))

    before = {name: row.split for name, row in rows(folder, validation_share=0.25, test_share=0.25).items()}
    write_tone(folder / "another.wav", 0.6)
    write(folder / "another.rttm", "")
    after = {name: row.split for name, row in rows(folder, validation_share=0.25, test_share=0.25).items()}

    assert set(before.values()) == {"train", "validation", "test"}
    assert before.items() <= after.items()
    assert {row.split for row in rows(folder, validation_share=0.0, test_share=1.0).values()} == {"test"}


def test_recording_outside_the_split_folders_is_refused(folder: Path) -> None:
    for name in ("train/x", "y"):
        write_tone(folder / f"{name}.wav")
        write(folder / f"{name}.rttm", rttm(Path(name).name, AB))

    assert "has the splits train, but y.wav lies elsewhere" in refused(folder)


# ---------------------------------------------------------------------------------------------- what is scored


def test_uem_says_what_is_scored(folder: Path) -> None:
    write_tone(folder / "x.wav")
    write(folder / "x.rttm", rttm("x", AB))
    write(folder / "scored.uem", "x 1 0.2 0.7\nx 1 0.8 3.0\n")

    assert references(folder)["x"].scored == ((0.2, 0.7), (0.8, 1.0))


def test_last_seconds_cut_turns_and_what_is_scored(folder: Path) -> None:
    write_tone(folder / "x.wav")
    write(folder / "x.rttm", rttm("x", AB))
    write(folder / "x.uem", "x 1 0.2 0.7\n")

    assert references(folder, last_seconds=0.55)["x"] == Reference(
        (Turn(0.0, 0.05, "A"), Turn(0.0, 0.55, "B")), ((0.0, 0.25),)
    )


# -------------------------------------------------------------------------------------------------- channels


def stereo(folder: Path) -> Path:
    """Write a call with 300 Hz on its first channel and 1200 Hz on its second."""
    samples = np.stack([tone(1.0, 44_100, 300.0), tone(1.0, 44_100, 1200.0)], axis=1)
    folder.mkdir(parents=True)
    (folder / "call.mp3").write_bytes(encode(samples, 44_100, "MP3", "MPEG_LAYER_III"))
    write(folder / "call.rttm", rttm("call", AB[:1], "1"), rttm("call", AB[1:], "2"))
    return folder


def strongest(samples: "np.ndarray[Any, Any]") -> float:
    """Return the frequency that is strongest, in Hz."""
    return float(np.abs(np.fft.rfft(samples)).argmax()) * 16_000 / len(samples)


def test_channels_become_recordings_with_their_own_turns(folder: Path) -> None:
    data = AudioFolder(
        Turns(),
        path=str(stereo(folder)),
        channels="separate",
        cache_dir=str(folder.parent / "cache"),
        validation_share=0.0,
        test_share=0.0,
    )
    data.load(no_progress)

    assert data.ids("train") == ["call/1", "call/2"]
    assert read_reference(data.references("train")[0]).turns == (Turn(0.0, 0.5, "A"),)
    assert read_reference(data.references("train")[1]).turns == (Turn(0.4, 1.0, "B"),)
    assert strongest(data.prepared.samples(0)) == pytest.approx(300, abs=5)
    assert strongest(data.prepared.samples(1)) == pytest.approx(1200, abs=5)


def test_channels_that_are_mixed_down_are_said(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert references(stereo(folder)) == {"call": REFERENCE}
    assert "1 of 1 recordings have several channels, which are mixed down (data.channels=separate" in said(
        capfd
    )


def test_turn_on_a_channel_that_is_not_there_is_refused(folder: Path) -> None:
    write(stereo(folder) / "call.rttm", rttm("call", AB, "3"))

    message = refused(folder, channels="separate")

    assert message.startswith(
        f"{folder}/call.rttm:1 must name a channel of call.mp3 in its third field, 1 or 2"
    )
    assert "data.channels=mix" in message


# ---------------------------------------------------------------------------------------------------- faults


def said(capfd: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"\s+", " ", capfd.readouterr().out)


FAULTY = [(0.0, 0.5, "A"), (0.3, 1.7, "A"), (0.6, 0.6, "B")]


def test_faults_of_all_recordings_are_refused_at_once(folder: Path) -> None:
    for name in "xy":
        write_tone(folder / f"{name}.wav")
        write(folder / f"{name}.rttm", rttm(name, FAULTY))

    message = refused(folder)

    for line in ("x.rttm:2", "x.rttm:3", "y.rttm:2"):
        assert line in message
    assert "(6 in all)" in message
    assert "data.faults=mend" in message


def test_faults_are_mended_and_counted(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tone(folder / "x.wav")
    write(folder / "x.rttm", rttm("x", FAULTY), rttm("z", AB))

    assert references(folder, faults="mend") == {"x": Reference((Turn(0.0, 1.0, "A"),))}
    text = said(capfd)
    for count in (
        "1 turns past the end of the audio",
        "1 turns without a length",
        "1 files without a recording",
    ):
        assert count in text


def test_turns_of_an_unknown_recording_are_refused_with_the_likely_one(folder: Path) -> None:
    write_tone(folder / "interview.wav")
    write(folder / "all.rttm", rttm("intervew", AB))

    message = refused(folder)

    assert "no recording is called intervew" in message
    assert "Did you mean interview?" in message


def test_recordings_without_turns_are_listed(folder: Path) -> None:
    for name in "wxyz":
        write_tone(folder / f"{name}.wav")
    write(folder / "w.rttm", rttm("w", AB))

    message = refused(folder)

    assert "3 of 4 recordings have no turns in an RTTM file: x.wav, y.wav, z.wav" in message
    assert "x.rttm" in message


def test_empty_rttm_is_a_recording_where_nobody_speaks(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tone(folder / "x.wav")
    write(folder / "x.rttm", ";; nobody\n")

    assert references(folder) == {"x": Reference(())}
    assert "1 of 1 recordings have no turns" in said(capfd)

    write(folder / "y.rttm", "")
    assert "no recording is called y" in refused(folder)


def test_turns_of_one_recording_in_two_files_are_refused(folder: Path) -> None:
    write_tone(folder / "x.wav")
    write(folder / "x.rttm", rttm("x", AB))
    write(folder / "all.rttm", rttm("x", AB))

    assert f"x.wav is in {folder}/all.rttm and in {folder}/x.rttm" in refused(folder)


def test_damaged_audio_is_listed_and_the_rest_prepared(folder: Path) -> None:
    for name in "xy":
        write_tone(folder / f"{name}.wav")
        write(folder / f"{name}.rttm", rttm(name, AB))
    (folder / "y.wav").write_bytes(b"no audio at all")
    data = AudioFolder(Turns(), path=str(folder), cache_dir=str(folder.parent / "cache"))

    data.load(no_progress)

    assert list(data.manifest.ids) == ["x"]
    assert [drop.id for drop in data.prepared.unreadable] == ["y"]


# -------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("change", [{"last_seconds": 0.5}, {"channels": "separate"}])
def test_change_of_a_setting_is_prepared_anew(folder: Path, change: dict[str, Any]) -> None:
    write(stereo(folder) / "call.rttm", "")

    def key(**settings: Any) -> str:
        return AudioFolder(Turns(), path=str(folder), **settings).open_source(no_progress)[0]

    assert key() == key()
    assert key(**change) != key()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"last_seconds": 0.0}, "data.last_seconds=0.0 must be a number of seconds"),
        ({"faults": "ignore"}, "data.faults=ignore must be refuse or mend"),
        ({"channels": "left"}, "data.channels=left must be mix or separate"),
        ({"label_column": "speaker"}, "reads RTTM files: leave it out"),
        ({"test_share": 1.0}, "must leave something"),
    ],
)
def test_setting_that_is_none_is_refused(folder: Path, setting: dict[str, Any], words: str) -> None:
    folder.mkdir()

    assert words in refused(folder, **setting)


@pytest.mark.parametrize("setting", [{"last_seconds": 5.0}, {"faults": "mend"}, {"channels": "separate"}])
def test_settings_of_turns_are_refused_for_transcripts(folder: Path, setting: dict[str, Any]) -> None:
    folder.mkdir()
    data = AudioFolder(SpeechRecognition(), path=str(folder), **setting)

    with pytest.raises(UserError, match="is for recordings whose turns are known"):
        data.open_source(no_progress)


def test_folder_without_recordings(folder: Path) -> None:
    write(folder / "x.rttm", rttm("x", AB))

    assert "holds no recording" in refused(folder)
