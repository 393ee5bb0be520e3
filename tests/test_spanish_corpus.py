"""The Spanish mini corpus: its sentences, its voices, its files, and how it is made."""

import io
import json
import random
import re
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from num2words import num2words

from speechexp.corpora import spanish_corpus, spanish_rows, spanish_sentences, spanish_voices
from speechexp.corpora.spanish_corpus import Recipe, corpus_folder, make_corpus
from speechexp.corpora.spanish_sentences import draw_sentence, draw_sentences, spell_number, split_of

SPLITS = ("train", "validation", "test")
# Enough for all kinds of bad rows in train and validation; test is so small that it gets two.
RECIPE = Recipe(train_utterances=90, validation_utterances=50, test_utterances=20)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus made from a folder where `speechexp` is not, with nothing in PYTHONPATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.delenv("PYTHONPATH", raising=False)
        return make_corpus(RECIPE, tmp_path_factory.mktemp("cache"))


def read_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    rows = {}
    for split in SPLITS:
        files = sorted((folder / "parquet-data" / "es_mini").glob(f"{split}-*.parquet"))
        rows[split] = [row for file in files for row in pq.read_table(file).to_pylist()]
    return rows


def read_faults(folder: Path) -> dict[str, dict[str, list[str]]]:
    faults: dict[str, dict[str, list[str]]] = json.loads((folder / "recipe.json").read_text())["faults"]
    return faults


def bad_paths(folder: Path) -> set[str]:
    return {path for kinds in read_faults(folder).values() for paths in kinds.values() for path in paths}


def normalise(text: str) -> str:
    """Lower case, punctuation to spaces, digits to words."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return " ".join(num2words(int(word), lang="es") if word.isdigit() else word for word in words)


# Sentences


def test_numbers_are_spelt_as_num2words_does() -> None:
    assert [spell_number(n) for n in range(1000)] == [num2words(n, lang="es") for n in range(1000)]


@pytest.mark.parametrize("number", [-1, 1000])
def test_numbers_outside_the_range_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="`number` must be from 0 to 999"):
        spell_number(number)


def test_normalising_the_raw_text_gives_the_transcription() -> None:
    rng = random.Random(7)
    for _ in range(5000):
        sentence = draw_sentence(rng)
        assert normalise(sentence.raw) == sentence.transcription
        assert normalise(sentence.spoken) == sentence.transcription


def test_half_of_the_sentences_with_numbers_have_digits() -> None:
    numerals = {word for n in range(1000) for word in spell_number(n).split()} - {"y", "uno"}
    rng = random.Random(7)
    sentences = [draw_sentence(rng) for _ in range(5000)]
    with_numbers = [s for s in sentences if numerals & set(s.transcription.split())]
    share = sum(any(c.isdigit() for c in s.raw) for s in with_numbers) / len(with_numbers)
    assert 0.45 < share < 0.55


def test_the_grammar_has_what_text_cleaning_tends_to_damage() -> None:
    sentences = draw_sentences("train", 3000, random.Random(7))
    words = {word for sentence in sentences for word in sentence.transcription.split()}
    assert set("abcdefghijlmnopqrstuvxyzáéíóúñü") <= set("".join(words))
    assert {"calle", "perro", "lee", "leen", "año", "mañana", "niño", "pingüino", "lección"} <= words
    assert 100 <= len(words) <= 160
    assert {"¿", "?", "¡", "!", ",", "."} <= set("".join(sentence.raw for sentence in sentences))


def test_sentences_belong_to_one_split_and_have_one_text() -> None:
    drawn = {split: draw_sentences(split, 500, random.Random(7)) for split in SPLITS}
    for split, sentences in drawn.items():
        assert {split_of(sentence.transcription) for sentence in sentences} == {split}
        assert max(Counter(s.transcription for s in sentences).values()) <= spanish_sentences.MAX_READINGS
        assert len({s.transcription for s in sentences}) == len({s.raw for s in sentences})


def test_more_sentences_than_the_grammar_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(spanish_sentences.RULES, "sentence", ("Mi perro come {food} hoy.",))
    with pytest.raises(ValueError, match=r"`train_utterances` must be at most about .* is 100000 instead"):
        draw_sentences("train", 100_000, random.Random(7))


# Voices


def test_voices_of_the_splits_are_disjoint_and_exist() -> None:
    variants = spanish_voices.VARIANTS
    assert {split: len(names) for split, names in variants.items()} == {
        "train": 66,
        "validation": 6,
        "test": 6,
    }
    everything = [name for names in variants.values() for name in names]
    assert len(set(everything)) == len(everything)
    data = Path(spanish_voices.import_loader().get_data_path())
    assert set(everything) <= {file.name for file in (data / "voices" / "!v").iterdir()}


def test_every_voice_of_a_split_speaks_equally_often() -> None:
    voices = spanish_voices.draw_voices("test", 20, random.Random(7))
    assert set(Counter(voice.variant for voice in voices).values()) == {3, 4}


def test_finish_resamples_trims_and_levels() -> None:
    rate = spanish_voices.ESPEAK_SAMPLE_RATE
    tone = 8000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    samples = np.concatenate([np.zeros(rate // 2), tone, np.zeros(rate)]).astype(np.int16)
    audio = spanish_voices.finish(samples, peak=0.5)
    assert audio.size / 16_000 == pytest.approx(1.0 + 2 * 0.05, abs=0.005)
    assert np.abs(audio).max() == pytest.approx(0.5 * 32767, abs=1)
    spectrum = np.abs(np.fft.rfft(audio))
    assert spectrum.argmax() * 16_000 / audio.size == pytest.approx(440, abs=1)


# The corpus


def test_the_files_are_laid_out_and_described_as_those_of_fleurs(corpus: Path) -> None:
    files = sorted(file.name for file in (corpus / "parquet-data" / "es_mini").iterdir())
    assert files == [f"{split}-00000-of-00001.parquet" for split in sorted(SPLITS)]
    schema = pq.read_schema(corpus / "parquet-data" / "es_mini" / files[0])
    assert [(field.name, str(field.type)) for field in schema] == [
        ("id", "int32"),
        ("num_samples", "int32"),
        ("path", "string"),
        ("audio", "struct<bytes: binary, path: string>"),
        ("transcription", "string"),
        ("raw_transcription", "string"),
        ("gender", "int64"),
        ("lang_id", "int64"),
        ("language", "string"),
        ("lang_group_id", "int64"),
    ]
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["audio"] == {"sampling_rate": 16_000, "_type": "Audio"}
    assert features["gender"] == {"names": ["male", "female", "other"], "_type": "ClassLabel"}


@pytest.mark.slow
def test_datasets_loads_the_folder_by_its_config(corpus: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(corpus), "es_mini", cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {
        "train": 106,
        "validation": 53,
        "test": 22,
    }
    assert loaded["train"].features["audio"] == datasets.Audio(sampling_rate=16_000)
    row = loaded["test"].cast_column("audio", datasets.Audio(decode=False))[0]
    assert row["audio"]["path"] == row["path"]
    assert row["audio"]["bytes"][:4] == b"RIFF"


def test_large_splits_have_several_files_of_small_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spanish_rows, "ROWS_PER_GROUP", 10)
    monkeypatch.setattr(spanish_rows, "ROWS_PER_SHARD", 40)
    rows = spanish_rows.plan_corpus({"test": 60}, seed=1)["test"]
    list(spanish_rows.write_corpus({"test": rows}, tmp_path))
    files = sorted((tmp_path / "parquet-data" / "es_mini").iterdir())
    assert [file.name for file in files] == ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]
    for file, num_rows in zip(files, (31, 32), strict=True):
        metadata = pq.read_metadata(file)
        assert metadata.num_rows == num_rows
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)][:3] == [10, 10, 10]


def test_good_rows_are_short_clean_recordings(corpus: Path) -> None:
    bad = bad_paths(corpus)
    for rows in read_rows(corpus).values():
        for row in rows:
            if row["path"] in bad:
                continue
            audio, sample_rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
            assert (sample_rate, audio.ndim, audio.size) == (16_000, 1, row["num_samples"])
            assert 0.5 < audio.size / sample_rate < 5
            assert 0.19 < np.abs(audio).max() < 0.91
            # Frames of 40 ms are enough for all letters, and for a blank between doubled ones.
            text = row["transcription"]
            assert len(text) + sum(a == b for a, b in pairwise(text)) < audio.size // 640
            assert row["audio"]["path"] == row["path"]
            assert normalise(row["raw_transcription"]) == text


def test_no_sentence_and_no_voice_is_in_two_splits(corpus: Path) -> None:
    rows = read_rows(corpus)
    bad = bad_paths(corpus)
    good = {
        split: [row | {"voice": row["path"].split("_")[1]} for row in rows[split] if row["path"] not in bad]
        for split in SPLITS
    }
    for column in ("transcription", "id", "voice"):
        values = [{row[column] for row in good[split]} for split in SPLITS]
        assert sum(map(len, values)) == len(set.union(*values)), column


def test_readings_of_a_sentence_share_its_id(corpus: Path) -> None:
    rows = [row for split in read_rows(corpus).values() for row in split]
    assert len({(row["id"], row["transcription"]) for row in rows}) == len({row["id"] for row in rows})
    assert len({row["path"] for row in rows}) == len(rows)


def test_bad_rows_come_on_top_and_are_bad(corpus: Path) -> None:
    rows, faults = read_rows(corpus), read_faults(corpus)
    counts = {split: {kind: len(paths) for kind, paths in kinds.items()} for split, kinds in faults.items()}
    assert counts == {
        "train": {"silent": 6, "truncated": 3, "not_audio": 2, "empty": 1, "no_text": 2, "too_short": 2},
        "validation": {"silent": 2, "truncated": 1},
        "test": {"silent": 1, "truncated": 1},
    }
    assert [len(rows[split]) for split in SPLITS] == [90 + 16, 50 + 3, 20 + 2]
    by_path = {row["path"]: row for split in rows.values() for row in split}
    for kinds in faults.values():
        for kind, paths in kinds.items():
            for path in paths:
                assert is_bad(by_path[path], kind), (kind, path)


def is_bad(row: dict[str, Any], kind: str) -> bool:
    data = row["audio"]["bytes"]
    if kind == "empty":
        return bool(data == b"")
    if kind == "not_audio":
        with pytest.raises(soundfile.LibsndfileError):
            soundfile.read(io.BytesIO(data))
        return True
    audio, sample_rate = soundfile.read(io.BytesIO(data))
    signs: dict[str, bool] = {
        "silent": not audio.any(),
        "truncated": int.from_bytes(data[40:44], "little") == 2 * row["num_samples"] > len(data),
        "no_text": normalise(row["transcription"]) == "" and bool(audio.any()),
        "too_short": audio.size < 0.1 * sample_rate and bool(audio.any()),
    }
    return signs[kind]


# Making it


def test_a_published_corpus_is_returned_at_once(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert make_corpus(RECIPE, corpus.parent) == corpus == corpus_folder(RECIPE, corpus.parent)


def test_other_recipes_have_other_folders(tmp_path: Path) -> None:
    recipes = [RECIPE, Recipe(91, 50, 20), Recipe(90, 51, 20), Recipe(90, 50, 21), Recipe(90, 50, 20, seed=2)]
    assert len({corpus_folder(recipe, tmp_path) for recipe in recipes}) == len(recipes)


def test_a_recipe_without_utterances_is_refused() -> None:
    with pytest.raises(ValueError, match="`test_utterances` must be at least 1, but is 0 instead"):
        Recipe(test_utterances=0)


def test_a_killed_process_leaves_nothing_finished_and_the_next_makes_the_same(
    corpus: Path, tmp_path: Path
) -> None:
    code = (
        "from pathlib import Path; from speechexp.corpora.spanish_corpus import Recipe, make_corpus\n"
        f"make_corpus(Recipe(3000, 50, 20), Path({str(tmp_path)!r}), lambda *done: print(*done, flush=True))"
    )
    root = Path(spanish_corpus.__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == [b"50", b"3091"]
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("spanish_mini-")] == []

    # Two at once: one makes it, the other waits.
    progress: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    folders = []

    def make(index: int) -> None:
        folders.append(make_corpus(RECIPE, tmp_path, lambda *done: progress[index].append(done)))

    threads = [threading.Thread(target=make, args=(index,)) for index in progress]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [corpus_folder(RECIPE, tmp_path)] * 2
    assert sorted(progress.values()) == [[], [(50, 181), (100, 181), (150, 181), (181, 181)]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [folders[0].name, "spanish_mini.lock"]
    assert read_rows(folders[0]) == read_rows(corpus)
    for name in ("recipe.json", "README.md"):
        assert (folders[0] / name).read_bytes() == (corpus / name).read_bytes()


def test_an_interrupt_ends_the_child_and_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_corpus(Recipe(3000, 10, 10), tmp_path, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["spanish_mini.lock"]


def test_a_failing_child_is_reported_with_the_end_of_its_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no voices today >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RuntimeError, match="exit status 3: no voices today"):
        make_corpus(RECIPE, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["spanish_mini.lock"]


def test_a_cache_that_is_no_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_corpus(RECIPE, tmp_path / "file" / "cache")


def test_a_write_that_fails_is_an_os_error_with_the_path(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=re.escape(str(tmp_path))) as caught:
            make_corpus(Recipe(10, 10, 10), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename.startswith(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["spanish_mini.lock"]


def test_a_missing_espeak_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match="pip install espeakng-loader"):
        make_corpus(RECIPE, tmp_path)
