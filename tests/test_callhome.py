import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Audio, Dataset, DatasetDict, Features, Sequence, Value
from helpers_audio import RATE, encode, no_progress, tone
from helpers_turns import Turns
from test_fleurs import SmallHub

from speechexp.corpora.callhome import CallHome
from speechexp.errors import UserError
from speechexp.gated import Page
from speechexp.turns import Reference, Turn, read_reference

FEATURES = Features(
    {
        "audio": Audio(),
        "timestamps_start": Sequence(Value("float64")),
        "timestamps_end": Sequence(Value("float64")),
        "speakers": Sequence(Value("string")),
    }
)
AB = [(0.0, 0.5, "A"), (0.4, 1.0, "B")]
SHARD = "spa/data-00000-of-00001.parquet"
TEST_ALONE = {"validation_share": 0.0, "test_share": 1.0}


def a_call(
    name: str | None, turns: list[tuple[Any, Any, Any]] = AB, audio: bytes | None = None
) -> dict[str, Any]:
    starts, ends, speakers = ([turn[place] for turn in turns] for place in range(3))
    return {
        "audio": {"bytes": audio or encode(tone(1.0)), "path": name},
        "timestamps_start": starts,
        "timestamps_end": ends,
        "speakers": speakers,
    }


CALLS = [a_call(f"{number}.wav") for number in range(60)]


def write(path: Path, rows: list[dict[str, Any]], features: Features | None = FEATURES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(str(path))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., CallHome]:
    def load(*calls: dict[str, Any], **settings: Any) -> CallHome:
        if calls:
            write(tmp_path / "data" / SHARD, list(calls))
        settings = {"path": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache")} | settings
        data = CallHome(Turns(), **settings)
        data.load(no_progress)
        return data

    return load


def refused(load: Callable[..., CallHome], *calls: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(UserError) as raised:
        load(*calls, **settings)
    return str(raised.value)


def splits(data: CallHome) -> dict[str, str]:
    return {name: split for split in ("train", "validation", "test") for name in data.ids(split)}


def only(data: CallHome) -> Reference:
    """Return the reference of the only call."""
    (text,) = data.references("test")
    return read_reference(text)


# ------------------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize(
    "layout", [SHARD, "spa/data/0000.parquet", "data-00000-of-00001.parquet", "data/data-00000.parquet"]
)
def test_layouts_of_parquet(tmp_path: Path, load: Callable[..., CallHome], layout: str) -> None:
    write(tmp_path / "data" / layout, CALLS[:2])

    data = load(**TEST_ALONE)

    assert data.ids("test") == ["0", "1"]
    assert read_reference(data.references("test")[0]) == Reference((Turn(0.0, 0.5, "A"), Turn(0.4, 1.0, "B")))


def test_layout_of_save_to_disk(tmp_path: Path, load: Callable[..., CallHome]) -> None:
    DatasetDict({"data": Dataset.from_list(CALLS[:2], features=FEATURES)}).save_to_disk(tmp_path / "data")

    assert load(**TEST_ALONE).ids("test") == ["0", "1"]


def test_splits_of_the_source_are_taken_as_they_are(tmp_path: Path, load: Callable[..., CallHome]) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        write(tmp_path / "data" / "spa" / f"{split}-00000-of-00001.parquet", [CALLS[number]])

    data = load(test_share=1.0, validation_share=0.0)

    assert splits(data) == {"0": "train", "1": "validation", "2": "test"}
    assert "drawn" not in data.describe()


def test_splits_are_drawn_by_id_whatever_the_order(load: Callable[..., CallHome]) -> None:
    before = load(*CALLS)
    after = load(*reversed(CALLS), a_call("more.wav"))

    assert {before.count(split) > 0 for split in ("train", "validation", "test")} == {True}
    assert before.count("train") > before.count("test") > before.count("validation")
    assert splits(before).items() <= splits(after).items()
    assert splits(load(split_seed=2)) != splits(after)
    assert "0.15 validation, 0.25 test" in before.describe()


def test_calls_without_a_name_go_by_their_number(load: Callable[..., CallHome]) -> None:
    data = load(a_call(None), a_call("b.wav"), a_call(None), **TEST_ALONE)

    assert data.ids("test") == ["00000", "b", "00002"]


def test_killed_preparation_gives_calls_the_same_names(tmp_path: Path, load: Callable[..., CallHome]) -> None:
    data = load(*[a_call(None) for _ in range(4)])

    assert [(row.id, row.split) for row in data.rows(2)] == [(row.id, row.split) for row in data.rows()][2:]


# ---------------------------------------------------------------------------------------------- references


def test_faults_are_mended_counted_and_said_once(
    load: Callable[..., CallHome], capfd: pytest.CaptureFixture[str]
) -> None:
    faulty = [(0.0, 0.5, "A"), (0.3, 1.7, "A"), (0.6, 0.6, "B")]

    data = load(a_call("a.wav", faulty), a_call("b.wav", faulty), **TEST_ALONE)

    assert [read_reference(text).turns for text in data.references("test")] == [(Turn(0.0, 1.0, "A"),)] * 2
    said = re.sub(r"\s+", " ", capfd.readouterr().out)
    assert said.count("mended in") == 1
    for kind in (
        "overlaps of a speaker with itself",
        "turns past the end of the audio",
        "turns without a length",
    ):
        assert f"2 {kind}" in said


def test_faults_can_be_refused(load: Callable[..., CallHome]) -> None:
    message = refused(load, a_call("a.wav", [(0.0, 1.7, "A")]), faults="refuse")

    assert "the call a, turn 1: A from 0.000 to 1.700 s, but the audio ends at 1.000 s" in message
    assert "data.faults=mend" in message


def test_call_where_nobody_speaks(load: Callable[..., CallHome], capfd: pytest.CaptureFixture[str]) -> None:
    assert only(load(a_call("a.wav", []), **TEST_ALONE)) == Reference(())
    assert "1 of 1 recordings have no turns" in capfd.readouterr().out


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3"])
def test_last_seconds_are_those_of_the_audio_and_of_its_turns(
    load: Callable[..., CallHome], container: str
) -> None:
    silence, sound = np.zeros(3 * 44_100), tone(2.0, 44_100)
    subtype = "MPEG_LAYER_III" if container == "MP3" else "PCM_16"
    call = encode(np.concatenate([silence, sound]), 44_100, container, subtype)
    turns = [(0.5, 1.0, "A"), (2.0, 4.0, "B"), (4.5, 5.0, "A")]

    data = load(a_call("a", turns, call), last_seconds=1.5, **TEST_ALONE)

    assert only(data).turns == (
        Turn(0.0, pytest.approx(0.5, abs=0.06), "B"),
        Turn(pytest.approx(1.0, abs=0.06), pytest.approx(1.5, abs=0.06), "A"),
    )
    assert data.manifest.num_samples[0] == 1.5 * RATE
    assert np.abs(data.prepared.samples(0)[:1600]).max() > 10_000
    assert "last 1.5 s" in data.describe()


def test_last_seconds_of_a_shorter_call_are_all_of_it(load: Callable[..., CallHome]) -> None:
    data = load(CALLS[0], last_seconds=15.0, **TEST_ALONE)

    assert data.manifest.num_samples[0] == RATE
    assert only(data).turns == (Turn(0.0, 0.5, "A"), Turn(0.4, 1.0, "B"))


def test_stereo_is_mixed_down_and_said(
    load: Callable[..., CallHome], capfd: pytest.CaptureFixture[str]
) -> None:
    stereo = encode(np.stack([tone(1.0), np.zeros(RATE)], axis=1))

    data = load(a_call("a.wav", audio=stereo), CALLS[0], **TEST_ALONE)

    assert np.abs(data.prepared.samples(0)).max() == pytest.approx(0.25 * 32768, rel=0.01)
    assert "1 of 2 recordings have several channels, which are mixed down" in capfd.readouterr().out


# ------------------------------------------------------------------------------------------------- refusals


def test_separate_channels_are_refused_with_what_to_do(load: Callable[..., CallHome]) -> None:
    message = refused(load, CALLS[0], channels="separate")

    assert message.startswith("data.channels=separate needs to know which channel each turn is on")
    assert "data.channels=mix" in message
    assert "data=audio_folder" in message


@pytest.mark.parametrize("shares", [(-0.1, 0.5), (0.6, 0.5)])
def test_shares_that_are_none(load: Callable[..., CallHome], shares: tuple[float, float]) -> None:
    message = refused(load, CALLS[0], validation_share=shares[0], test_share=shares[1])

    assert f"data.validation_share={shares[0]} and data.test_share={shares[1]} must be shares" in message


def test_lists_of_unequal_length(load: Callable[..., CallHome]) -> None:
    call = a_call("a.wav") | {"speakers": ["A"]}

    assert (
        "the call a: timestamps_start, timestamps_end and speakers must be as long as one another, but have 2, 2"
        in (refused(load, call))
    )


@pytest.mark.parametrize("turn", [(None, 0.5, "A"), (0.0, float("nan"), "A"), (0.0, 0.5, None)])
def test_turn_without_a_time_or_a_speaker(load: Callable[..., CallHome], turn: tuple[Any, Any, Any]) -> None:
    assert "the call a: turn 2 must have a start, an end and a speaker" in (
        refused(load, a_call("a.wav", [AB[0], turn]))
    )


@pytest.mark.parametrize("column", ["audio", "timestamps_start", "timestamps_end", "speakers"])
def test_missing_column(tmp_path: Path, load: Callable[..., CallHome], column: str) -> None:
    features = Features({name: kind for name, kind in FEATURES.items() if name != column})
    rows = [{name: value for name, value in CALLS[0].items() if name != column}]
    write(tmp_path / "data" / SHARD, rows, features)

    assert f"has no column {column!r}. It must have CallHome's columns" in refused(load)


@pytest.mark.parametrize(
    ("column", "kind", "value", "expected"),
    [
        ("speakers", Sequence(Value("int64")), [1, 2], "must be a list of texts"),
        ("timestamps_end", Sequence(Value("string")), ["1", "2"], "must be a list of seconds"),
        ("timestamps_start", Value("float64"), 0.5, "must be a list of seconds"),
    ],
)
def test_column_of_another_type(
    tmp_path: Path, load: Callable[..., CallHome], column: str, kind: Any, value: Any, expected: str
) -> None:
    write(tmp_path / "data" / SHARD, [CALLS[0] | {column: value}], Features({**FEATURES, column: kind}))

    message = refused(load)

    assert f"its column {column} {expected}" in message
    assert SHARD in message


# -------------------------------------------------------------------------------------------------- the hub


def test_page_whose_conditions_must_be_accepted() -> None:
    assert CallHome(Turns()).gated_pages() == [Page("dataset", "talkbank/callhome")]
    assert CallHome(Turns(), path="a/copy").gated_pages() == []


README = "---\nconfigs:\n" + "".join(
    f"- config_name: {config}\n  data_files:\n  - split: data\n    path: {config}/data-*\n"
    for config in ("spa", "eng")
)
README += "---\n"
CHILD = """
import sys
from datasets import DatasetDict
from speechexp.hub import dataset_from_hub

DatasetDict(dataset_from_hub("talkbank/callhome", "spa", None)).save_to_disk(sys.argv[1])
"""


def test_what_the_hub_gives_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[..., CallHome]
) -> None:
    write(tmp_path / "hub" / SHARD, CALLS[:2])
    write(tmp_path / "hub" / "eng" / "data-00000-of-00001.parquet", CALLS[2:3])
    (tmp_path / "hub" / "README.md").write_text(README)
    monkeypatch.setattr(SmallHub, "folders", {"talkbank/callhome": {"main": tmp_path / "hub"}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
    }
    try:
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path / "data")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        server.shutdown()
        server.server_close()

    assert child.returncode == 0, child.stderr
    data = load(**TEST_ALONE)
    assert data.ids("test") == ["0", "1"]
    assert read_reference(data.references("test")[0]).turns == (Turn(0.0, 0.5, "A"), Turn(0.4, 1.0, "B"))
