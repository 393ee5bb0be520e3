import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from helpers_audio import encode, no_progress, tone

from speechexp import prepare as prepare_module
from speechexp.errors import UserError
from speechexp.manifest import Row
from speechexp.prepare import CacheError, Prepared, prepare, prepare_labels
from speechexp.recognition import SpeechRecognition

RATE = 16_000


def a_row(number: int, seconds: float = 0.3, split: str = "train", reference: str = "hola") -> Row:
    audio = encode(tone(seconds, hertz=200.0 + 50 * number))
    return Row(f"clip{number}", split, audio, reference, {"gender": "female"})


def prepare_rows(cache_dir: Path, rows: Iterable[Row], source: str = "test") -> Prepared:
    listed = list(rows)
    return prepare(source, lambda start: listed[start:], len(listed), RATE, cache_dir, no_progress)


def audio_of(prepared: Prepared) -> bytes:
    return (prepared.folder / "audio.int16").read_bytes()


def published(cache_dir: Path) -> list[str]:
    """Return the names of all that lies in the cache, locks left out."""
    return [path.name for path in cache_dir.glob("prepared/*") if path.suffix != ".lock"]


def test_audio_and_labels_come_back_as_they_went_in(tmp_path: Path) -> None:
    rows = [
        a_row(0, 0.3, reference="la calle"),
        a_row(1, 0.5, "validation", "ñandú"),
        a_row(2, 0.1, "test", ""),
    ]
    prepared = prepare_rows(tmp_path, rows)

    manifest = prepared.manifest
    assert list(manifest.ids) == ["clip0", "clip1", "clip2"]
    assert manifest.splits.tolist() == [0, 1, 2]
    assert list(manifest.references) == ["la calle", "ñandú", ""]
    assert list(manifest.attributes) == [{"gender": "female"}] * 3
    for number, seconds in enumerate((0.3, 0.5, 0.1)):
        expected = tone(seconds, hertz=200.0 + 50 * number)
        assert manifest.num_samples[number] == len(expected)
        assert np.abs(prepared.samples(number) / 32768 - expected).max() < 1e-4


def test_order_is_kept_with_more_rows_than_are_decoded_at_once(tmp_path: Path) -> None:
    count = 8 * (os.cpu_count() or 1) + 9
    lengths = [0.02 + 0.001 * ((7 * number) % 13) for number in range(count)]
    prepared = prepare_rows(tmp_path, (a_row(n, seconds) for n, seconds in enumerate(lengths)))

    assert list(prepared.manifest.ids) == [f"clip{number}" for number in range(count)]
    assert prepared.manifest.num_samples.tolist() == [round(seconds * RATE) for seconds in lengths]


def test_peak_is_absolute(tmp_path: Path) -> None:
    below = -np.abs(tone(level=0.25))
    prepared = prepare_rows(tmp_path, [Row("a", "train", encode(below), "x")])

    assert prepared.manifest.peaks[0] == pytest.approx(0.25, abs=1e-3)


def test_second_time_comes_from_the_cache_and_opens_no_row(tmp_path: Path) -> None:
    first = prepare_rows(tmp_path, [a_row(0)])

    def opened(start: int) -> Iterator[Row]:
        raise AssertionError("the source was opened again")

    second = prepare("test", opened, None, RATE, tmp_path, no_progress)
    assert second.folder == first.folder
    assert second.fingerprint == first.fingerprint


def test_another_source_or_rate_is_another_entry(tmp_path: Path) -> None:
    first = prepare_rows(tmp_path, [a_row(0)], "one")
    other_source = prepare_rows(tmp_path, [a_row(0)], "two")
    other_rate = prepare("one", lambda start: [a_row(0)], 1, 8000, tmp_path, no_progress)

    assert len({first.folder, other_source.folder, other_rate.folder}) == 3
    assert other_rate.manifest.num_samples[0] == first.manifest.num_samples[0] / 2


def test_progress_counts_up_to_the_total(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    prepare("test", lambda start: [a_row(0), a_row(1)], 2, RATE, tmp_path, lambda *each: told.append(each))

    assert told == [("decoding", 1, 2), ("decoding", 2, 2)]


def test_source_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def failing(start: int) -> Iterator[Row]:
        yield a_row(0)
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="the source broke"):
        prepare("test", failing, None, RATE, tmp_path, no_progress)
    assert published(tmp_path) == []


def test_source_that_failed_once_can_be_prepared_later(tmp_path: Path) -> None:
    def failing(start: int) -> Iterator[Row]:
        raise ValueError("the source broke")
        yield

    with pytest.raises(ValueError, match="the source broke"):
        prepare("test", failing, None, RATE, tmp_path, no_progress)
    assert len(prepare_rows(tmp_path, [a_row(0)]).manifest) == 1


def test_read_error_of_the_source_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    def failing(start: int) -> Iterator[Row]:
        raise OSError("Corrupt snappy compressed data.")
        yield

    with pytest.raises(OSError, match="Corrupt snappy"):
        prepare("test", failing, None, RATE, tmp_path, no_progress)


def test_interrupt_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def interrupted(name: str, done: int, of: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("test", lambda start: [a_row(0)], 1, RATE, tmp_path, interrupted)
    assert [Path(name).suffix for name in published(tmp_path)] == [".partial"]


CHILD = """
import os, sys, time
from pathlib import Path
from helpers_audio import encode, no_progress, tone
from speechexp.manifest import Row
from speechexp.prepare import prepare

cache_dir, role, total = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def rows(start):
    with (cache_dir / "opened").open("a") as file:
        file.write(f"{start} ")
    for number in range(start, total):
        if role == "dies" and number == total - 1:
            os._exit(9)
        yield Row(f"clip{number}", "train", encode(tone(0.02, hertz=200.0 + number)), "hola")

print(prepare("test", rows, total, 16000, cache_dir, no_progress).fingerprint)
"""


def start_child(cache_dir: Path, role: str, total: int = 40) -> subprocess.Popen[str]:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", CHILD, str(cache_dir), role, str(total)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    children = [start_child(tmp_path, "makes") for _ in range(2)]
    outputs = [child.communicate(timeout=60)[0].splitlines()[-1] for child in children]

    assert [child.returncode for child in children] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert (tmp_path / "opened").read_text() == "0 "


def test_killed_process_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    child = start_child(tmp_path, "dies")
    child.communicate(timeout=60)
    assert child.returncode == 9

    assert {name.rsplit(".", 1)[-1] for name in published(tmp_path)} == {"partial"}
    prepared = prepare_rows(tmp_path, [a_row(0)])
    assert list(prepared.manifest.ids) == ["clip0"]
    assert published(tmp_path) == [prepared.folder.name]


def test_killed_process_is_taken_up_where_it_was(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder, role in ((killed, "dies"), (killed, "makes"), (whole, "makes")):
        folder.mkdir(exist_ok=True)
        start_child(folder, role, total=1500).communicate(timeout=60)

    assert (killed / "opened").read_text() == "0 1024 "
    resumed, straight = (
        prepare("test", lambda start: [], 1500, RATE, folder, no_progress) for folder in (killed, whole)
    )
    assert len(resumed.manifest) == 1500
    assert resumed.fingerprint == straight.fingerprint
    assert audio_of(resumed) == audio_of(straight)
    assert list(resumed.manifest.ids) == list(straight.manifest.ids)


def test_killed_while_publishing_it_goes_on_from_all_that_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [a_row(number % 50, seconds=0.02) for number in range(600)]
    straight = prepare_rows(tmp_path / "straight", rows)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "write_summary", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_rows(tmp_path / "killed", rows)
    monkeypatch.undo()
    starts = []

    def opened(start: int) -> list[Row]:
        starts.append(start)
        return rows[start:]

    resumed = prepare("test", opened, 600, RATE, tmp_path / "killed", no_progress)
    assert starts == [600]
    assert resumed.fingerprint == straight.fingerprint
    assert audio_of(resumed) == audio_of(straight)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_part_that_is_missing_or_damaged_ends_what_is_gone_on_from(tmp_path: Path, damage: str) -> None:
    start_child(tmp_path, "dies", total=1600).communicate(timeout=60)
    (partial,) = tmp_path.glob("prepared/*.partial")
    second = partial / "part-000001.arrow"
    if damage == "missing":
        second.unlink()
    else:
        os.truncate(second, 100)
    start_child(tmp_path, "makes", total=1600).communicate(timeout=60)
    straight_dir = tmp_path / "straight"
    straight_dir.mkdir()
    start_child(straight_dir, "makes", total=1600).communicate(timeout=60)

    assert (tmp_path / "opened").read_text() == "0 512 "
    damaged, straight = (
        prepare("test", lambda start: [], 1600, RATE, folder, no_progress)
        for folder in (tmp_path, straight_dir)
    )
    assert damaged.fingerprint == straight.fingerprint
    assert audio_of(damaged) == audio_of(straight)


def test_error_of_the_source_keeps_what_is_done(tmp_path: Path) -> None:
    rows = [a_row(number % 50, seconds=0.02) for number in range(600)]

    def failing(start: int) -> Iterator[Row]:
        yield from rows[start:]
        raise UserError("the network is gone.")

    with pytest.raises(UserError, match=r"the network is gone\. What is done is kept"):
        prepare("test", failing, 600, RATE, tmp_path, no_progress)
    starts = []

    def opened(start: int) -> list[Row]:
        starts.append(start)
        return rows[start:]

    prepare("test", opened, 600, RATE, tmp_path, no_progress)
    assert starts == [512]


def test_clip_that_cannot_be_read_for_now_is_not_cached_as_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()

    with pytest.raises(UserError, match=r"The clip here can't be read: Is a directory\. Mend that"):
        prepare_rows(tmp_path, [a_row(0), Row("here", "train", folder, "x")])


def test_audio_that_was_cut_with_the_process_starts_over(tmp_path: Path) -> None:
    start_child(tmp_path, "dies", total=600).communicate(timeout=60)
    (partial,) = tmp_path.glob("prepared/*.partial")
    os.truncate(partial / "audio.int16", 100)
    start_child(tmp_path, "makes", total=600).communicate(timeout=60)

    assert (tmp_path / "opened").read_text() == "0 0 "


def test_two_threads_at_once_make_it_once(tmp_path: Path) -> None:
    opened: list[int] = []
    results: list[Prepared] = []

    def rows(start: int) -> Iterator[Row]:
        opened.append(1)
        time.sleep(0.2)
        yield a_row(0)

    def work() -> None:
        results.append(prepare("test", rows, 1, RATE, tmp_path, no_progress))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(opened) == 1
    assert len({result.fingerprint for result in results}) == 1
    assert len(results) == 3


def test_unreadable_clips_are_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = [
        a_row(0),
        Row("broken", "train", encode(tone())[:500], "x"),
        Row("text", "test", b"not audio at all", "x"),
        Row("gone", "validation", tmp_path / "gone.wav", "x"),
        a_row(4),
    ]
    prepared = prepare_rows(tmp_path, rows)

    assert list(prepared.manifest.ids) == ["clip0", "clip4"]
    assert [(drop.id, drop.split, drop.reason) for drop in prepared.unreadable] == [
        ("broken", "train", "unreadable"),
        ("text", "test", "unreadable"),
        ("gone", "validation", "unreadable"),
    ]
    assert "truncated" in prepared.unreadable[0].detail


def test_unreadable_clips_are_still_listed_from_the_cache(tmp_path: Path) -> None:
    rows = [a_row(0), Row("broken", "train", b"", "x")]

    assert prepare_rows(tmp_path, rows).unreadable == prepare_rows(tmp_path, rows).unreadable != []


@pytest.mark.parametrize("rows", [[], [Row("broken", "train", b"", "x")]], ids=["no row", "no readable row"])
def test_nothing_readable_is_an_empty_entry(tmp_path: Path, rows: list[Row]) -> None:
    prepared = prepare_rows(tmp_path, rows)

    assert len(prepared.manifest) == 0
    assert audio_of(prepared) == b""


def test_equal_content_has_equal_fingerprints_whatever_its_source_and_file_format(tmp_path: Path) -> None:
    samples = np.round(tone() * 32768).astype(np.int16)
    wav = Row("a", "train", encode(samples), "hola", {"gender": "male"})
    flac = Row("a", "train", encode(samples, container="FLAC"), "hola", {"gender": "male"})

    one, two = prepare_rows(tmp_path / "one", [wav], "one"), prepare_rows(tmp_path / "two", [flac], "two")
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        Row("b", "train", encode(tone()), "hola", {"gender": "male"}),
        Row("a", "test", encode(tone()), "hola", {"gender": "male"}),
        Row("a", "train", encode(tone(hertz=441.0)), "hola", {"gender": "male"}),
        Row("a", "train", encode(tone()), "holá", {"gender": "male"}),
        Row("a", "train", encode(tone()), "hola", {"gender": "other"}),
    ],
    ids=["id", "split", "audio", "reference", "attribute"],
)
def test_fingerprint_changes_with(tmp_path: Path, changed: Row) -> None:
    original = Row("a", "train", encode(tone()), "hola", {"gender": "male"})

    assert (
        prepare_rows(tmp_path, [original], "1").fingerprint
        != prepare_rows(tmp_path, [changed], "2").fingerprint
    )


def test_cache_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match=r"data\.cache_dir=DIR or SPEECHEXP_CACHE"):
        prepare_rows(tmp_path / "file", [a_row(0)])


def test_full_disk_names_the_setting_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"can't be written \(File too large\)"):
            prepare_rows(tmp_path, [a_row(number) for number in range(9)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert published(tmp_path) == []


@pytest.mark.parametrize("name", ["audio.int16", "manifest.arrow", "prepared.json"])
@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_damaged_entry_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    first = prepare_rows(tmp_path, [a_row(0)])
    whole = (first.folder / name).read_bytes()
    (first.folder / name).unlink()
    if damage == "cut":
        (first.folder / name).write_bytes(whole[: len(whole) // 2])

    assert prepare_rows(tmp_path, [a_row(0)]).fingerprint == first.fingerprint
    if name != "prepared.json":  # it holds the time of change
        assert (first.folder / name).read_bytes() == whole


def flip_a_byte(file: Path, keep_time: bool) -> None:
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    if keep_time:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_entry_whose_audio_was_changed_is_made_again(tmp_path: Path) -> None:
    first = prepare_rows(tmp_path, [a_row(0)])
    whole = audio_of(first)
    flip_a_byte(first.folder / "audio.int16", keep_time=False)

    assert audio_of(prepare_rows(tmp_path, [a_row(0)])) == whole


def test_check_finds_what_changed_without_a_trace(tmp_path: Path) -> None:
    first = prepare_rows(tmp_path, [a_row(0)])
    whole = audio_of(first)
    flip_a_byte(first.folder / "audio.int16", keep_time=True)

    again = prepare("test", lambda start: [a_row(0)], 1, RATE, tmp_path, no_progress, check=True)
    assert audio_of(again) == whole


def test_copied_entry_is_checked_once_and_kept(tmp_path: Path) -> None:
    first = prepare_rows(tmp_path, [a_row(0)])
    os.utime(first.folder / "audio.int16")
    told: list[tuple[object, ...]] = []

    for _ in range(2):
        prepare("test", lambda start: [], 1, RATE, tmp_path, lambda *each: told.append(each))
    assert told == [("checking", 1, 1)]


def test_too_little_room_is_said_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 5_000))

    with pytest.raises(UserError, match=r"has 1 MB free, but the audio takes about 1 MB\. .*data\.cache_dir"):
        prepare_rows(tmp_path, [a_row(0, seconds=0.5)])
    assert published(tmp_path) == []


def test_full_disk_keeps_what_is_done_and_goes_on_from_it(tmp_path: Path) -> None:
    rows = [a_row(number % 50, seconds=0.02) for number in range(700)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 320 * 600, before[1]))
    try:
        with pytest.raises(UserError, match="What is done is kept"):
            prepare_rows(tmp_path, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    starts = []

    def opened(start: int) -> list[Row]:
        starts.append(start)
        return rows[start:]

    prepared = prepare("test", opened, 700, RATE, tmp_path, no_progress)
    assert starts == [512]
    assert prepared.fingerprint == prepare_rows(tmp_path / "other", rows).fingerprint


def test_memory_does_not_grow_with_the_number_of_long_clips(tmp_path: Path) -> None:
    """20 clips of 2 minutes at 48 kHz, 460 MB as float32 in stereo, decoded within far less."""
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from helpers_audio import encode, no_progress
from speechexp import prepare as module
from speechexp.manifest import Row
module._DECODING_BYTES = 50 << 20
module.prepare("warm", lambda start: [Row("a", "train", encode(np.ones(100, np.float32), 48_000), "x")], 1, 16000,
               Path(sys.argv[1]), no_progress)
long = encode(np.zeros(120 * 48_000, np.float32), 48_000, "FLAC")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
module.prepare("long", lambda start: (Row(str(n), "train", long, "x") for n in range(start, 20)), 20, 16000,
               Path(sys.argv[1]), no_progress)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.splitlines()[-1]) < 150


def test_pages_of_the_manifest_can_be_given_back_and_come_again(tmp_path: Path) -> None:
    prepared = prepare_rows(tmp_path, [a_row(0, reference="la calle"), a_row(1)])
    prepared.manifest.pages.release()

    assert list(prepared.manifest.references) == ["la calle", "hola"]


def test_audio_that_was_cut_under_a_run_is_an_error(tmp_path: Path) -> None:
    prepared = prepare_rows(tmp_path, [a_row(0), a_row(1)])
    os.truncate(prepared.folder / "audio.int16", 10_000)

    with pytest.raises(OSError, match=r"audio\.int16 ends within the clip clip1"):
        prepared.samples(1)


def test_prepared_data_reaches_another_process(tmp_path: Path) -> None:
    prepared = prepare_rows(tmp_path, [a_row(0), a_row(1)])
    content = pickle.dumps(prepared)

    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content).samples(1), prepared.samples(1))


# -------------------------------------------------------------------------------------------------- labels


def clean(references: list[str]) -> tuple[list[str | None], list[int]]:
    return [text.lower() or None for text in references], [len(text) for text in references]


def test_labels_are_cleaned_once(tmp_path: Path) -> None:
    prepared = prepare_rows(tmp_path, [a_row(0, reference="HOLA"), a_row(1, reference="")])
    first = prepare_labels(prepared, "lower", clean, set, no_progress)

    def cleaned_again(references: list[str]) -> tuple[list[str | None], list[int]]:
        raise AssertionError("cleaned again")

    second = prepare_labels(prepared, "lower", cleaned_again, set, no_progress)
    for labels in (first, second):
        assert labels.symbols == {"train": set("hola"), "validation": set(), "test": set()}
        assert labels.texts.to_pylist() == ["hola", None]
        assert labels.sizes.tolist() == [4, 0]


def test_other_settings_clean_the_labels_anew(tmp_path: Path) -> None:
    prepared = prepare_rows(tmp_path, [a_row(0, reference="HOLA")])
    prepare_labels(prepared, "lower", clean, set, no_progress)

    kept = prepare_labels(
        prepared, "as they are", lambda texts: (list(texts), [0] * len(texts)), set, no_progress
    )
    assert kept.texts.to_pylist() == ["HOLA"]


@pytest.mark.parametrize("suffix", [".arrow", ".json"])
def test_damaged_labels_are_cleaned_again(tmp_path: Path, suffix: str) -> None:
    prepared = prepare_rows(tmp_path, [a_row(0, reference="HOLA")])
    prepare_labels(prepared, "lower", clean, set, no_progress)
    (file,) = prepared.folder.glob(f"labels-*{suffix}")
    file.write_bytes(file.read_bytes()[:-3])

    assert prepare_labels(prepared, "lower", clean, set, no_progress).texts.to_pylist() == ["hola"]


def test_labels_of_an_entry_that_cannot_be_written_go_to_our_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECHEXP_CACHE", str(tmp_path / "own"))
    prepared = prepare_rows(tmp_path / "shared", [a_row(0, reference="HOLA")])
    locked = prepare_module.locked

    def refused(folder: Path) -> AbstractContextManager[None]:
        if "shared" in folder.parts:
            raise CacheError("read-only")
        return locked(folder)

    monkeypatch.setattr(prepare_module, "locked", refused)
    assert prepare_labels(prepared, "lower", clean, set, no_progress).texts.to_pylist() == ["hola"]
    assert list(tmp_path.glob("own/labels/*/labels-*.arrow"))


def test_many_labels_are_cleaned_in_processes_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "_BATCH_ROWS", 8)
    prepared = prepare_rows(tmp_path, [a_row(0, 0.02, reference=f"Clip {number}") for number in range(50)])
    task = SpeechRecognition(normaliser="plain")

    labels = prepare_labels(prepared, task.cleaning, task.clean_references, set, no_progress)
    assert labels.texts.to_pylist() == [f"clip {number}" for number in range(50)]
