"""The generated sounds: each class as it should sound, the clips, their files, and how they are made."""

import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import soundfile

from speechexp.audio import AudioError, decode
from speechexp.corpora import sound_sources as sources
from speechexp.corpora.sound_classes import (
    NEVER_TOGETHER,
    SILENCE,
    SOUND_CLASSES,
    SOUND_OF,
    SOUNDS,
    SPEECH,
)
from speechexp.corpora.sound_clips import Clip
from speechexp.corpora.sound_corpus import (
    SoundRecipe,
    make_sound_corpus,
    plan_corpus,
    sound_corpus_folder,
)
from speechexp.corpora.sound_mixing import make_clip, make_part
from speechexp.corpora.sound_waves import Samples

SPLITS = ("train", "validation", "test")
# Enough for all kinds of bad rows in train and validation; test is so small that it gets two.
RECIPE = SoundRecipe(train_clips=60, validation_clips=50, test_clips=20)
RATE = 48_000
MADE = [sound for sound in SOUNDS if sound.make is not None]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus made from a folder where `speechexp` is not, with nothing in PYTHONPATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.delenv("PYTHONPATH", raising=False)
        return make_sound_corpus(RECIPE, tmp_path_factory.mktemp("cache"))


@cache
def plan() -> dict[str, list[Clip]]:
    return plan_corpus(SoundRecipe())


def read_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        split: [
            row
            for file in sorted(folder.glob(f"{split}-*.parquet"))
            for row in pq.read_table(file).to_pylist()
        ]
        for split in SPLITS
    }


def read_recipe(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    return content


def good_rows(folder: Path) -> Iterator[dict[str, Any]]:
    bad = {id_ for kinds in read_recipe(folder)["faults"].values() for ids in kinds.values() for id_ in ids}
    for rows in read_rows(folder).values():
        yield from (row for row in rows if row["video_id"] not in bad)


def draws(name: str, seconds: float, count: int = 5) -> list[Samples]:
    make = SOUND_OF[name].make
    assert make is not None
    return [make(np.random.default_rng(seed), seconds, RATE) for seed in range(count)]


def power_spectrum(samples: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    power = np.abs(np.fft.rfft(samples * np.hanning(samples.size))) ** 2
    return np.fft.rfftfreq(samples.size, 1 / RATE), power


def lines(samples: npt.NDArray[Any], count: int) -> list[float]:
    """Return the frequencies of the strongest lines, at least 40 Hz apart."""
    hertz, power = power_spectrum(samples)
    found: list[float] = []
    for place in np.argsort(power)[::-1]:
        if all(abs(hertz[place] - other) > 40 for other in found):
            found.append(float(hertz[place]))
        if len(found) == count:
            break
    return sorted(found)


def bursts(samples: npt.NDArray[Any], below_loudest: float = 0.01) -> list[tuple[float, float]]:
    """Return (start, end) in seconds of what is loud, in steps of 10 ms."""
    frames = samples[: samples.size // 480 * 480].reshape(-1, 480)
    power = np.square(frames).mean(axis=1)
    loud = np.concatenate([[False], power > below_loudest * power.max(), [False]])
    edges = np.flatnonzero(np.diff(loud.astype(int))) / 100
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


# Each class


@pytest.mark.parametrize("sound", MADE, ids=lambda sound: sound.label.name)
def test_every_sound_fills_its_seconds_and_is_heard_for_400_ms(sound: Any) -> None:
    for seconds in (sound.min_seconds, 2.5):
        for seed in range(8):
            samples = sound.make(np.random.default_rng(seed), seconds, RATE)
            assert samples.shape == (round(seconds * RATE),) and samples.dtype == np.float32
            loud = bursts(samples)
            # Clicks are brief by nature: what counts is how long they go on.
            heard = (
                loud[-1][1] - loud[0][0] if sound.make is sources.clicking else sum(e - s for s, e in loud)
            )
            assert heard >= 0.4


def test_a_dial_tone_is_350_and_440_hertz() -> None:
    for samples in draws("Dial tone", 1.0):
        assert lines(samples, 2) == pytest.approx([350, 440], rel=0.006)
        assert len(bursts(samples)) == 1


def test_a_busy_signal_is_480_and_620_hertz_every_other_half_second() -> None:
    for samples in draws("Busy signal", 2.8):
        assert lines(samples[: RATE // 3], 2) == pytest.approx([480, 620], abs=5)
        loud = bursts(samples)
        assert [end - start for start, end in loud] == pytest.approx([0.5] * 3, abs=0.035)
        assert [start for start, _ in loud] == pytest.approx([0.0, 1.0, 2.0], abs=0.1)


def test_dialling_presses_keys_of_a_keypad() -> None:
    digits = set()
    for samples in draws("Telephone dialing, DTMF", 2.0):
        for start, end in bursts(samples):
            if end - start < 0.07:
                continue
            low, high = lines(samples[round(start * RATE) : round(end * RATE)], 2)
            row = min((697, 770, 852, 941), key=lambda hertz: abs(hertz - low))
            column = min((1209, 1336, 1477), key=lambda hertz: abs(hertz - high))
            # Short tones have broad lines: half a bin of 12 Hz, besides the half percent of detuning.
            assert abs(low - row) < 10 and abs(high - column) < 14
            digits.add((row, column))
    assert len(digits) >= 10


def test_a_smoke_alarm_beeps_three_times_and_rests() -> None:
    for samples in draws("Smoke detector, smoke alarm", 4.7):
        loud = bursts(samples)
        assert [start for start, _ in loud] == pytest.approx([0, 1, 2, 4], abs=0.15)
        assert [end - start for start, end in loud] == pytest.approx([0.5] * 4, abs=0.03)
        assert 2900 < lines(samples, 1)[0] < 3400


@pytest.mark.parametrize(("name", "decibels"), [("White noise", 0.0), ("Pink noise", -3.01)])
def test_noise_falls_with_each_octave_as_its_colour_says(name: str, decibels: float) -> None:
    hertz, power = power_spectrum(np.concatenate(draws(name, 5.0, count=4)))
    octaves = [
        10 * np.log10(power[(hertz >= low) & (hertz < 2 * low)].mean()) for low in 62.5 * 2.0 ** np.arange(8)
    ]
    assert np.diff(octaves) == pytest.approx([decibels] * 7, abs=1.0)


def test_mains_hum_has_lines_at_multiples_of_the_mains_and_little_above() -> None:
    bases = set()
    for samples in draws("Mains hum", 4.0, count=10):
        hertz, power = power_spectrum(samples)
        base = min(
            (50, 60),
            key=lambda each: sum(abs(line - each * round(line / each)) for line in lines(samples, 4)),
        )
        bases.add(base)
        for line in lines(samples, 4):
            assert line == pytest.approx(base * round(line / base), rel=0.004)
        assert power[hertz > 1300].sum() < 1e-3 * power.sum()
    assert bases == {50, 60}


def peak_track(samples: Samples) -> npt.NDArray[Any]:
    """Return the strongest frequency of each 20 ms."""
    frames = samples[: samples.size // 960 * 960].reshape(-1, 960) * np.hanning(960)
    return np.abs(np.fft.rfft(frames, 4096)).argmax(axis=1) * (RATE / 4096)


def test_a_siren_rises_and_falls() -> None:
    for samples in draws("Siren", 3.0, count=8):
        track = peak_track(samples)[2:-2]
        assert track.max() > 1.6 * track.min()
        assert track.min() > 400 and track.max() < 1800
        steps = np.diff(track[::3])
        assert (steps > 0).any() and (steps < 0).any()


def test_chirps_sweep_octaves_in_one_direction() -> None:
    for samples in draws("Chirp tone", 3.0, count=8):
        start, end = bursts(samples)[0]
        track = peak_track(samples[round(start * RATE) : round(end * RATE)])[2:-2]
        assert max(track[0] / track[-1], track[-1] / track[0]) > 2.5
        steps = np.sign(track[-1] - track[0]) * np.diff(track)
        assert (steps > -15).all()


def test_a_sine_wave_is_one_line() -> None:
    for samples in draws("Sine wave", 1.0):
        hertz, power = power_spectrum(samples)
        near = np.abs(hertz - lines(samples, 1)[0]) < 30
        assert power[near].sum() > 0.999 * power.sum()


# The clips


def test_classes_have_audiosets_ids_once() -> None:
    assert len(SOUND_CLASSES) >= 14
    assert (
        len({each.mid for each in SOUND_CLASSES}) == len({each.name for each in SOUND_CLASSES}) == len(SOUNDS)
    )
    assert {each.name: each.mid for each in SOUND_CLASSES}["White noise"] == "/m/0chx_"


def test_classes_are_in_every_split_and_some_three_times_as_frequent_as_others() -> None:
    for split, clips in plan().items():
        counts = Counter(sound.label for clip in clips if not clip.fault for sound in clip.sounds)
        assert set(counts) == set(SOUND_CLASSES)
        if split == "train":
            assert 2.5 < max(counts.values()) / min(counts.values()) < 4
    small = plan_corpus(SoundRecipe(18, 18, 18))
    for clips in small.values():
        assert {s.label for clip in clips if not clip.fault for s in clip.sounds} == set(SOUND_CLASSES)


def test_no_mixture_of_three_and_no_voice_is_in_two_splits() -> None:
    mixtures = [{clip.sounds for clip in plan()[split] if len(clip.sounds) > 2} for split in SPLITS]
    assert sum(map(len, mixtures)) == len(set.union(*mixtures))
    voices = [
        {part.voice.variant for clip in plan()[split] for part in clip.parts if part.voice}
        for split in SPLITS
    ]
    assert all(voices) and sum(map(len, voices)) == len(set.union(*voices))


def test_silence_is_alone_and_sounds_that_hide_each_other_are_apart() -> None:
    for clip in (clip for clips in plan().values() for clip in clips):
        names = [sound.label.name for sound in clip.sounds]
        assert 1 <= len(names) <= 3
        assert not any({one, other} in NEVER_TOGETHER for one in names for other in names if one != other)
        assert (SILENCE in clip.sounds) == (not clip.parts)
        assert SILENCE not in clip.sounds or len(names) == 1
        assert all(
            part.onset >= 0 and part.onset + part.seconds <= clip.seconds + 1e-6 for part in clip.parts
        )


def own_band_snr(parts: list[Samples], index: int) -> float:
    """Return a sound's power over the others', in dB, in the thirds of octaves that hold most of it."""
    own = parts[index]
    others = sum((part for place, part in enumerate(parts) if place != index), np.zeros_like(own))
    active = np.abs(own) > 0
    hertz = np.fft.rfftfreq(own.size, 1 / RATE)
    bands = np.maximum(3 * np.log2(np.maximum(hertz, 50) / 50), 0).astype(int)
    own_power, other_power = (
        np.bincount(bands, np.abs(np.fft.rfft(each * active)) ** 2) for each in (own, others)
    )
    order = np.argsort(own_power)[::-1]
    held = order[: 1 + int(np.searchsorted(np.cumsum(own_power[order]), 0.8 * own_power.sum()))]
    return float(10 * np.log10(own_power[held].sum() / (other_power[held].sum() + 1e-12)))


def test_no_sound_is_masked_by_another() -> None:
    mixed = [
        clip
        for clip in plan()["train"]
        if len(clip.parts) > 1 and SPEECH not in clip.sounds and not clip.fault
    ]
    for clip in mixed[:40]:
        rng = np.random.default_rng(clip.seed)
        parts = []
        for part in clip.parts:
            samples = np.zeros(round(clip.seconds * RATE) + RATE, dtype=np.float32)
            made, first = make_part(part, RATE, rng), round(part.onset * RATE)
            samples[first : first + made.size] = made
            parts.append(samples)
        for index in range(len(parts)):
            assert own_band_snr(parts, index) > -12, clip


def test_the_noise_behind_lies_20_db_below_every_sound() -> None:
    clips = [
        clip
        for clip in plan()["test"]
        if clip.parts and SPEECH not in clip.sounds and clip.low_pass_hertz is None
    ]
    for clip in clips[:40]:
        with_floor = make_clip(clip, {})
        without = make_clip(replace(clip, floor_dbfs=None), {})
        peak_db = 20 * np.log10(np.abs(without).max())
        assert peak_db == pytest.approx(clip.peak_dbfs, abs=0.01)
        floor_db = 10 * np.log10(np.square(with_floor - without).mean())
        assert floor_db < -39
        mono = without.mean(axis=1)
        frames = np.square(mono[: mono.size // 480 * 480].reshape(-1, 480)).mean(axis=1)
        assert 10 * np.log10(frames[frames > 0.01 * frames.max()].mean()) - floor_db > 17


# The files


def test_files_have_audiosets_columns(corpus: Path) -> None:
    assert sorted(file.name for file in corpus.glob("*.parquet")) == [
        f"{split}-00000-of-00001.parquet" for split in sorted(SPLITS)
    ]
    schema = pq.read_schema(corpus / "train-00000-of-00001.parquet")
    assert schema.names == ["video_id", "audio", "labels", "human_labels"]
    assert [str(field.type).replace("element", "item") for field in schema] == [
        "string",
        "struct<bytes: binary, path: string>",
        "list<item: string>",
        "list<item: string>",
    ]


@pytest.mark.slow
def test_datasets_loads_the_folder(corpus: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(corpus), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 72, "validation": 53, "test": 22}
    assert isinstance(loaded["train"].features["audio"], datasets.Audio)


def test_good_rows_are_24_bit_flac_with_labels_and_their_names(corpus: Path) -> None:
    name_of = {each.mid: each.name for each in SOUND_CLASSES}
    zeros = {id_ for ids in read_recipe(corpus)["digital_silence"].values() for id_ in ids}
    kinds = Counter[tuple[int, int]]()
    for row in good_rows(corpus):
        file = soundfile.SoundFile(io.BytesIO(row["audio"]["bytes"]))
        assert (file.format, file.subtype) == ("FLAC", "PCM_24")
        assert 1.0 <= file.frames / file.samplerate <= 5.0
        kinds[file.samplerate, file.channels] += 1
        assert [name_of[mid] for mid in row["labels"]] == row["human_labels"]
        audio = file.read(dtype="float32", always_2d=True)
        peak = 20 * np.log10(np.abs(audio).max() + 1e-9)
        if row["human_labels"] == ["Silence"]:
            assert audio.any() == (row["video_id"] not in zeros)
            assert peak < -38
        else:
            assert -35.1 < peak < -2
    assert {rate for rate, _ in kinds} == {44_100, 48_000}
    assert {channels for _, channels in kinds} == {1, 2}
    assert sum(n for (rate, _), n in kinds.items() if rate == 48_000) > 0.8 * kinds.total()


def test_speech_is_heard_for_400_ms(corpus: Path) -> None:
    speech = [row for row in good_rows(corpus) if row["human_labels"] == ["Speech"]]
    assert speech
    for row in speech:
        loud = bursts(decode(row["audio"]["bytes"], RATE) / 32768, below_loudest=0.003)
        assert sum(end - start for start, end in loud) >= 0.4


def test_bad_rows_come_on_top_and_are_bad(corpus: Path) -> None:
    rows, faults = read_rows(corpus), read_recipe(corpus)["faults"]
    assert [len(rows[split]) for split in SPLITS] == [60 + 12, 50 + 3, 20 + 2]
    by_id = {row["video_id"]: row for split in rows.values() for row in split}
    assert len(by_id) == sum(map(len, rows.values()))
    reasons = {
        "truncated": "lost sync|truncated",
        "not_audio": "not readable",
        "empty": "zero length",
        "no_samples": "zero length",
        "not_finite": "not finite",
    }
    seen = set()
    for kind, id_ in ((kind, id_) for kinds in faults.values() for kind, ids in kinds.items() for id_ in ids):
        seen.add(kind)
        content = by_id[id_]["audio"]["bytes"]
        if kind in reasons:
            with pytest.raises(AudioError, match=reasons[kind]):
                decode(content, 16_000)
        elif kind == "silent":
            assert not decode(content, 16_000).any() and by_id[id_]["labels"]
        else:
            assert kind == "too_short" and decode(content, 16_000).size == 800
    assert seen == {*reasons, "silent", "too_short"}


# Making it


def test_the_same_recipe_gives_the_same_files_with_one_core_or_more(corpus: Path, tmp_path: Path) -> None:
    recorded: list[tuple[int, int]] = []
    # The cores that the child may use are this process's.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        again = make_sound_corpus(RECIPE, tmp_path, lambda *done: recorded.append(done))
    finally:
        os.sched_setaffinity(0, cores)
    assert recorded == [(50, 147), (100, 147), (147, 147)]
    assert again == sound_corpus_folder(RECIPE, tmp_path) and again.name == corpus.name
    files = sorted(path.name for path in corpus.iterdir())
    assert files == sorted(path.name for path in again.iterdir())
    for name in files:
        assert (again / name).read_bytes() == (corpus / name).read_bytes(), name


def test_other_recipes_have_other_folders(tmp_path: Path) -> None:
    recipes = [
        RECIPE,
        SoundRecipe(61, 50, 20),
        SoundRecipe(60, 51, 20),
        SoundRecipe(60, 50, 21),
        replace(RECIPE, seed=2),
    ]
    assert len({sound_corpus_folder(recipe, tmp_path) for recipe in recipes}) == len(recipes)


def test_a_recipe_without_clips_is_refused() -> None:
    with pytest.raises(ValueError, match="`test_clips` must be at least 1, but is 0 instead"):
        SoundRecipe(test_clips=0)
