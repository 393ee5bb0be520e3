"""The generated conversations: who speaks when, how it is recorded, the files, and the real recording beside them."""

import importlib.util
import io
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import soundfile
from helpers_audio import no_progress

from speechexp.audio import AudioError, decode
from speechexp.corpora.conversation_corpus import (
    ConversationRecipe,
    conversation_corpus_folder,
    make_conversation_corpus,
    plan_corpus,
)
from speechexp.corpora.conversation_mini import RECORDING, ConversationMini
from speechexp.corpora.conversation_mixing import NOISES, Scene, mix
from speechexp.corpora.conversation_rows import Conversation
from speechexp.corpora.conversation_turns import Said, are_distinct, converse, draw_partners, turns_of
from speechexp.corpora.spanish_voices import ESPEAK_SAMPLE_RATE, Voice
from speechexp.errors import UserError
from speechexp.recognition import SpeechRecognition
from speechexp.rttm import read_rttm, read_uem
from speechexp.turns import Turn, read_reference

RATE = 16_000
SPLITS = ("train", "validation", "test")
RECIPE = ConversationRecipe(10, 2, 2, conversation_seconds=20.0)
# No echoes to speak of, and hardly noise.
DRY = Scene((0.0,) * 4, (200.0,) * 4, 0.2, "white", 200.0, False, -3.0, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache with a corpus made from a folder where `speechexp` is not, with nothing in PYTHONPATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.delenv("PYTHONPATH", raising=False)
        return make_conversation_corpus(RECIPE, tmp_path_factory.mktemp("cache"))


def read_rows(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """Return a split's rows by the stem of their audio's path."""
    rows = [row for file in sorted(folder.glob(f"{split}-*")) for row in pq.read_table(file).to_pylist()]
    return {Path(row["audio"]["path"]).stem: row for row in rows}


def read_recipe(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    return content


def good_rows(folder: Path) -> dict[str, dict[str, Any]]:
    bad = {id_ for kinds in read_recipe(folder)["faults"].values() for ids in kinds.values() for id_ in ids}
    return {id_: row for split in SPLITS for id_, row in read_rows(folder, split).items() if id_ not in bad}


def turns_in(row: dict[str, Any]) -> list[Turn]:
    columns = (row["timestamps_start"], row["timestamps_end"], row["speakers"])
    return [Turn(*values) for values in zip(*columns, strict=True)]


def voices_at(turns: Sequence[Turn], seconds: float) -> npt.NDArray[np.int64]:
    """Return how many speak in each millisecond."""
    count = np.zeros(round(seconds * 1000), dtype=np.int64)
    for turn in turns:
        count[round(turn.start * 1000) : round(turn.end * 1000)] += 1
    return count


def buzz(text: str, voice: Voice) -> npt.NDArray[np.int16]:
    """Say a text as a tone as long as espeak-ng would take, with silence around it."""
    seconds = 0.15 + 0.06 * len(text)
    times = np.arange(round(seconds * ESPEAK_SAMPLE_RATE)) / ESPEAK_SAMPLE_RATE
    tone = np.cos(2 * np.pi * (400 + 20 * voice.pitch) * times) * 12_000
    return np.pad(tone, 2000).astype(np.int16)


@cache
def talks() -> list[tuple[int, list[Said]]]:
    """Return how many voices, and what they say in 40 s."""
    rng = random.Random(1)
    return [
        (count, converse(draw_partners("train", count, rng), 40.0, rng, buzz)) for count in (2, 2, 3, 4) * 5
    ]


@cache
def plan() -> dict[str, list[Conversation]]:
    return plan_corpus(ConversationRecipe())


# Who speaks when


def test_everybody_speaks_and_at_most_two_at_once() -> None:
    for count, said in talks():
        turns = turns_of(said)
        assert {turn.speaker for turn in turns} == set("ABCD"[:count])
        assert voices_at(turns, 40).max() == 2
        for speaker in "ABCD"[:count]:
            own = [turn for turn in turns if turn.speaker == speaker]
            assert sum(turn.seconds for turn in own) >= 0.6
            assert all(before.end + 0.25 < after.start for before, after in itertools.pairwise(own))


def test_an_eighth_of_speech_or_so_is_overlapped_in_every_way() -> None:
    counts = [voices_at(turns_of(said), 40) for _, said in talks()]
    overlap = sum((count > 1).sum() for count in counts) / sum((count > 0).sum() for count in counts)
    assert 0.08 < overlap < 0.15
    ways: Counter[str] = Counter()
    for _, said in talks():
        turns = turns_of(said)
        for one, other in itertools.pairwise(turns):
            if other.start < one.end:
                ways["within" if other.end < one.end else "interrupting"] += 1
            elif other.start - one.end > 1.5:
                ways["long pause"] += 1
    assert min(ways[way] for way in ("within", "interrupting", "long pause")) > 5


def test_turns_are_of_all_lengths_up_to_eight_seconds() -> None:
    rng = random.Random(2)
    long = converse(draw_partners("train", 2, rng), 90.0, rng, buzz)  # in a short one turns are shorter
    lengths = [turn.seconds for said in (long, *(said for _, said in talks())) for turn in turns_of(said)]
    assert max(lengths) <= 8.0
    assert all(
        sum(low <= each < high for each in lengths) > 15 for low, high in ((0, 0.6), (0.6, 2), (2, 5), (5, 8))
    )


def test_partners_differ_in_variant_and_in_gender_or_pitch() -> None:
    for conversation in (each for split in SPLITS for each in plan()[split]):
        for index, voice in enumerate(conversation.voices):
            for other in conversation.voices[:index]:
                assert voice.variant != other.variant
                assert voice.gender != other.gender or abs(voice.pitch - other.pitch) >= 15
    steph, steph2 = (
        Voice("es", variant, 160, pitch, 0.5) for variant, pitch in (("steph", 25), ("steph2", 75))
    )
    assert not are_distinct(steph, steph2)  # one voice under two names


def test_no_voice_is_in_two_splits_and_counts_and_bands_are_as_asked() -> None:
    variants = [
        {voice.variant for each in plan()[split] for voice in (*each.voices, *each.babble)}
        for split in SPLITS
    ]
    assert all(variants) and sum(map(len, variants)) == len(set.union(*variants))
    counts = Counter(len(each.voices) for each in plan()["train"])
    assert counts[2] > counts[3] > counts[4] > 0 and counts[2] > 0.5 * counts.total()
    bands = Counter(each.scene.telephone for each in plan()["test"])
    assert abs(bands[True] - bands[False]) <= 3
    assert {each.scene.noise for each in plan()["train"]} == set(NOISES)


# How it is recorded


def test_outside_the_turns_there_is_nothing_and_inside_there_is_speech() -> None:
    for _, said in talks()[:4]:
        recorded = mix(said, 40.0, DRY)
        loud = np.abs(recorded).reshape(-1, 16).max(axis=1) > 1e-5
        speaking = voices_at(turns_of(said), 40) > 0
        assert not loud[~speaking].any()
        # Breaths within turns are the only silence there.
        assert loud[speaking].mean() > 0.9
        for turn in turns_of(said):
            first, last = round(turn.start * 1000), round(turn.end * 1000)
            assert loud[first : first + 3].any() and loud[last - 3 : last].any()


@pytest.mark.parametrize("telephone", [False, True])
def test_noise_lies_so_far_below_speech(telephone: bool) -> None:
    _, said = talks()[0]
    silent = np.repeat(voices_at(turns_of(said), 40) == 0, 16)
    for noise in ("white", "pink", "hum"):
        recorded = mix(said, 40.0, replace(DRY, noise=noise, snr_db=20.0, telephone=telephone))
        assert np.abs(recorded).max() == pytest.approx(10 ** (-3 / 20), rel=1e-4)
        speaking = recorded[np.repeat(voices_at(turns_of(said), 40) == 1, 16)]
        assert 10 * np.log10(
            np.square(speaking).mean() / np.square(recorded[silent]).mean()
        ) == pytest.approx(20, abs=1.5)
        power = np.abs(np.fft.rfft(recorded[: RATE * 10])) ** 2
        hertz = np.fft.rfftfreq(RATE * 10, 1 / RATE)
        beyond = power[(hertz > 6000) | (hertz < 100)].sum() / power.sum()
        assert (beyond < 1e-4) == telephone


def test_echoes_come_after_the_direct_sound_and_decay_by_60_db() -> None:
    click = np.zeros(16, dtype=np.float32)
    click[0] = 1.0
    said = [Said(1, 1600, click)]
    scene = replace(DRY, direct_to_reverb_db=(20.0, 3.0), reverb_seconds=0.4)
    recorded = mix(said, 2.0, scene) / mix(said, 2.0, scene)[1600]
    assert np.abs(recorded[:1600]).max() < 1e-6 and np.abs(recorded[1600 + 6400 :]).max() < 1e-6
    echoes = recorded[1601 : 1600 + 6400]
    assert 10 * np.log10(np.square(echoes).sum()) == pytest.approx(-3.0, abs=0.01)
    early, late = (np.square(echoes[round(at * 6400) :][:640]).mean() for at in (0.25, 0.75))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=2)


def test_each_speaker_has_a_level_of_his_own() -> None:
    tone = np.ones(RATE, dtype=np.float32)
    recorded = mix([Said(0, 0, tone), Said(1, 2 * RATE, tone)], 4.0, replace(DRY, levels_db=(-6.0, 6.0)))
    decibels = 20 * np.log10(np.abs(recorded[2 * RATE : 3 * RATE]).mean() / np.abs(recorded[:RATE]).mean())
    assert decibels == pytest.approx(12, abs=3.1)  # turns differ a little, too


# The files


def test_files_have_callhomes_columns(made: Path) -> None:
    assert sorted(file.name for file in made.glob("*.parquet")) == [
        f"{split}-00000-of-00001.parquet" for split in sorted(SPLITS)
    ]
    schema = pq.read_schema(made / "train-00000-of-00001.parquet")
    assert {field.name: str(field.type).replace("element", "item") for field in schema} == {
        "audio": "struct<bytes: binary, path: string>",
        "timestamps_start": "list<item: double>",
        "timestamps_end": "list<item: double>",
        "speakers": "list<item: string>",
    }


@pytest.mark.slow
def test_datasets_loads_the_folder(made: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(made), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 13, "validation": 2, "test": 2}
    assert isinstance(loaded["train"].features["audio"], datasets.Audio)


def test_rows_are_what_was_planned_and_speech_is_where_they_say(made: Path) -> None:
    planned = {each.id: each for split in plan_corpus(RECIPE).values() for each in split}
    for id_, row in good_rows(made).items():
        file = soundfile.SoundFile(io.BytesIO(row["audio"]["bytes"]))
        assert (file.format, file.samplerate, file.channels) == ("FLAC", RATE, 1)
        turns, audio = turns_in(row), file.read(dtype="float32")
        assert audio.size == 20 * RATE and turns == sorted(turns)
        assert len({turn.speaker for turn in turns}) == len(planned[id_].voices)
        assert id_.endswith("_telephone") == planned[id_].scene.telephone
        # Half a second behind a turn, its echo is gone.
        power = np.square(audio).reshape(-1, 16).mean(axis=1)
        speaking = voices_at(turns, 20) > 0
        echo = voices_at([Turn(turn.start, min(turn.end + 0.5, 20), "") for turn in turns], 20) > 0
        if (~echo).sum() > 300:
            ratio = 10 * np.log10(power[speaking].mean() / power[~echo].mean())
            assert ratio > planned[id_].scene.snr_db - 6, id_


def test_rttm_and_uem_say_what_the_table_says(made: Path) -> None:
    rows = good_rows(made)
    told, scored = {}, {}
    for split in SPLITS:
        told |= read_rttm(made / "rttm" / f"{split}.rttm")
        scored |= read_uem(made / "uem" / f"{split}.uem")
        assert all(id_.startswith(split) for id_ in read_rttm(made / "rttm" / f"{split}.rttm"))
    assert {id_: [each.turn for each in turns] for id_, turns in told.items()} == {
        id_: turns_in(row) for id_, row in rows.items()
    }
    assert scored == {id_: [(0.0, 20.0)] for id_ in rows}


def test_bad_rows_come_on_top_and_are_bad(made: Path) -> None:
    assert [len(read_rows(made, split)) for split in SPLITS] == [10 + 3, 2, 2]
    faults, rows = read_recipe(made)["faults"]["train"], read_rows(made, "train")
    assert set(faults) == {"silent", "truncated", "not_audio"}
    for kind, ids in faults.items():
        for id_ in ids:
            if kind == "silent":
                assert not decode(rows[id_]["audio"]["bytes"], RATE).any() and rows[id_]["speakers"]
            else:
                with pytest.raises(AudioError):
                    decode(rows[id_]["audio"]["bytes"], RATE)


# Making it


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_files_with_one_core_or_more(made: Path, tmp_path: Path) -> None:
    recorded: list[tuple[int, int]] = []
    # The cores that the child may use are this process's.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        again = make_conversation_corpus(RECIPE, tmp_path, lambda *done: recorded.append(done))
    finally:
        os.sched_setaffinity(0, cores)
    assert recorded == [(done, 17) for done in range(1, 18)]
    assert again == conversation_corpus_folder(RECIPE, tmp_path) and again.name == made.name
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for name in files:
        assert (again / name).read_bytes() == (made / name).read_bytes(), name


def test_stopped_halfway_nothing_is_left(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_conversation_corpus(RECIPE, tmp_path, stop)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_other_recipes_have_other_folders(tmp_path: Path) -> None:
    changed: list[dict[str, Any]] = [
        {},
        {"train_conversations": 11},
        {"validation_conversations": 3},
        {"test_conversations": 3},
        {"conversation_seconds": 30.0},
        {"seed": 2},
    ]
    folders = {conversation_corpus_folder(replace(RECIPE, **change), tmp_path) for change in changed}
    assert len(folders) == len(changed)


# The data set


def mini(cache: Path, **settings: Any) -> ConversationMini:
    return ConversationMini(
        SpeechRecognition(),
        train_conversations=10,
        validation_conversations=2,
        test_conversations=2,
        conversation_seconds=20,
        cache_dir=str(cache),
        **settings,
    )


def test_rows_are_read_like_callhome_and_the_real_recording_is_tested(made: Path) -> None:
    data = mini(made.parent)
    _, total = data.open_source(no_progress)
    rows = list(data.rows())
    assert total == len(rows) == 18
    assert [row.id for row in rows if row.attributes["source"] == "recorded"] == [RECORDING]
    for row in rows[:-1]:
        assert row.split == row.id.split("_")[0]
        assert row.attributes["source"] == "mixed" and row.attributes["band"] == row.id.split("_")[2]
    for id_, source in good_rows(made).items():
        (row,) = (row for row in rows if row.id == id_)
        assert list(read_reference(row.reference).turns) == turns_in(source)
        assert row.attributes["speakers"] == str(len(set(source["speakers"])))
    real = rows[-1]
    turns = read_reference(real.reference).turns
    assert (real.id, real.split, real.attributes) == (
        RECORDING,
        "test",
        {"source": "recorded", "speakers": "2", "band": "wide"},
    )
    assert len(turns) == 10 and turns[0] == Turn(6.69, 7.12, "speaker90")
    assert decode(real.audio, RATE).size == 30 * RATE
    # Preparing goes on where it was stopped.
    assert [list(data.rows(start)) for start in (16, 17, 18)] == [rows[16:], rows[17:], []]


def test_without_the_recording_there_is_generated_speech_alone(made: Path) -> None:
    keys = []
    for recording in (False, True):
        data = mini(made.parent, recording=recording)
        key, total = data.open_source(no_progress)
        assert sum(row.id == RECORDING for row in data.rows()) == recording
        assert total == 17 + recording and ("real speech" in data.describe()) == recording
        keys.append(key)
    assert keys[0] != keys[1]


def test_loading_drops_bad_rows_and_scores_whole_recordings(made: Path) -> None:
    data = mini(made.parent, max_seconds=14400, eval_max_seconds=14400)
    data.load(no_progress)
    assert [data.count(split) for split in SPLITS] == [10, 2, 3]
    assert len(data.prepared.unreadable) == 2
    assert data.hours("train") == pytest.approx(200 / 3600)


def test_a_missing_recording_is_told(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = mini(made.parent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="leave the recording out"):
        data.open_source(no_progress)


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(UserError, match="`test_conversations` must be at least 1, but is 0 instead"):
        ConversationMini(SpeechRecognition(), test_conversations=0)
    with pytest.raises(UserError, match="`conversation_seconds` must be at least 20, but is 5 instead"):
        ConversationMini(SpeechRecognition(), conversation_seconds=5)
