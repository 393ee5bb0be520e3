import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_audio import no_progress, write_tone

from speechexp.corpora.audio_folder import AudioFolder
from speechexp.errors import UserError
from speechexp.manifest import SPLITS
from speechexp.recognition import SpeechRecognition

Load = Callable[..., AudioFolder]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two recordings and no metadata."""
    write_tone(tmp_path / "mine" / "a.wav")
    write_tone(tmp_path / "mine" / "b.wav", hertz=300)
    return tmp_path / "mine"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(path: Path, **settings: Any) -> AudioFolder:
        data = AudioFolder(SpeechRecognition(), path=str(path), cache_dir=str(tmp_path / "cache"), **settings)
        data.load(no_progress)
        return data

    return loaded


def refused(load: Load, path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **settings)
    return str(caught.value)


def write_csv(folder: Path, *lines: str, header: str = "file_name,transcription") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def placed(data: AudioFolder) -> dict[str, str]:
    """Return the split of each clip."""
    return dict(zip(data.manifest.ids, [SPLITS[split] for split in data.manifest.splits], strict=True))


def references(data: AudioFolder) -> dict[str, str]:
    return dict(zip(data.manifest.ids, data.manifest.references, strict=True))


# ------------------------------------------------------------------------------------------------- metadata

RECORDS = [
    {"file_name": "a.wav", "transcription": "la calle, el perro", "speaker": "Ana"},
    {"file_name": "b.wav", "transcription": "niño", "speaker": "Luis"},
]


def write_metadata(folder: Path, kind: str) -> None:
    if kind == "csv":
        write_csv(
            folder,
            'a.wav,"la calle, el perro",Ana',
            "b.wav,niño,Luis",
            header="file_name,transcription,speaker",
        )
    elif kind == "jsonl":
        lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)
        (folder / "metadata.jsonl").write_text(lines + "\n\n", encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(RECORDS), folder / "metadata.parquet")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_names_clips_their_text_and_their_attributes(folder: Path, load: Load, kind: str) -> None:
    write_metadata(folder, kind)
    data = load(folder)

    assert references(data) == {"a.wav": "la calle, el perro", "b.wav": "niño"}
    speakers = {
        clip: attributes["speaker"]
        for clip, attributes in zip(data.manifest.ids, data.manifest.attributes, strict=True)
    }
    assert speakers == {"a.wav": "Ana", "b.wav": "Luis"}


def test_csv_as_spreadsheets_write_it(folder: Path, load: Load) -> None:
    (folder / "metadata.csv").write_bytes("\ufefffile_name,transcription\r\na.wav,hola\r\n".encode())

    assert references(load(folder)) == {"a.wav": "hola"}


def test_text_column_is_a_setting(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola", header="file_name,sentence")

    assert references(load(folder, text_column="sentence")) == {"a.wav": "hola"}


def test_file_names_may_lie_deeper_and_be_of_any_kind(tmp_path: Path, load: Load) -> None:
    write_tone(tmp_path / "mine" / "ana" / "1.wav")
    write_csv(tmp_path / "mine", "ana/1.wav,hola")

    assert references(load(tmp_path / "mine")) == {"ana/1.wav": "hola"}


def test_new_text_is_noticed(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola")
    load(folder)
    write_csv(folder, "a.wav,adiós")

    assert references(load(folder)) == {"a.wav": "adiós"}


def test_new_audio_is_noticed(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola")
    load(folder)
    write_tone(folder / "a.wav", seconds=2.0)

    assert load(folder).manifest.num_samples.tolist() == [32_000]


def test_unreadable_recording_is_listed_and_the_rest_goes_on(folder: Path, load: Load) -> None:
    (folder / "c.wav").write_text("not audio")
    write_csv(folder, "a.wav,hola", "c.wav,adiós")
    data = load(folder)

    assert list(references(data)) == ["a.wav"]
    assert [(drop.id, drop.reason) for drop in data.drops] == [("c.wav", "unreadable")]


# --------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Train", "train"),
        ("validation", "validation"),
        ("dev", "validation"),
        ("val", "validation"),
        ("test", "test"),
    ],
)
def test_split_folders_with_metadata_each(tmp_path: Path, load: Load, name: str, split: str) -> None:
    write_tone(tmp_path / "mine" / name / "a.wav")
    write_csv(tmp_path / "mine" / name, "a.wav,hola")

    assert placed(load(tmp_path / "mine")) == {f"{name}/a.wav": split}


def test_split_folders_with_one_metadata_file(tmp_path: Path, load: Load) -> None:
    for name in ("train", "test"):
        write_tone(tmp_path / "mine" / name / "a.wav")
    write_csv(tmp_path / "mine", "train/a.wav,hola", "test/a.wav,hola")

    assert placed(load(tmp_path / "mine")) == {"train/a.wav": "train", "test/a.wav": "test"}


def test_split_folder_in_file_name_is_found_whatever_its_case(tmp_path: Path, load: Load) -> None:
    write_tone(tmp_path / "mine" / "TEST" / "a.wav")
    write_csv(tmp_path / "mine", "TEST/a.wav,hola")

    assert placed(load(tmp_path / "mine")) == {"TEST/a.wav": "test"}


def test_split_column(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola,Test", "b.wav,hola,dev", header="file_name,transcription,split")

    assert placed(load(folder)) == {"a.wav": "test", "b.wav": "validation"}


def test_split_column_beats_the_folder(tmp_path: Path, load: Load) -> None:
    write_tone(tmp_path / "mine" / "train" / "a.wav")
    write_csv(tmp_path / "mine", "train/a.wav,hola,test", header="file_name,transcription,split")

    assert placed(load(tmp_path / "mine")) == {"train/a.wav": "test"}


def test_split_that_does_not_exist_is_named_with_those_that_do(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola,trian", header="file_name,transcription,split")

    message = refused(load, folder)
    assert "'trian'" in message
    assert "train, validation, test" in message


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of 120 recordings without splits; the metadata names the first 80."""
    raw = write_tone(tmp_path / "many" / "0.wav", seconds=0.1).read_bytes()
    for number in range(120):
        (tmp_path / "many" / f"{number}.wav").write_bytes(raw)
    write_csv(tmp_path / "many", *(f"{number}.wav,hola" for number in range(80)))
    return tmp_path / "many"


def test_drawn_splits_have_about_the_shares_asked_for(many: Path, load: Load) -> None:
    splits = list(placed(load(many, validation_share=0.25, test_share=0.25)).values())

    assert 10 <= splits.count("validation") <= 30
    assert 10 <= splits.count("test") <= 30
    assert splits.count("train") == 80 - splits.count("validation") - splits.count("test")


def test_drawn_splits_do_not_change_from_time_to_time(many: Path, load: Load, tmp_path: Path) -> None:
    assert placed(load(many)) == placed(load(many, validation_share=0.1))


def test_new_clips_do_not_move_old_ones(many: Path, load: Load) -> None:
    before = placed(load(many))
    write_csv(many, *(f"{number}.wav,hola" for number in reversed(range(120))))
    after = placed(load(many))

    assert len(after) == 120
    assert {clip: after[clip] for clip in before} == before


def test_another_split_seed_draws_other_splits(many: Path, load: Load) -> None:
    assert placed(load(many, split_seed=1)) != placed(load(many, split_seed=2))


def test_too_few_clips_for_the_drawn_splits_says_what_to_do(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola")
    data = load(folder)

    with pytest.raises(UserError) as caught:
        data.require("train", "validation", "test")
    assert "data.validation_share" in str(caught.value) or "split" in str(caught.value)


# ---------------------------------------------------------------------------------------------- bad folders


def test_file_that_is_not_there_is_named(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola", "nowhere.wav,hola")

    message = refused(load, folder)
    assert "metadata.csv names 1 of 2 files that are not there: nowhere.wav" in message


def test_only_some_of_many_missing_files_are_listed(folder: Path, load: Load) -> None:
    write_csv(folder, *(f"n{number}.wav,hola" for number in range(50)))

    message = refused(load, folder)
    assert "50 of 50" in message
    assert "…" in message
    assert len(message) < 400


@pytest.mark.parametrize("name", ["../outside.wav", "/etc/passwd", "sub/../../outside.wav"])
def test_file_outside_the_folder(folder: Path, load: Load, name: str) -> None:
    write_tone(folder.parent / "outside.wav")
    write_csv(folder, "a.wav,hola", f"{name},hola")

    message = refused(load, folder)
    assert name in message
    assert "clip 2" in message
    assert f"inside {folder}" in message


def test_recording_that_is_linked_into_the_folder(folder: Path, load: Load) -> None:
    (folder / "link.wav").symlink_to(write_tone(folder.parent / "elsewhere.wav"))
    write_csv(folder, "link.wav,hola")

    assert references(load(folder)) == {"link.wav": "hola"}


def test_clip_without_a_file_name(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola", ",adiós")

    assert "clip 2: file_name=''" in refused(load, folder)


@pytest.mark.parametrize("again", ["a.wav", "./a.wav"])
def test_file_named_twice(folder: Path, load: Load, again: str) -> None:
    write_csv(folder, "a.wav,hola", f"{again},adiós")

    message = refused(load, folder)
    assert "clip 2" in message
    assert "named twice" in message


def test_missing_text_column_names_the_setting_and_the_columns(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola", header="file_name,sentence")

    message = refused(load, folder)
    assert "no column 'transcription'" in message
    assert "Set data.text_column to one of its columns" in message
    assert "sentence" in message


def test_missing_file_name_column_is_named_with_the_nearest(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola", header="filename,transcription")

    message = refused(load, folder)
    assert "no column 'file_name'" in message
    assert "filename" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", b""),
        ("metadata.csv", b"file_name,transcription\n"),
        ("metadata.jsonl", b"\n"),
    ],
)
def test_empty_metadata(folder: Path, load: Load, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)

    message = refused(load, folder)
    assert f"data.path={folder}" in message
    assert f"{name} names no clip" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("metadata.jsonl", b'{"file_name": "a.wav",\n', id="broken json"),
        pytest.param("metadata.parquet", b"not parquet", id="not parquet"),
        pytest.param("metadata.csv", "file_name,transcription\na.wav,niño\n".encode("latin-1"), id="latin-1"),
    ],
)
def test_metadata_that_cannot_be_read_is_named(folder: Path, load: Load, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)

    message = refused(load, folder)
    assert name in message
    assert "can't be read" in message


def test_recordings_without_metadata_say_what_to_write(folder: Path, load: Load) -> None:
    message = refused(load, folder, text_column="sentence")

    assert f"data.path={folder}" in message
    assert "Write a metadata.csv with the columns file_name and sentence" in message


def test_empty_folder_says_what_to_write(tmp_path: Path, load: Load) -> None:
    (tmp_path / "empty").mkdir()

    assert "Write a metadata.csv" in refused(load, tmp_path / "empty")


def test_missing_folder_names_the_setting(tmp_path: Path, load: Load) -> None:
    assert f"data.path={tmp_path / 'nowhere'}" in refused(load, tmp_path / "nowhere")


def test_every_text_empty_says_so(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,?!,train", "b.wav,,train", header="file_name,transcription,split")
    data = load(folder)

    with pytest.raises(UserError, match=r"2 no text .*task\.normaliser=spanish"):
        data.require("train")


def test_transcript_with_an_unquoted_comma_is_not_cut_silently(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola, qué tal")

    message = refused(load, folder)
    assert "metadata.csv, line 2, clip 1 must have 2 columns" in message
    assert "has 3: a.wav,hola, qué tal. Put a text that holds a comma in quotes" in message


def test_csv_line_with_too_few_columns_is_named(folder: Path, load: Load) -> None:
    write_csv(folder, 'a.wav,"hola\nqué tal"', "", "b.wav")

    assert "line 5, clip 2 must have 2 columns, as its first line has, but has 1: b.wav." in refused(
        load, folder
    )


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_named(folder: Path, load: Load, mark: str) -> None:
    write_csv(folder, f"a.wav{mark}hola, qué tal", header=f"file_name{mark}transcription")

    assert f"is separated by {mark!r}. Save it with commas" in refused(load, folder)


def test_column_named_twice(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola,adiós", header="file_name,transcription,transcription")

    assert "has the column transcription more than once" in refused(load, folder)


def test_what_is_not_utf_8_says_so(folder: Path, load: Load) -> None:
    (folder / "metadata.csv").write_bytes("file_name,transcription\na.wav,niño\n".encode("latin-1"))

    assert "Save it as UTF-8" in refused(load, folder)


@pytest.mark.parametrize("line", ['a.wav,"hola', 'a.wav,"hola" dijo', "a.wav," + "a" * 200_000])
def test_csv_that_breaks_off_is_named_with_its_line(folder: Path, load: Load, line: str) -> None:
    write_csv(folder, line, "b.wav,adiós")

    message = refused(load, folder)
    assert "metadata.csv, line " in message
    assert "quote" in message


@pytest.mark.parametrize("name", ["a" * 5000 + ".wav", "a\0b.wav", "a.wav/b.wav"])
def test_file_name_that_no_file_can_have_is_one_that_is_not_there(
    folder: Path, load: Load, name: str
) -> None:
    write_csv(folder, f"{name},hola")

    message = refused(load, folder)
    assert "names 1 of 1 files that are not there" in message
    assert len(message) < 400


def test_nul_in_a_transcript_is_no_letter(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,ho\0la,train", header="file_name,transcription,split")

    assert list(load(folder).references("train")) == ["ho la"]


def test_unquoted_comma_beside_a_missing_column(folder: Path, load: Load) -> None:
    write_csv(folder, "a.wav,hola, qué tal", header="file_name,sentence")

    assert "in quotes" in refused(load, folder)


@pytest.mark.parametrize("second", ['{"file_name": "b.wav"}', '{"transcription": "hola"}'])
def test_jsonl_line_that_lacks_a_key_is_named(folder: Path, load: Load, second: str) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.wav", "transcription": "hola"}\n' + second)

    assert "clip 2" in refused(load, folder)


@pytest.mark.parametrize("line", ["5", "null", '["a.wav", "hola"]', "[" * 100_000])
def test_jsonl_that_holds_no_objects(folder: Path, load: Load, line: str) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.wav", "transcription": "hola"}\n\n' + line)

    message = refused(load, folder)
    assert "metadata.jsonl, line 3, clip 2" in message
    assert len(message) < 400


@pytest.mark.parametrize("text", ["1999", "true", '["hola"]'])
def test_transcript_that_is_no_text(folder: Path, load: Load, text: str) -> None:
    (folder / "metadata.jsonl").write_text(f'{{"file_name": "a.wav", "transcription": {text}}}')

    assert "clip 1: transcription must be text" in refused(load, folder)


def test_transcript_that_is_null_is_listed_as_without_text(folder: Path, load: Load) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.wav", "transcription": null}')

    assert [drop.reason for drop in load(folder).drops] == ["no text"]


def test_path_that_is_a_file(folder: Path, load: Load) -> None:
    assert "but it is a file" in refused(load, folder / "a.wav")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-at-all/x"])
def test_path_that_no_folder_can_have(load: Load, name: str) -> None:
    assert "does not exist" in refused(load, Path(name))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.2), (-0.1, 0.2)])
def test_shares_that_leave_nothing_for_training(
    folder: Path, load: Load, shares: tuple[float, float]
) -> None:
    write_csv(folder, "a.wav,hola")

    message = refused(load, folder, validation_share=shares[0], test_share=shares[1])
    assert f"data.validation_share={shares[0]} and data.test_share={shares[1]}" in message


def test_split_folder_without_metadata_beside_one_that_has_some(tmp_path: Path, load: Load) -> None:
    for name in ("train", "test"):
        write_tone(tmp_path / "mine" / name / "a.wav")
    write_csv(tmp_path / "mine" / "train", "a.wav,hola")

    assert f"{tmp_path / 'mine' / 'test'} holds no metadata.csv" in refused(load, tmp_path / "mine")
