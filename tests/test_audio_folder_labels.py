import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_audio import no_progress, write_tone

from speechexp.corpora.audio_folder import AudioFolder
from speechexp.errors import UserError
from speechexp.labels import SoundClass, read_labels
from speechexp.manifest import Row
from speechexp.recognition import SpeechRecognition
from speechexp.tagging import AudioTagging

TAGGING = AudioTagging()
SPEAKING = SpeechRecognition()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three recordings and no metadata."""
    for name in "abc":
        write_tone(tmp_path / "mine" / f"{name}.wav", seconds=0.1)
    return tmp_path / "mine"


def rows(path: Path, task: Any = TAGGING, **settings: Any) -> list[Row]:
    data = AudioFolder(task, path=str(path), **settings)
    data.open_source(no_progress)
    return list(data.rows())


def labels(path: Path, **settings: Any) -> dict[str, list[str]]:
    """Return the labels of each clip, sorted by its id."""
    read = {row.id: [str(each) for each in read_labels(row.reference)] for row in rows(path, **settings)}
    return dict(sorted(read.items()))


def refused(path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        rows(path, **settings)
    return str(caught.value)


def write_csv(folder: Path, *lines: str, header: str = "file_name,labels") -> None:
    (folder / "metadata.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def write_jsonl(folder: Path, *records: dict[str, Any]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


# -------------------------------------------------------------------------------------------------- columns


def test_label_is_one_label_with_its_commas(folder: Path) -> None:
    write_csv(folder, 'a.wav,"Male speech, man speaking"', "b.wav,Dog", header="file_name,label")

    assert labels(folder) == {"a.wav": ["Male speech, man speaking"], "b.wav": ["Dog"]}


def test_labels_are_separated_by_semicolons(folder: Path) -> None:
    write_csv(folder, 'a.wav,"Dog; Male speech, man speaking;"', "b.wav,Dog", "c.wav,")

    assert labels(folder) == {"a.wav": ["Dog", "Male speech, man speaking"], "b.wav": ["Dog"], "c.wav": []}


@pytest.mark.parametrize("column", ["label", "labels"])
def test_csv_cell_may_be_a_json_list(folder: Path, column: str) -> None:
    write_csv(folder, 'a.wav,"[""Dog"", ""Rain; hail""]"', header=f"file_name,{column}")

    assert labels(folder) == {"a.wav": ["Dog", "Rain; hail"]}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_of_labels(folder: Path, kind: str) -> None:
    records = [{"file_name": "a.wav", "labels": ["Rain", "Dog", " "]}, {"file_name": "b.wav", "labels": None}]
    if kind == "jsonl":
        write_jsonl(folder, *records)
    else:
        pq.write_table(pa.Table.from_pylist(records), folder / "metadata.parquet")

    assert labels(folder) == {"a.wav": ["Dog", "Rain"], "b.wav": []}


def test_another_column_holds_several_too(folder: Path) -> None:
    write_csv(folder, "a.wav,Dog;Rain,x", header="file_name,category,label")

    assert labels(folder, label_column="category") == {"a.wav": ["Dog", "Rain"]}


def test_spaces_and_forms_of_unicode_make_no_other_class(folder: Path) -> None:
    write_csv(folder, "a.wav, Caf\u00e9 noise ", "b.wav,Cafe\u0301  noise", "c.wav,Caf\u00e9\u00a0noise")

    assert set(map(tuple, labels(folder).values())) == {("Caf\u00e9 noise",)}


def test_label_may_carry_audiosets_id(folder: Path) -> None:
    write_csv(folder, "a.wav,Dog (/m/0bt9lr)")

    assert read_labels(rows(folder)[0].reference) == [SoundClass("Dog", "/m/0bt9lr")]


def test_new_labels_are_another_source(folder: Path) -> None:
    sources = []
    for label in ("Dog", "Rain"):
        write_csv(folder, f"a.wav,{label}")
        sources.append(AudioFolder(TAGGING, path=str(folder)).open_source(no_progress)[0])

    assert sources[0] != sources[1]


def test_label_and_labels_ask_for_a_choice(folder: Path) -> None:
    write_csv(folder, "a.wav,Dog,Dog;Rain", header="file_name,label,labels")

    message = refused(folder)
    assert "data.label_column=label or data.label_column=labels" in message
    assert labels(folder, label_column="labels") == {"a.wav": ["Dog", "Rain"]}


def test_no_label_column_names_the_setting_and_the_columns(folder: Path) -> None:
    write_csv(folder, "a.wav,Dog", header="file_name,category")

    message = refused(folder)
    assert "has no column label or labels. Set data.label_column" in message
    assert "category" in message


def test_chosen_column_that_is_not_there(folder: Path) -> None:
    write_csv(folder, "a.wav,Dog", header="file_name,category")

    message = refused(folder, label_column="categry")
    assert "data.label_column=categry" in message
    assert "Did you mean category?" in message


@pytest.mark.parametrize("without", [1, 2])
def test_jsonl_line_without_labels_is_named(folder: Path, without: int) -> None:
    records: list[dict[str, Any]] = [{"file_name": f"{name}.wav", "labels": ["Dog"]} for name in "ab"]
    del records[without - 1]["labels"]
    write_jsonl(folder, *records)

    assert f"line {without}, clip {without} has no column 'labels'" in refused(folder)


@pytest.mark.parametrize("cell", [3, 0.5, True, {"Dog": 1}, [1, 2], [["Dog"]], "['Dog', 'Rain']", "[3]"])
@pytest.mark.parametrize("column", ["label", "labels"])
def test_cell_that_holds_no_labels_is_named_with_its_line(folder: Path, column: str, cell: Any) -> None:
    write_jsonl(folder, {"file_name": "a.wav", column: "Dog"}, {"file_name": "b.wav", column: cell})

    message = refused(folder)
    assert f"metadata.jsonl, line 2, clip 2: {column} must be a label or a list of labels" in message
    assert repr(cell) in message
    assert '["Dog", "Rain"]' in message


def test_several_labels_in_the_column_for_one(folder: Path) -> None:
    write_csv(folder, "a.wav,Dog;Rain", header="file_name,label")

    assert "clip 1: label must be a label or a list of labels, but is 'Dog;Rain'" in refused(folder)


# ------------------------------------------------------------------------------------------------ spellings


def test_labels_that_differ_by_case_alone_are_named_with_their_counts(folder: Path) -> None:
    write_csv(folder, "a.wav,Dog", "b.wav,dog;Rain", "c.wav,Dog")

    message = refused(folder)
    assert "'Dog' (2 clips), 'dog' (1 clip)" in message
    assert "Rain" not in message


def test_label_with_and_without_audiosets_id(folder: Path) -> None:
    write_csv(folder, "a.wav,Dog", "b.wav,Dog (/m/0bt9lr)")

    assert "'Dog' (1 clip), 'Dog (/m/0bt9lr)' (1 clip)" in refused(folder)


@pytest.mark.parametrize("mark", [", ", ",", "|"])
def test_label_of_other_labels_says_how_to_separate_them(folder: Path, mark: str) -> None:
    write_csv(folder, f'a.wav,"Dog{mark}rain"', "b.wav,Dog", "c.wav,Rain")

    message = refused(folder)
    assert f"'Dog{mark}rain' (1 clip) seems to be several" in message
    assert "separate them with a ;" in message


# -------------------------------------------------------------------------------------------------- folders


def write_folders(root: Path, *names: str) -> Path:
    for name in names:
        write_tone(root / name, seconds=0.1)
    return root


def test_folders_are_classes_and_splits_are_drawn(tmp_path: Path) -> None:
    names = [f"{label}/{number}.wav" for label in ("dog", "rain") for number in range(40)]
    found = rows(write_folders(tmp_path, *names), validation_share=0.25, test_share=0.25)

    assert {row.id: [each.name for each in read_labels(row.reference)] for row in found} == {
        name: [name.split("/")[0]] for name in names
    }
    splits = [row.split for row in found]
    assert min(splits.count(split) for split in ("train", "validation", "test")) >= 8


def test_drawn_splits_of_folders_do_not_move_with_new_recordings(tmp_path: Path) -> None:
    settings = {"validation_share": 0.3, "test_share": 0.3}
    write_folders(tmp_path, *(f"dog/{number}.wav" for number in range(20)))
    before = {row.id: row.split for row in rows(tmp_path, **settings)}
    write_folders(tmp_path, *(f"rain/{number}.wav" for number in range(20)))
    after = {row.id: row.split for row in rows(tmp_path, **settings)}

    assert len(after) == 40
    assert {clip: after[clip] for clip in before} == before


def test_folders_of_classes_in_folders_of_splits(tmp_path: Path) -> None:
    write_folders(tmp_path, "train/dog/1.wav", "Train/rain/1.FLAC", "dev/dog/2.wav", "test/dog/3.wav")

    assert {row.id: row.split for row in rows(tmp_path)} == {
        "train/dog/1.wav": "train",
        "Train/rain/1.FLAC": "train",
        "dev/dog/2.wav": "validation",
        "test/dog/3.wav": "test",
    }
    assert labels(tmp_path)["Train/rain/1.FLAC"] == ["rain"]


def test_what_is_no_recording_is_passed_over(tmp_path: Path) -> None:
    write_folders(tmp_path, "dog/1.wav", "dog/._1.wav", "__MACOSX/dog/._1.wav")
    (tmp_path / "README.txt").touch()
    (tmp_path / "dog" / "notes").mkdir()

    assert labels(tmp_path) == {"dog/1.wav": ["dog"]}


def test_folder_of_a_class_may_be_a_link(tmp_path: Path) -> None:
    write_folders(tmp_path / "elsewhere", "1.wav")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dog").symlink_to(tmp_path / "elsewhere")

    assert labels(tmp_path / "mine") == {"dog/1.wav": ["dog"]}


def test_metadata_beats_folders(tmp_path: Path) -> None:
    write_folders(tmp_path, "dog/1.wav", "rain/2.wav")
    write_csv(tmp_path, "dog/1.wav,Bark")

    assert labels(tmp_path) == {"dog/1.wav": ["Bark"]}


@pytest.mark.parametrize(
    ("names", "culprit"),
    [
        (("dog/1.wav", "2.wav"), "2.wav"),
        (("dog/1.wav", "dog/deep/2.wav"), "dog/deep/2.wav"),
        (("train/dog/1.wav", "train/2.wav"), "train/2.wav"),
        (("train/dog/1.wav", "train/dog/deep/2.wav"), "train/dog/deep/2.wav"),
        (("train/dog/1.wav", "rain/2.wav"), "rain/2.wav"),
        (("dog/1.wav", "test/2.wav"), "dog/1.wav"),  # a class cannot be called test
    ],
)
def test_recording_that_lies_elsewhere_is_named(tmp_path: Path, names: tuple[str, ...], culprit: str) -> None:
    message = refused(write_folders(tmp_path, *names))

    assert f" {culprit} lies elsewhere" in message
    assert "CLASS/*.wav" in message
    assert "metadata.csv" in message


def test_folder_without_recordings_names_the_suffixes(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.m4a").touch()

    message = refused(tmp_path)
    assert "holds no recording" in message
    assert ".flac" in message
    assert ".wav" in message


def test_folders_that_differ_by_case_alone(tmp_path: Path) -> None:
    message = refused(write_folders(tmp_path, "train/Dog/1.wav", "test/dog/2.wav"))

    assert "'Dog' (1 clip), 'dog' (1 clip)" in message


# -------------------------------------------------------------------------------------------- speech as before


def test_speech_needs_metadata_still(tmp_path: Path) -> None:
    write_folders(tmp_path, "dog/1.wav")

    assert "Write a metadata.csv with the columns file_name and transcription" in refused(
        tmp_path, task=SPEAKING
    )


def test_label_column_of_a_task_that_reads_transcripts_is_refused(folder: Path) -> None:
    write_csv(folder, "a.wav,hola", header="file_name,transcription")

    message = refused(folder, task=SPEAKING, label_column="labels")
    assert "data.label_column=labels" in message
    assert "data.text_column" in message
