import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Dataset, DatasetDict, Features, Sequence, Value
from helpers_audio import encode, no_progress, tone
from test_fleurs import SmallHub

from speechexp.audio import decode
from speechexp.corpora.audioset import AudioSet
from speechexp.errors import UserError
from speechexp.labels import SoundClass, read_labels
from speechexp.manifest import Row
from speechexp.tagging import AudioTagging

FEATURES = Features(
    {
        "video_id": Value("string"),
        "audio": Audio(),
        "labels": Sequence(Value("string")),
        "human_labels": Sequence(Value("string")),
    }
)
SPEECH, DOG, RAIN = (
    SoundClass("Speech", "/m/09x0r"),
    SoundClass("Dog", "/m/0bt9lr"),
    SoundClass("Rain", "/m/06mb1"),
)
TAGGING = AudioTagging()


def flac(seconds: float = 0.2, rate: int = 48_000, channels: int = 2, hertz: float = 440.0) -> bytes:
    """Return a clip as AudioSet's are: FLAC of 24 bits."""
    samples = np.stack([tone(seconds, rate, hertz)] * channels, axis=1)
    return encode(samples, rate, container="FLAC", subtype="PCM_24")


def a_row(video_id: str, *classes: SoundClass, audio: bytes | None = None) -> dict[str, Any]:
    return {
        "video_id": video_id,
        "audio": {"bytes": audio or flac(), "path": f"{video_id}.flac"},
        "labels": [each.mid for each in classes],
        "human_labels": [each.name for each in classes],
    }


ROWS = {
    "train": [a_row("-a", DOG, SPEECH), a_row("-b", RAIN), a_row("-c", SPEECH)],
    "test": [a_row("t1", RAIN), a_row("t2", DOG)],
}
OTHER_TRAIN = [a_row("u1", RAIN), a_row("u2", DOG)]


def write(file: Path, rows: list[dict[str, Any]], features: Features = FEATURES) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(str(file))


def write_hub(folder: Path, *below: str) -> Path:
    """Write the layout of the hub's main branch, in two shards, with both training sets."""
    data = Path(folder, *below)
    write(data / "bal_train" / "00.parquet", ROWS["train"][:2])
    write(data / "bal_train" / "01.parquet", ROWS["train"][2:])
    write(data / "unbal_train" / "000.parquet", OTHER_TRAIN)
    write(data / "eval" / "00.parquet", ROWS["test"])
    return folder


def write_layout(folder: Path, layout: str, rows: dict[str, list[dict[str, Any]]]) -> Path:
    for split, split_rows in rows.items():
        write(folder / layout.format(split=split), split_rows)
    return folder


Opened = tuple[AudioSet, str, list[Row]]


def opened(path: Path | str | None, **settings: Any) -> Opened:
    """Open a source; return what reads it, what decides its content, and its rows."""
    data = AudioSet(TAGGING, path=str(path) if path else None, **settings)
    source, total = data.open_source(no_progress)
    rows = list(data.rows())
    assert total == len(rows)
    return data, source, rows


def refused(path: Path | str | None, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(path, **settings)
    return str(caught.value)


def placed(rows: list[Row]) -> dict[str, str]:
    return {row.id: row.split for row in rows}


# -------------------------------------------------------------------------------------------------- layouts

TRAIN_AND_TEST = {"-a": "train", "-b": "train", "-c": "train", "t1": "test", "t2": "test"}


@pytest.mark.parametrize(
    "layout",
    [
        "data/{split}-00000-of-00001.parquet",
        "{split}-00000-of-00001.parquet",
        "{split}/0000.parquet",
        "data/{split}/0000.parquet",
        "balanced/{split}/0000.parquet",
    ],
)
def test_local_parquet_in_every_layout(tmp_path: Path, layout: str) -> None:
    _, _, rows = opened(write_layout(tmp_path, layout, ROWS), validation_share=0.0)

    assert placed(rows) == TRAIN_AND_TEST
    assert read_labels(rows[0].reference) == [DOG, SPEECH]


@pytest.mark.parametrize("below", [("data",), ()])
@pytest.mark.parametrize(
    ("config", "train"),
    [
        ("balanced", ["-a", "-b", "-c"]),
        ("unbalanced", ["u1", "u2"]),
        ("full", ["-a", "-b", "-c", "u1", "u2"]),
    ],
)
def test_copy_of_the_hubs_files(tmp_path: Path, below: tuple[str], config: str, train: list[str]) -> None:
    _, _, rows = opened(write_hub(tmp_path, *below), config=config, validation_share=0.0)

    assert placed(rows) == {**dict.fromkeys(train, "train"), "t1": "test", "t2": "test"}


def test_save_to_disk(tmp_path: Path) -> None:
    splits = {split: Dataset.from_list(rows, features=FEATURES) for split, rows in ROWS.items()}
    DatasetDict(splits).save_to_disk(str(tmp_path))
    _, source, rows = opened(tmp_path, validation_share=0.0)

    assert placed(rows) == TRAIN_AND_TEST
    assert read_labels(rows[0].reference) == [DOG, SPEECH]
    assert source == opened(tmp_path, validation_share=0.0)[1]


def test_full_with_one_of_its_two_training_sets_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data" / "bal_train" / "00.parquet", ROWS["train"])

    message = refused(tmp_path, config="full")
    assert "has no unbal_train" in message
    assert "data.config=balanced" in message


@pytest.mark.parametrize("audio", [FEATURES["audio"], Value("binary")], ids=["struct", "bytes"])
def test_rows_from_a_place_on_are_those_from_the_start(tmp_path: Path, audio: Any) -> None:
    content = flac()
    cell = content if audio == Value("binary") else {"bytes": content, "path": "a.flac"}
    features = Features({**FEATURES, "audio": audio})
    for shard, ids in enumerate([("a", "b"), ("a", "c"), ("b", "a", "d")]):  # ids come again in other files
        rows = [{**a_row(each, DOG), "audio": cell} for each in ids]
        write(tmp_path / f"train-{shard}.parquet", rows, features)
    write(tmp_path / "test-0.parquet", [{**a_row("t", DOG), "audio": cell}], features)
    data, _, found = opened(tmp_path, validation_share=0.4)

    assert {row.audio for row in found} == {content}
    for start in range(len(found) + 1):
        assert list(data.rows(start)) == found[start:]


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 2), (48_000, 1)])
def test_audio_stays_encoded_and_decodes_at_the_tasks_rate(tmp_path: Path, rate: int, channels: int) -> None:
    content = flac(0.5, rate, channels, hertz=300)
    _, _, rows = opened(write_layout(tmp_path, "{split}-0.parquet", {"train": [a_row("a", audio=content)]}))

    assert rows[0].audio == content
    assert (
        np.abs(decode(rows[0].audio, 16_000)[800:-800] / 32768 - tone(0.5, hertz=300)[800:-800]).max() < 2e-3
    )


def test_video_that_is_there_twice_gets_an_id_of_its_own(tmp_path: Path) -> None:
    rows = {"train": [a_row("a", DOG), a_row("a", RAIN), a_row("a", RAIN)]}
    _, _, found = opened(write_layout(tmp_path, "{split}-0.parquet", rows), validation_share=0.0)

    assert [row.id for row in found] == ["a", "a#2", "a#3"]


# --------------------------------------------------------------------------------------- the drawn validation


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred training clips, without a validation split."""
    audio = flac(0.05)
    rows = {"train": [a_row(f"v{number}", DOG, audio=audio) for number in range(200)], "test": ROWS["test"]}
    return write_layout(tmp_path_factory.mktemp("many"), "{split}-0.parquet", rows)


def test_validation_is_drawn_from_train_where_there_is_none(many: Path) -> None:
    data, _, rows = opened(many, validation_share=0.2)
    splits = [row.split for row in rows]

    assert 20 <= splits.count("validation") <= 60
    assert splits.count("train") + splits.count("validation") == 200
    assert placed(rows)["t1"] == "test"
    assert "0.2 of train drawn for validation" in data.describe()


def test_drawn_validation_depends_on_the_id_and_the_seed_alone(many: Path, tmp_path: Path) -> None:
    few = {"train": [a_row(f"v{number}", RAIN) for number in (150, 7, 31, 99, 2, 5)]}
    all_of_them = placed(opened(many, validation_share=0.5)[2])
    some = placed(opened(write_layout(tmp_path, "{split}-0.parquet", few), validation_share=0.5)[2])

    assert some == {clip: all_of_them[clip] for clip in some}
    assert all_of_them != placed(opened(many, validation_share=0.5, split_seed=2)[2])


def test_validation_split_of_the_source_is_taken_as_it_is(tmp_path: Path) -> None:
    write_layout(tmp_path, "{split}-0.parquet", {**ROWS, "validation": [a_row("v", DOG)]})
    data, source, rows = opened(tmp_path, validation_share=0.9)

    assert placed(rows) == {**TRAIN_AND_TEST, "v": "validation"}
    assert "drawn" not in data.describe()
    assert source == opened(tmp_path, validation_share=0.1)[1]  # what is prepared stays good


def test_another_draw_is_another_source(many: Path) -> None:
    sources = [opened(many, **each)[1] for each in ({}, {"validation_share": 0.3}, {"split_seed": 2})]

    assert len(set(sources)) == 3


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_share_that_leaves_nothing_is_refused(many: Path, share: float) -> None:
    assert f"data.validation_share={share}" in refused(many, validation_share=share)


def test_hint_for_an_empty_split_names_the_settings(tmp_path: Path) -> None:
    hint = AudioSet(TAGGING, config="unbalanced").split_hint()

    assert "unbal_train" in hint
    assert "data.validation_share=0.05" in hint


# --------------------------------------------------------------------------------------------------- labels


def one(tmp_path: Path, features: Features = FEATURES, **changed: Any) -> Path:
    """Write a single training clip whose columns were changed."""
    row = {**a_row("a", DOG), **changed}
    write(tmp_path / "train-0.parquet", [{name: row[name] for name in features}], features)
    return tmp_path


def test_without_names_the_ids_stand_for_them(tmp_path: Path) -> None:
    features = Features({name: kind for name, kind in FEATURES.items() if name != "human_labels"})
    _, _, rows = opened(one(tmp_path, features, labels=["/m/0bt9lr", ""]))

    assert read_labels(rows[0].reference) == [SoundClass("/m/0bt9lr", "/m/0bt9lr")]


def test_labels_that_are_no_ids_are_names(tmp_path: Path) -> None:
    _, _, rows = opened(one(tmp_path, labels=["17"], human_labels=[" Dog "]))

    assert read_labels(rows[0].reference) == [SoundClass("Dog")]


@pytest.mark.parametrize("empty", [None, []])
def test_clip_without_labels_has_an_empty_reference(tmp_path: Path, empty: list[str] | None) -> None:
    assert opened(one(tmp_path, labels=empty, human_labels=empty))[2][0].reference == "[]"


@pytest.mark.parametrize("names", [None, [], ["Dog", "Bark"], [""], [None]])
def test_names_that_do_not_fit_the_ids_name_the_clip(tmp_path: Path, names: list[str] | None) -> None:
    message = refused(one(tmp_path, human_labels=names))

    assert "the clip a: human_labels must name each of labels" in message
    assert "/m/0bt9lr" in message


@pytest.mark.parametrize("saved", [False, True], ids=["parquet", "save_to_disk"])
@pytest.mark.parametrize("column", ["labels", "human_labels"])
@pytest.mark.parametrize(
    ("kind", "cell", "found"),
    [
        (Value("string"), "Dog", "string"),
        (Value("int64"), 3, "int64"),
        (Sequence(Value("int64")), [3], "list<item: int64>"),
        (Sequence(Sequence(Value("string"))), [["Dog"]], "list<item: list<item: string>>"),
    ],
)
def test_labels_of_another_type(
    tmp_path: Path, column: str, kind: Any, cell: Any, found: str, saved: bool
) -> None:
    features = Features({**FEATURES, column: kind})
    if saved:
        row = {**a_row("a", DOG), column: cell}
        DatasetDict({"train": Dataset.from_list([row], features=features)}).save_to_disk(str(tmp_path))
    else:
        one(tmp_path, features, **{column: cell})

    message = refused(tmp_path)
    assert f"its column {column} must be a list of texts" in message
    assert found in message.replace("element", "item")
    assert saved or "train-0.parquet" in message


@pytest.mark.parametrize("kind", ["large list", "fixed size", "dictionary", "null"])
def test_labels_as_other_programs_write_them(tmp_path: Path, kind: str) -> None:
    kinds = {
        "large list": pa.large_list(pa.large_string()),
        "fixed size": pa.list_(pa.string(), 1),
        "dictionary": pa.list_(pa.dictionary(pa.int32(), pa.string())),
        "null": pa.null(),
    }
    cells = [None] if kind == "null" else [["Dog"]]
    columns = {
        "video_id": pa.array(["a"]),
        "audio": pa.array([flac()]),
        "labels": pa.array(cells, kinds[kind]),
        "human_labels": pa.array(cells, kinds[kind]),
    }
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")

    expected = [] if kind == "null" else [SoundClass("Dog")]
    assert read_labels(opened(tmp_path)[2][0].reference) == expected


@pytest.mark.parametrize("column", ["video_id", "audio", "labels"])
def test_missing_column_is_named_with_those_that_are_there(tmp_path: Path, column: str) -> None:
    features = Features({name: kind for name, kind in FEATURES.items() if name != column})

    message = refused(one(tmp_path, features))
    assert f"train-0.parquet has no column '{column}'. It must have AudioSet's columns" in message
    assert "human_labels" in message


def test_audio_column_of_another_type(tmp_path: Path) -> None:
    message = refused(one(tmp_path, Features({**FEATURES, "audio": Value("int32")}), audio=5))

    assert "its column audio must hold encoded files" in message


def test_video_id_of_another_type(tmp_path: Path) -> None:
    message = refused(one(tmp_path, Features({**FEATURES, "video_id": Value("float32")}), video_id=0.5))

    assert "its column video_id must be text, but is float" in message


def test_prepared_clips_keep_their_labels_and_their_drawn_split(tmp_path: Path) -> None:
    rows = [a_row(f"v{number}", DOG, RAIN, audio=flac(0.5)) for number in range(6)]
    write(
        tmp_path / "train-0.parquet",
        [*rows, a_row("none", audio=flac(0.5)), a_row("cut", DOG, audio=flac()[:99])],
    )
    data = AudioSet(TAGGING, path=str(tmp_path), validation_share=0.4, cache_dir=str(tmp_path / "cache"))
    data.load(no_progress)

    assert set(data.references("train")) == {'["Dog (/m/0bt9lr)", "Rain (/m/06mb1)"]'}
    assert data.count("train") + data.count("validation") == 6
    assert 0 < data.count("validation") < 6
    assert data.manifest.num_samples.tolist() == [8000] * 7
    assert {drop.id for drop in data.drops} == {"none", "cut"}


# ----------------------------------------------------------------------------------------------- bad sources


def test_tar_files_of_the_older_upload_say_what_to_fetch(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bal_train00.tar").write_bytes(b"tar")

    message = refused(tmp_path)
    assert "data/bal_train00.tar" in message
    assert "hf download agkphysics/AudioSet" in message


def test_folder_without_parquet_says_where_it_looked(tmp_path: Path) -> None:
    message = refused(tmp_path)

    assert f"data.path={tmp_path} holds no parquet of data.config=balanced" in message
    assert "data/{train,bal_train}/*.parquet" in message


def test_saved_splits_of_other_names(tmp_path: Path) -> None:
    rows = Dataset.from_list(ROWS["train"], features=FEATURES)
    DatasetDict({"data": rows}).save_to_disk(str(tmp_path))

    message = refused(tmp_path)
    assert "train, bal_train, validation, test, eval, but has data" in message


def test_missing_path_names_the_setting(tmp_path: Path) -> None:
    message = refused(tmp_path / "nowhere")

    assert f"data.path={tmp_path / 'nowhere'} must be a folder with a copy of AudioSet" in message


# -------------------------------------------------------------------------------------------------- the hub


def test_unreachable_hub_says_what_works_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    message = refused(None)
    assert "https://huggingface.co/datasets/agkphysics/AudioSet" in message
    assert "data=sound_mini" in message
    assert "spanish" not in message


README = """---
configs:
- config_name: balanced
  default: true
  data_files:
  - {split: train, path: data/bal_train/*.parquet}
  - {split: test, path: data/eval/*.parquet}
- config_name: full
  data_files:
  - {split: bal_train, path: data/bal_train/*.parquet}
  - {split: unbal_train, path: data/unbal_train/*.parquet}
  - {split: eval, path: data/eval/*.parquet}
---
"""
# Without AudioSet itself, whose imports take longer than all the rest.
HUB_CHILD = """
import sys
from datasets import DatasetDict
from speechexp.hub import dataset_from_hub

for config in ("balanced", "full"):
    DatasetDict(dataset_from_hub("agkphysics/AudioSet", config, None)).save_to_disk(f"{sys.argv[1]}/{config}")
"""


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a process gets of two configs that knows no other hub than a small one with AudioSet's files."""
    root = tmp_path_factory.mktemp("hub")
    (write_hub(root / "hub", "data") / "README.md").write_text(README)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SmallHub, "folders", {"agkphysics/AudioSet": {"main": root / "hub"}})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
        environment = {**os.environ, **endpoint, "HF_HOME": str(root / "home")}
        command = [sys.executable, "-c", HUB_CHILD, str(root)]
        try:
            child = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=120, check=False
            )
        finally:
            server.shutdown()
            server.server_close()
    assert child.returncode == 0, child.stderr
    return root


@pytest.mark.parametrize("config", ["balanced", "full"])
def test_what_the_hub_gives_is_read(fetched: Path, config: str) -> None:
    _, _, rows = opened(fetched / config, config=config, validation_share=0.0)

    others = {"u1": "train", "u2": "train"} if config == "full" else {}
    assert placed(rows) == {**TRAIN_AND_TEST, **others}
    assert read_labels(rows[0].reference) == [DOG, SPEECH]
    assert rows[0].audio == flac()
