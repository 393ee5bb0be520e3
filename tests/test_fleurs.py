import hashlib
import http.server
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import datasets
import numpy as np
import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value
from helpers_audio import RATE, encode, no_progress, tone

from speechexp.corpora.fleurs import Fleurs
from speechexp.errors import UserError
from speechexp.manifest import summarise
from speechexp.recognition import SpeechRecognition

SPLITS = ("train", "validation", "test")
FEATURES = Features(
    {
        "id": Value("int32"),
        "num_samples": Value("int32"),
        "path": Value("string"),
        "audio": Audio(sampling_rate=RATE),
        "transcription": Value("string"),
        "raw_transcription": Value("string"),
        "gender": ClassLabel(names=["male", "female", "other"]),
        "lang_id": ClassLabel(names=["en_us", "es_419", "fr_fr"]),
        "language": Value("string"),
        "lang_group_id": ClassLabel(names=["western_european_we", "eastern_european_ee"]),
    }
)


def a_row(
    number: int, text: str = "la calle", audio: bytes | None = None, gender: int | None = 0, name: str = ""
) -> dict[str, Any]:
    name = name or f"{10_000 + number}.wav"
    content = encode(tone(1.0, hertz=200 + 10 * number)) if audio is None else audio
    return {
        "id": number,
        "num_samples": RATE,
        "path": f"/root/.cache/es_419/{name}",
        "audio": {"bytes": content, "path": name},
        "transcription": text,
        "raw_transcription": text.capitalize() + ".",
        "gender": gender,
        "lang_id": 1,
        "language": "Spanish",
        "lang_group_id": 0,
    }


def spikes(level: int) -> bytes:
    """Return a second of digital silence but for some samples of one sign."""
    samples = np.zeros(RATE, np.int16)
    samples[:: RATE // 10] = level
    return encode(samples)


ROWS = {
    "train": [
        a_row(0, "la calle y el perro leen", gender=0),
        a_row(1, "el ñandú", gender=1),
        a_row(2, "hola", spikes(-3000), gender=2),
        a_row(3, "silencio", spikes(0)),
        a_row(4, "roto", encode(tone())[:2000]),
        a_row(5, "corto", encode(tone(0.2))),
        a_row(6, "largo", encode(tone(20.5))),
        a_row(7, "¡…!"),
        a_row(8, ""),
        a_row(9, "casi silencio", spikes(-3)),
    ],
    "validation": [a_row(20, "el perro", gender=1), a_row(21, "corto", encode(tone(0.2)))],
    "test": [a_row(30, "la calle", gender=0), a_row(31, "largo", encode(tone(20.5)))],
}


def make(rows: list[dict[str, Any]], features: Features = FEATURES) -> Dataset:
    return Dataset.from_list(rows, features=features)


def write(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_parquet(str(path))


def write_converted(
    folder: Path, rows: dict[str, list[dict[str, Any]]], features: Features = FEATURES
) -> Path:
    """Write the layout of the hub's branch refs/convert/parquet."""
    for split, split_rows in rows.items():
        write(make(split_rows, features), folder / "es_419" / split / "0000.parquet")
    return folder


README = "---\nconfigs:\n- config_name: es_419\n  data_files:\n" + "".join(
    f"  - split: {split}\n    path: parquet-data/es_419/{split}-*.parquet\n" for split in SPLITS
)


def write_main(folder: Path, rows: dict[str, list[dict[str, Any]]], features: Features = FEATURES) -> Path:
    """Write the layout of the hub's newer main branch, in two shards, its README beside."""
    for split, split_rows in rows.items():
        half = (len(split_rows) + 1) // 2
        for shard, part in enumerate((split_rows[:half], split_rows[half:])):
            place = folder / "parquet-data" / "es_419" / f"{split}-0000{shard}-of-00002.parquet"
            write(make(part, features), place)
    (folder / "README.md").write_text(README + "---\n")
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Where the same rows lie, by name: the settings that reach them."""
    root = tmp_path_factory.mktemp("fleurs")
    converted, main, saved = root / "converted", root / "main", root / "saved"
    write_converted(converted, ROWS)
    write_main(main, ROWS)
    DatasetDict({split: make(rows) for split, rows in ROWS.items()}).save_to_disk(str(saved))
    return {
        "converted parquet": {"path": str(converted)},
        "main parquet": {"path": str(main)},
        "save_to_disk": {"path": str(saved)},
    }


SOURCES = ["converted parquet", "main parquet", "save_to_disk"]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Fleurs]:
    """Load FLEURS with some settings into a cache of its own."""

    def loaded(**settings: Any) -> Fleurs:
        data = Fleurs(SpeechRecognition(), cache_dir=str(tmp_path / "cache"), **settings)
        data.load(no_progress)
        return data

    return loaded


def refused(load: Callable[..., Fleurs], **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(**settings)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("source", SOURCES)
def test_rows_of_every_layout(
    source: str, sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    data = load(**sources[source])

    assert list(data.references("train")) == ["la calle y el perro leen", "el ñandú", "hola"]
    assert list(data.references("validation")) == ["el perro", "corto"]
    assert list(data.references("test")) == ["la calle", "largo"]
    assert data.manifest.ids[:2] == ["0-10000", "1-10001"]


@pytest.mark.parametrize("source", SOURCES)
def test_dropped_clips_are_listed_with_their_reason(
    source: str, sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    data = load(**sources[source])

    assert {drop.id: (drop.split, drop.reason) for drop in data.drops} == {
        "3-10003": ("train", "silent"),
        "4-10004": ("train", "unreadable"),
        "5-10005": ("train", "too short"),
        "6-10006": ("train", "too long"),
        "7-10007": ("train", "no text"),
        "8-10008": ("train", "no text"),
        "9-10009": ("train", "silent"),
    }


def test_every_layout_prepares_the_same_data(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    assert len({load(**settings).prepared.fingerprint for settings in sources.values()}) == 1


@pytest.mark.parametrize("source", SOURCES)
def test_second_time_comes_from_the_cache(
    source: str, sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    first, second = load(**sources[source]), load(**sources[source])

    assert second.prepared.folder == first.prepared.folder


@pytest.mark.parametrize("source", ["converted parquet", "save_to_disk"])
def test_gender_is_a_word(
    source: str, sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    attributes = load(**sources[source]).manifest.attributes

    assert attributes[:3] == [{"gender": "male"}, {"gender": "female"}, {"gender": "other"}]


@pytest.mark.parametrize("source", ["converted parquet", "save_to_disk"])
def test_another_text_column(
    source: str, sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    data = load(**sources[source], text_column="raw_transcription")

    assert data.manifest.references[0] == "La calle y el perro leen."
    assert data.references("train")[0] == "la calle y el perro leen"


def test_audio_is_the_files(sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]) -> None:
    data = load(**sources["converted parquet"])
    data.task.learn_labels(data.references("train"))
    clip = data.clips("train")[1]

    assert np.abs(clip.audio / 32768 - tone(1.0, hertz=210)).max() < 1e-4


def test_clips_reach_a_process_that_loads_them(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    data = load(**sources["converted parquet"])
    data.task.learn_labels(data.references("train"))
    clips = data.clips("train")

    content = pickle.dumps(clips)
    again = pickle.loads(content)
    assert len(content) < 4000  # paths, not audio
    assert [again[i].reference for i in range(len(again))] == list(data.references("train"))
    assert np.array_equal(again[1].audio, clips[1].audio)


def test_training_batches_hold_every_kept_clip_once(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    data = load(**sources["converted parquet"])
    data.task.learn_labels(data.references("train"))

    batches = list(data.train_dataloader())
    audio = {clip.id: clip.audio for clip in (data.clips("train")[i] for i in range(data.count("train")))}
    assert sorted(clip.reference for batch in batches for clip in batch.clips) == sorted(
        data.references("train")
    )
    for batch in batches:
        for row, clip in enumerate(batch.clips):
            label = batch.targets[row, : batch.target_lengths[row]].tolist()
            assert data.task.vocabulary.decode(label) == clip.reference
            assert np.array_equal(batch.audio[row, : batch.lengths[row]] * 32768, audio[clip.id])


def test_rows_without_gender_or_text_or_with_equal_ids(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    rows = [a_row(0, gender=None), a_row(0), a_row(1) | {"transcription": None}]
    data = load(path=str(write_converted(tmp_path / "local", {"train": rows})))

    assert data.manifest.attributes[0] == {}
    assert len(set(data.manifest.ids)) == 3
    assert [drop.reason for drop in data.drops] == ["no text"]


def test_embedded_flac_and_stereo_44_1_khz(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    stereo = np.stack([tone(1.0, 44_100)] * 2, axis=1)
    rows = [a_row(0, audio=encode(tone(), container="FLAC")), a_row(1, audio=encode(stereo, 44_100))]
    data = load(path=str(write_converted(tmp_path / "local", {"train": rows})))

    assert data.manifest.num_samples.tolist() == [RATE, RATE]


def test_audio_given_by_its_path_alone(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    (tmp_path / "clip.wav").write_bytes(encode(tone()))
    row = a_row(0) | {"audio": {"bytes": None, "path": str(tmp_path / "clip.wav")}}
    data = load(path=str(write_converted(tmp_path / "local", {"train": [row]})))

    assert data.count("train") == 1


@pytest.mark.parametrize("saved", [False, True], ids=["parquet", "save_to_disk"])
@pytest.mark.parametrize("kind", ["binary", "string"])
def test_audio_as_plain_bytes_or_paths(
    tmp_path: Path, load: Callable[..., Fleurs], kind: str, saved: bool
) -> None:
    (tmp_path / "clip.wav").write_bytes(encode(tone()))
    features = Features({**FEATURES, "audio": Value(kind)})
    cell = encode(tone()) if kind == "binary" else str(tmp_path / "clip.wav")
    rows = [a_row(0) | {"audio": cell}, a_row(1) | {"audio": None}]
    if saved:
        DatasetDict({"train": make(rows, features)}).save_to_disk(str(tmp_path / "local"))
    else:
        write_converted(tmp_path / "local", {"train": rows}, features)
    data = load(path=str(tmp_path / "local"))

    assert data.manifest.num_samples.tolist() == [RATE]
    assert [drop.reason for drop in data.drops] == ["unreadable"]


def test_row_without_audio_is_listed_as_unreadable(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    rows = [a_row(0), a_row(1) | {"audio": None}]
    data = load(path=str(write_converted(tmp_path / "local", {"train": rows})))

    assert data.count("train") == 1
    assert [drop.reason for drop in data.drops] == ["unreadable"]


# ------------------------------------------------------------------------------------------------- cleaning


def test_clip_with_only_a_negative_peak_is_not_silent(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    assert "hola" in load(**sources["converted parquet"]).references("train")


def test_validation_and_test_keep_what_training_would_drop_for_its_length(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    data = load(**sources["converted parquet"], min_seconds=5.0, max_seconds=6.0)

    assert (data.count("train"), data.count("validation"), data.count("test")) == (0, 2, 2)


def test_drops_are_counted_by_split_and_reason(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    data = load(**sources["converted parquet"])

    counts = {(split, reason): count for split, reason, count in summarise(data.drops)}
    assert counts[("train", "silent")] == counts[("train", "no text")] == 2
    assert sum(counts.values()) == len(data.drops) == 7


def test_label_too_long_for_the_networks_frames_is_dropped_from_training_alone(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    data = load(**sources["converted parquet"])
    data.task.learn_labels(data.references("train"))
    data.drop_infeasible(lambda num_samples: 8)

    assert list(data.references("train")) == ["el ñandú", "hola"]  # 8 and 4 labels
    assert data.drops[-1].reason == "label too long"
    assert "27 frames" in data.drops[-1].detail  # 24 letters and spaces, "ll", "rr" and "ee" between
    assert data.count("test") == 2


def test_nothing_left_says_why_and_which_settings_decide(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    data = load(**sources["converted parquet"], min_seconds=5.0)

    with pytest.raises(UserError) as caught:
        data.require("train")
    message = str(caught.value)
    assert "too short" in message
    assert "data.min_seconds=5.0" in message
    assert "data.silence_peak" in message


def test_split_that_is_not_there_is_named(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    data = load(path=str(write_converted(tmp_path / "local", {"train": [a_row(0)]})))

    with pytest.raises(UserError, match="no validation clip in"):
        data.require("train", "validation")


# ----------------------------------------------------------------------------------------------- bad sources


def test_wrong_config_of_local_parquet(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    message = refused(load, **sources["main parquet"], config="xx_yy")

    assert "data.config=xx_yy" in message
    assert "parquet-data/es_419" in message


@pytest.mark.parametrize("source", SOURCES)
def test_missing_text_column_names_the_setting_and_the_columns(
    source: str, sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    message = refused(load, **sources[source], text_column="text")

    assert "data.text_column" in message
    assert "raw_transcription" in message


def without_audio(rows: list[dict[str, Any]]) -> Dataset:
    return make(rows).remove_columns("audio")


def test_missing_audio_column_of_local_parquet(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    write(without_audio([a_row(0)]), tmp_path / "local" / "es_419" / "train" / "0000.parquet")

    assert "no column 'audio'" in refused(load, path=str(tmp_path / "local"))


def test_missing_audio_column_of_a_saved_folder(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    DatasetDict({"train": without_audio([a_row(0)])}).save_to_disk(str(tmp_path / "saved"))

    assert "no column 'audio'" in refused(load, path=str(tmp_path / "saved"))


@pytest.mark.parametrize("saved", [False, True], ids=["parquet", "save_to_disk"])
def test_audio_column_of_another_type(tmp_path: Path, load: Callable[..., Fleurs], saved: bool) -> None:
    features = Features({**FEATURES, "audio": Value("int32")})
    rows = [a_row(0) | {"audio": 5}]
    if saved:
        DatasetDict({"train": make(rows, features)}).save_to_disk(str(tmp_path / "local"))
    else:
        write_converted(tmp_path / "local", {"train": rows}, features)

    assert "its column audio must hold encoded files" in refused(load, path=str(tmp_path / "local"))


def test_text_column_that_holds_no_text(
    sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    assert "data.text_column=gender" in refused(load, **sources["converted parquet"], text_column="gender")


@pytest.mark.parametrize("content", [b"", b"not parquet at all, but long enough to be read"])
def test_file_that_is_not_parquet(tmp_path: Path, load: Callable[..., Fleurs], content: bytes) -> None:
    folder = write_converted(tmp_path / "local", {"train": [a_row(0)]})
    (folder / "es_419" / "train" / "0000.parquet").write_bytes(content)

    message = refused(load, path=str(folder))
    assert "0000.parquet is not a parquet file" in message


def test_parquet_cut_at_its_end(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    folder = write_converted(tmp_path / "local", {"train": [a_row(0)]})
    file = folder / "es_419" / "train" / "0000.parquet"
    file.write_bytes(file.read_bytes()[:-1000])

    assert "0000.parquet is not a parquet file" in refused(load, path=str(folder))


def spoil_pages(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[:4] + b"\xff" * 6000 + raw[6004:])


def test_parquet_spoiled_in_its_middle_is_named(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    folder = write_converted(tmp_path / "local", {"train": [a_row(0)]})
    spoil_pages(folder / "es_419" / "train" / "0000.parquet")

    message = refused(load, path=str(folder))
    assert "0000.parquet" in message
    assert "can't be written" not in message


@pytest.mark.parametrize("kind", ["a split is gone", "an arrow file is spoiled"])
def test_damaged_saved_folder(
    kind: str, tmp_path: Path, sources: dict[str, dict[str, str]], load: Callable[..., Fleurs]
) -> None:
    folder = tmp_path / "saved"
    shutil.copytree(sources["save_to_disk"]["path"], folder)
    if kind == "a split is gone":
        shutil.rmtree(folder / "train")
    else:
        next((folder / "train").glob("*.arrow")).write_bytes(b"junk" * 10)

    assert f"data.path={folder}" in refused(load, path=str(folder))


def test_missing_path(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    assert f"data.path={tmp_path / 'nowhere'}" in refused(load, path=str(tmp_path / "nowhere"))


def test_path_that_is_a_file(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    (tmp_path / "file.parquet").touch()

    assert "but it is a file" in refused(load, path=str(tmp_path / "file.parquet"))


def test_saved_data_set_without_splits_says_what_to_save(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    make([a_row(0)]).save_to_disk(str(tmp_path / "saved"))

    assert "DatasetDict with train, validation and test" in refused(load, path=str(tmp_path / "saved"))


def test_saved_splits_of_other_names(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    DatasetDict({"data": make([a_row(0)])}).save_to_disk(str(tmp_path / "saved"))

    assert "train, validation, test, but has data" in refused(load, path=str(tmp_path / "saved"))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/place", "~/nowhere-at-all", "my data/set", "a\0b"])
def test_name_that_is_neither_a_folder_nor_a_hub_id(load: Callable[..., Fleurs], name: str) -> None:
    assert f"data.name={name} must be a hub id" in refused(load, name=name)


def test_folder_as_the_name_says_where_it_belongs(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    assert f"Give it as data.path={tmp_path}" in refused(load, name=str(tmp_path))


def test_empty_path_says_where_it_looked(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    message = refused(load, path=str(tmp_path))

    assert f"data.path={tmp_path}" in message
    assert "es_419/train/*.parquet" in message


def test_bad_source_leaves_nothing_in_the_cache(tmp_path: Path, load: Callable[..., Fleurs]) -> None:
    refused(load, path=str(tmp_path))

    assert not (tmp_path / "cache" / "prepared").exists()


# -------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_unreachable_hub_is_one_message_that_says_what_works_offline(
    offline: None, load: Callable[..., Fleurs]
) -> None:
    message = refused(load)

    assert "google/fleurs" in message
    assert "https://huggingface.co/datasets/google/fleurs" in message
    assert "data=spanish_mini" in message
    assert "data.path=DIR" in message


HUB_CHILD = """
import json, sys
from speechexp.errors import UserError
from speechexp.hub import dataset_from_hub

said = []
for case in json.loads(sys.argv[1]):
    try:
        found = dataset_from_hub(*case)
        said.append({split: rows["transcription"][:] for split, rows in found.items()})
    except UserError as error:
        said.append(str(error))
    except Exception as error:
        said.append(f"raw {type(error).__name__}: {error}")
print(json.dumps(said))
"""
CONVERTED = "refs/convert/parquet"
# What the small hub below is asked for: repository, config, revision.
MAIN = ("google/fleurs", "es_419", None)
SCRIPT = ("old/fleurs", "es_419", None)
CONVERTED_BRANCH = ("old/fleurs", "es_419", CONVERTED)
NO_CONFIG = ("google/fleurs", "xx_yy", None)
NO_CONVERTED_CONFIG = ("old/fleurs", "xx_yy", None)
NO_REVISION = ("google/fleurs", "es_419", "v9")
SCRIPT_REVISION = ("old/fleurs", "es_419", "main")
GATED = ("gated/data", "es_419", None)
MISSING = ("nobody/nothing", "es_419", None)
AGGREGATED = ("nobody/aggregated-gated", "es_419", None)
NO_PARQUET = ("bad/no-parquet", "es_419", None)
SPOILED_PAGES = ("bad/pages", "es_419", None)
EMPTY = ("bad/empty", "es_419", None)
FOUND = [MAIN, SCRIPT, CONVERTED_BRANCH]
REFUSED = [NO_CONFIG, NO_CONVERTED_CONFIG, NO_REVISION, SCRIPT_REVISION, GATED, MISSING, AGGREGATED]
REFUSED += [NO_PARQUET, SPOILED_PAGES, EMPTY]


class SmallHub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does, for the repositories in ``folders``: by their id, each revision's folder."""

    folders: ClassVar[dict[str, dict[str, Path]]] = {}

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        api = parts[0] == "api"
        parts = [unquote(part) for part in parts[api:]]
        repository = "/".join(parts[1:3])
        if repository.startswith("gated/"):
            self.refuse(403, "GatedRepo")
        elif repository not in self.folders:
            self.refuse(404, "RepoNotFound")
        else:
            self.answer(repository, parts[3:], api)

    do_HEAD = do_POST = do_GET

    def answer(self, repository: str, rest: list[str], api: bool) -> None:
        revisions = self.folders[repository]
        commits = {hashlib.sha1(f"{repository}{name}".encode()).hexdigest(): name for name in revisions}
        kind, revision = rest[:2] if len(rest) > 1 else ("revision", "main")
        revision = commits.get(revision, revision)
        if revision not in revisions:
            return self.refuse(404, "RevisionNotFound")
        commit = next(each for each, name in commits.items() if name == revision)
        folder = revisions[revision]
        below = "/".join(rest[2:])
        if kind == "resolve":
            if not (folder / below).is_file():
                return self.refuse(404, "EntryNotFound")
            return self.reply((folder / below).read_bytes(), commit, below)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_relative_to(folder / below)]
        if kind == "revision":
            siblings = [
                {"rfilename": path.relative_to(folder).as_posix()} for path in paths if path.is_file()
            ]
            content: Any = {
                "id": repository,
                "sha": commit,
                "private": False,
                "tags": [],
                "siblings": siblings,
            }
        else:
            if kind == "paths-info":
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
                paths = [folder / name for name in asked if (folder / name).exists()]
            elif "recursive=true" not in self.path.lower():
                paths = [path for path in paths if path.parent == folder / below]
            content = [
                {
                    "type": "file" if path.is_file() else "directory",
                    "path": path.relative_to(folder).as_posix(),
                    "size": path.stat().st_size if path.is_file() else 0,
                    "oid": hashlib.sha1(path.as_posix().encode()).hexdigest(),
                }
                for path in paths
            ]
        return self.reply(json.dumps(content).encode(), commit, self.path)

    def reply(self, body: bytes, commit: str, name: str) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(f"{commit}{name}".encode()).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "refused")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


Case = tuple[str, str, str | None]


def ask_hub(endpoint: str, home: Path, rounds: list[list[Case]]) -> list[dict[Case, Any]]:
    """Return what a process gets that knows no other hub than ``endpoint``: texts by split, or a message."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
    command = [sys.executable, "-c", HUB_CHILD, json.dumps([case for cases in rounds for case in cases])]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode == 0, child.stderr
    said = iter(json.loads(child.stdout.splitlines()[-1]))
    return [{case: next(said) for case in cases} for cases in rounds]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What the small hub's answers become, by case; by "again" and "offline" what they do afterwards."""
    root = tmp_path_factory.mktemp("hub")
    rows = {split: [a_row(0, f"{split} uno"), a_row(1, f"{split} dos")] for split in SPLITS}
    write_converted(root / "converted", rows)
    shutil.copytree(root / "converted" / "es_419", root / "converted" / "en_us")
    (root / "script").mkdir()
    (root / "script" / "fleurs.py").write_text("import datasets\n")
    SmallHub.folders = {
        "google/fleurs": {"main": write_main(root / "main", rows)},
        "old/fleurs": {"main": root / "script", CONVERTED: root / "converted"},
    }
    for name in ("no-parquet", "pages", "empty"):
        SmallHub.folders[f"bad/{name}"] = {"main": write_main(root / name, rows)}
    shard = Path("parquet-data", "es_419", "train-00000-of-00002.parquet")
    (root / "no-parquet" / shard).write_bytes(b"garbage" * 9)
    spoil_pages(root / "pages" / shard)
    shutil.rmtree(root / "empty" / "parquet-data")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        first, again = ask_hub(endpoint, root / "home", [[*FOUND, *REFUSED], FOUND])
    finally:
        server.shutdown()
        server.server_close()
    (offline,) = ask_hub(endpoint, root / "home", [FOUND])
    return {**first, "again": again, "offline": offline}


TEXTS = {split: [f"{split} uno", f"{split} dos"] for split in SPLITS}


def test_newer_main_branch_is_loaded(hub: dict[Any, Any]) -> None:
    assert hub[MAIN] == TEXTS


@pytest.mark.parametrize("case", [SCRIPT, CONVERTED_BRANCH])
def test_older_main_branch_with_a_script_is_loaded_from_its_converted_copy(
    hub: dict[Any, Any], case: Case
) -> None:
    assert hub[case] == TEXTS


@pytest.mark.parametrize("when", ["again", "offline"])
def test_what_was_loaded_once_is_loaded_again(hub: dict[Any, Any], when: str) -> None:
    assert hub[when] == dict.fromkeys(FOUND, TEXTS)


def test_config_that_the_hub_lacks_names_the_setting(hub: dict[Any, Any]) -> None:
    assert hub[NO_CONFIG].startswith("data.config=xx_yy is not a part of google/fleurs")
    assert hub[NO_CONVERTED_CONFIG].startswith("data.config=xx_yy is not a part of old/fleurs")


def test_revision_that_the_hub_lacks_is_said_to_be_missing(hub: dict[Any, Any]) -> None:
    assert "has no such revision" in hub[NO_REVISION]


def test_revision_with_a_script_is_not_replaced_by_another(hub: dict[Any, Any]) -> None:
    assert hub[SCRIPT_REVISION].startswith("data.revision=main of old/fleurs is a script")
    assert f"data.revision={CONVERTED}" in hub[SCRIPT_REVISION]


@pytest.mark.parametrize("case", [NO_PARQUET, SPOILED_PAGES, EMPTY])
def test_repository_whose_data_is_damaged(hub: dict[Any, Any], case: Case) -> None:
    assert hub[case].startswith(f"data.name={case[0]} can't be read: ")


def test_gated_repository_names_the_page_and_the_token(hub: dict[Any, Any]) -> None:
    assert hub[GATED].startswith("The dataset gated/data is gated.")
    assert "https://huggingface.co/datasets/gated/data" in hub[GATED]
    assert "HF_TOKEN" in hub[GATED]


def test_repository_that_is_not_there_is_said_to_be_missing(hub: dict[Any, Any]) -> None:
    assert hub[MISSING].startswith("The hub has no dataset nobody/nothing")
    assert "data=spanish_mini" in hub[MISSING]
    assert hub[AGGREGATED].startswith("The hub has no dataset nobody/aggregated-gated")


def test_hub_that_does_not_answer_is_not_asked_again(tmp_path: Path) -> None:
    before = time.monotonic()

    assert "not reachable" in ask_hub("http://127.0.0.1:9", tmp_path, [[MAIN]])[0][MAIN]
    assert time.monotonic() - before < 15  # left alone, huggingface_hub tries six times within 23 s
