import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers_audio import encode, no_progress, tone

from speechexp.errors import UserError
from speechexp.manifest import Row
from speechexp.prepare import Prepared, prepare

RATE = 16_000


def a_row(number: int, seconds: float = 0.3, split: str = "train", reference: str = "hola") -> Row:
    audio = encode(tone(seconds, hertz=200.0 + 50 * number))
    return Row(f"clip{number}", split, audio, reference, {"gender": "female"})


def prepare_rows(cache_dir: Path, rows: Iterable[Row], source: str = "test") -> Prepared:
    listed = list(rows)
    return prepare(source, lambda: listed, len(listed), RATE, cache_dir, no_progress)


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
    assert manifest.ids == ["clip0", "clip1", "clip2"]
    assert manifest.splits == ["train", "validation", "test"]
    assert manifest.references == ["la calle", "ñandú", ""]
    assert manifest.attributes == [{"gender": "female"}] * 3
    for number, seconds in enumerate((0.3, 0.5, 0.1)):
        start, length = manifest.offsets[number], manifest.num_samples[number]
        expected = tone(seconds, hertz=200.0 + 50 * number)
        assert length == len(expected)
        assert np.abs(prepared.audio[start : start + length] / 32768 - expected).max() < 1e-4


def test_order_is_kept_with_more_rows_than_are_decoded_at_once(tmp_path: Path) -> None:
    count = 8 * (os.cpu_count() or 1) + 9
    lengths = [0.02 + 0.001 * ((7 * number) % 13) for number in range(count)]
    prepared = prepare_rows(tmp_path, (a_row(n, seconds) for n, seconds in enumerate(lengths)))

    assert prepared.manifest.ids == [f"clip{number}" for number in range(count)]
    assert prepared.manifest.num_samples.tolist() == [round(seconds * RATE) for seconds in lengths]


def test_peak_is_absolute(tmp_path: Path) -> None:
    below = -np.abs(tone(level=0.25))
    prepared = prepare_rows(tmp_path, [Row("a", "train", encode(below), "x")])

    assert prepared.manifest.peaks[0] == pytest.approx(0.25, abs=1e-3)


def test_second_time_comes_from_the_cache_and_opens_no_row(tmp_path: Path) -> None:
    first = prepare_rows(tmp_path, [a_row(0)])

    def opened() -> Iterator[Row]:
        raise AssertionError("the source was opened again")

    second = prepare("test", opened, None, RATE, tmp_path, no_progress)
    assert second.folder == first.folder
    assert second.fingerprint == first.fingerprint


def test_another_source_or_rate_is_another_entry(tmp_path: Path) -> None:
    first = prepare_rows(tmp_path, [a_row(0)], "one")
    other_source = prepare_rows(tmp_path, [a_row(0)], "two")
    other_rate = prepare("one", lambda: [a_row(0)], 1, 8000, tmp_path, no_progress)

    assert len({first.folder, other_source.folder, other_rate.folder}) == 3
    assert other_rate.manifest.num_samples[0] == first.manifest.num_samples[0] / 2


def test_progress_counts_up_to_the_total(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    prepare("test", lambda: [a_row(0), a_row(1)], 2, RATE, tmp_path, lambda done, of: told.append((done, of)))

    assert told == [(1, 2), (2, 2)]


def test_source_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Row]:
        yield a_row(0)
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="the source broke"):
        prepare("test", failing, None, RATE, tmp_path, no_progress)
    assert published(tmp_path) == []


def test_source_that_failed_once_can_be_prepared_later(tmp_path: Path) -> None:
    def failing() -> Iterator[Row]:
        raise ValueError("the source broke")
        yield

    with pytest.raises(ValueError, match="the source broke"):
        prepare("test", failing, None, RATE, tmp_path, no_progress)
    assert len(prepare_rows(tmp_path, [a_row(0)]).manifest) == 1


def test_read_error_of_the_source_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    def failing() -> Iterator[Row]:
        raise OSError("Corrupt snappy compressed data.")
        yield

    with pytest.raises(OSError, match="Corrupt snappy"):
        prepare("test", failing, None, RATE, tmp_path, no_progress)


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(done: int, of: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("test", lambda: [a_row(0)], 1, RATE, tmp_path, interrupted)
    assert published(tmp_path) == []


CHILD = """
import os, sys, time
from pathlib import Path
from helpers_audio import encode, no_progress, tone
from speechexp.manifest import Row
from speechexp.prepare import prepare

cache_dir, role = Path(sys.argv[1]), sys.argv[2]

def rows():
    with (cache_dir / "opened").open("a") as file:
        file.write("x")
    for number in range(40):
        if role == "dies" and number == 39:
            os._exit(9)
        time.sleep(0.01)
        yield Row(f"clip{number}", "train", encode(tone(0.1)), "hola")

print(prepare("test", rows, 40, 16000, cache_dir, no_progress).fingerprint)
"""


def start_child(cache_dir: Path, role: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", CHILD, str(cache_dir), role]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    children = [start_child(tmp_path, "makes") for _ in range(2)]
    outputs = [child.communicate(timeout=60)[0] for child in children]

    assert [child.returncode for child in children] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert (tmp_path / "opened").read_text() == "x"


def test_killed_process_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    child = start_child(tmp_path, "dies")
    child.communicate(timeout=60)
    assert child.returncode == 9

    assert {name.rsplit(".", 1)[-1] for name in published(tmp_path)} == {"partial"}
    prepared = prepare_rows(tmp_path, [a_row(0)])
    assert prepared.manifest.ids == ["clip0"]
    assert published(tmp_path) == [prepared.folder.name]


def test_two_threads_at_once_make_it_once(tmp_path: Path) -> None:
    opened: list[int] = []
    results: list[Prepared] = []

    def rows() -> Iterator[Row]:
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

    assert prepared.manifest.ids == ["clip0", "clip4"]
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

    assert len(prepared.manifest) == len(prepared.audio) == 0


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


@pytest.mark.parametrize("name", ["audio.int16", "manifest.parquet", "prepared.json"])
@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_damaged_entry_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    first = prepare_rows(tmp_path, [a_row(0)])
    whole = (first.folder / name).read_bytes()
    (first.folder / name).unlink()
    if damage == "cut":
        (first.folder / name).write_bytes(whole[: len(whole) // 2])

    assert prepare_rows(tmp_path, [a_row(0)]).fingerprint == first.fingerprint
    assert (first.folder / name).read_bytes() == whole
