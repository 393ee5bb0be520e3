"""Decoding: any file that libsndfile reads becomes mono int16 at the task's rate. No FFmpeg."""

import contextlib
import io
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from speechexp.resampling import Resampler

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".au"})
_RATES = (1_000, 400_000)  # Hz; outside, it is the header that is wrong
_BLOCK = 1 << 16  # frames read at a time
_OGG_PAGE = 65_307  # bytes, at most
_UNKNOWN = 1 << 62  # libsndfile announces 2**63 - 1 frames where a file does not tell
_UNKNOWN_SIZE = 0x7FFFF000  # bytes: programs that stream WAV to a pipe write this size or a larger one
# libsndfile reads a cut file without a word, but writes both sizes to its log.
_CUT = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)


class AudioError(Exception):
    """A clip that can't be decoded; the message says why in a few words."""


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read once, from its start.

    soundfile seeks after each block of another one, which fails at the end of a FLAC stream of unknown length.
    """

    def seekable(self) -> bool:
        """Say no."""
        return False


@dataclass(frozen=True)
class Extent:
    """How much audio a file holds.

    Attributes:
        frames: Samples of each channel.
        rate: Hz.
        channels: Their number.
    """

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.frames / self.rate


def decode(
    source: bytes | Path,
    sample_rate: int,
    stretch: tuple[float, float] | None = None,
    channel: int | None = None,
) -> npt.NDArray[np.int16]:
    """Decode a clip, mix it down to mono and resample it.

    Beside the encoded bytes, memory holds the result once, and some blocks.

    Args:
        source: An encoded file's bytes, or its path.
        sample_rate: Of the result, in Hz.
        stretch: What to return of it, from and to, in seconds; None for all.
        channel: Take this one, from 1, in the place of all channels' mean.

    Returns:
        ``(samples,)`` int16.

    Raises:
        AudioError: The clip is empty, truncated, not audio, or missing; or there is nothing in the stretch, or no
            such channel.
    """
    result = bytearray()
    try:
        with _opened(source) as file:
            rate = file.samplerate
            if channel is not None and not 1 <= channel <= file.channels:
                raise AudioError(f"has {file.channels} channels, but no channel {channel}")
            resampler = Resampler(rate, sample_rate)
            first, last = (0, None) if stretch is None else (round(each * rate) for each in stretch)
            for block in _within(_blocks(file), first, last):
                exact = block.dtype == np.int16 and rate == sample_rate
                samples = block[:, 0] if exact else to_int16(resampler.push(_mono(block, channel)))
                result += samples.tobytes()
        result += to_int16(resampler.finish()).tobytes()
    except OSError as error:
        raise AudioError(error.strerror or str(error)) from error
    except ValueError as error:  # a NUL in its name
        raise AudioError(str(error)) from error
    except MemoryError as error:
        raise AudioError("too long to be decoded in this machine's memory") from error
    if not result:
        raise AudioError("zero length")
    return np.frombuffer(result, np.int16)


def measure(source: bytes | Path) -> Extent | None:
    """Return how much audio a file holds, None where it is not readable as audio.

    Its header tells that; where the header would guess, as that of many MP3 files, the file is decoded for it.
    """
    try:
        with _opened(source) as file:
            told = 0 < file.frames < _UNKNOWN
            frames = file.frames if told else sum(map(len, _blocks(file)))
            return Extent(frames, file.samplerate, file.channels)
    except (AudioError, OSError, ValueError, MemoryError):
        return None


def clip_seconds(source: bytes | Path) -> float | None:
    """Return how long a clip is by its header, in seconds; None where that does not tell."""
    header = _header(source)
    return header.seconds if header else None


def decoding_bytes(source: bytes | Path, sample_rate: int) -> int:
    """Return about how much memory `decode` takes for a clip at most, in bytes."""
    header = _header(source)
    encoded = len(source) if isinstance(source, bytes) else 0
    if header is None:
        return encoded
    blocks = 64 * _BLOCK * min(header.channels, 8)
    result = round(2.25 * header.seconds * sample_rate)  # it grows by an eighth at a time
    return encoded + result + min(blocks, 16 * header.frames * header.channels)


def _header(source: bytes | Path) -> Extent | None:
    """Return how much audio there is by a file's header, where that tells."""
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            extent = Extent(file.frames, file.samplerate, file.channels)
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError):
        return None
    return extent if 0 < extent.frames < _UNKNOWN and _RATES[0] <= extent.rate <= _RATES[1] else None


@contextlib.contextmanager
def _encoded(source: bytes | Path) -> Iterator["io.BytesIO | _File"]:
    """Open the encoded bytes themselves.

    Raises:
        OSError: They can't be read, or could not be within the context.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    with _File(source) as file:
        try:
            yield file
        except Exception:
            if file.error is None:
                raise
        if file.error is not None:
            raise file.error


class _File(io.FileIO):
    """A file that libsndfile reads through Python: it would take an error for the end."""

    error: OSError | None = None

    def readinto(self, buffer: Any, /) -> int | None:
        """Read as `io.FileIO` does; an error is kept, and reads as the end."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            self.error = error
            return 0

    def read(self, size: int | None = -1, /) -> bytes:
        """The same."""
        try:
            return super().read(-1 if size is None else size)
        except OSError as error:
            self.error = error
            return b""


@contextlib.contextmanager
def _opened(source: bytes | Path) -> Iterator[soundfile.SoundFile]:
    """Open a clip; an MP3 file of unknown length through a pipe, where libsndfile does not guess it.

    Raises:
        AudioError: It is empty, cut or not audio, or turns out within the context to be damaged.
        OSError: It can't be read.
    """
    with _encoded(source) as encoded:
        try:
            _refuse_cut_ogg(encoded)
            encoded.seek(0)
            with _Stream(encoded) as file:
                if file.format != "MP3" or _tells_its_length(encoded, encoded.tell()):
                    _check_header(file)
                    yield file
                    return
            with _piped(encoded) as file:
                _check_header(file)
                yield file
        except (soundfile.SoundFileError, RuntimeError) as error:
            reason = getattr(error, "error_string", str(error)).strip(" .") or "damaged or truncated"
            raise AudioError(f"not readable as audio ({reason})") from error


@contextlib.contextmanager
def _piped(encoded: "io.BytesIO | _File") -> Iterator[soundfile.SoundFile]:
    """Open an MP3 file through a pipe."""
    read_end, write_end = os.pipe()
    encoded.seek(_id3_length(encoded))

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(write_end, "wb") as pipe:  # noqa: PTH123
            shutil.copyfileobj(encoded, pipe)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        with _Stream(read_end, closefd=False) as file:
            yield file
    finally:
        os.close(read_end)
        feeder.join()


def _check_header(file: soundfile.SoundFile) -> None:
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise AudioError(f"sampling rate of {file.samplerate} Hz in its header")
    for size, there in _CUT.findall(file.extra_info):
        if int(there) < int(size) < _UNKNOWN_SIZE:
            raise AudioError(f"truncated: {there} of {size} bytes are there")


def _blocks(file: soundfile.SoundFile) -> Iterator[npt.NDArray[Any]]:
    """Yield all of a file, ``(frames, channels)``: int16 where it is mono in 16 bits, float32 otherwise.

    Raises:
        AudioError: There is nothing, too little, or what is no number.
    """
    exact = file.subtype == "PCM_16" and file.channels == 1
    announced, frames = file.frames, 0
    while len(block := file.read(_BLOCK, dtype="int16" if exact else "float32", always_2d=True)):
        if not exact and not np.isfinite(block).all():
            raise AudioError("holds values that are not finite")
        frames += len(block)
        yield block
    if not frames:
        raise AudioError("zero length")
    if frames < announced < _UNKNOWN:
        raise AudioError(f"truncated: {frames} of {announced} frames are there")


def _within(blocks: Iterable[npt.NDArray[Any]], first: int, last: int | None) -> Iterator[npt.NDArray[Any]]:
    """Yield what of blocks lies in ``[first, last)``; those behind it are read too, for what may be wrong there."""
    start = 0
    for block in blocks:
        part = block[max(first - start, 0) : None if last is None else max(last - start, 0)]
        start += len(block)
        if len(part):
            yield part


def _mono(block: npt.NDArray[Any], channel: int | None) -> npt.NDArray[np.float32]:
    """Return one channel of a block, or the mean of all, ``(frames,)`` in [-1, 1]."""
    samples = block / np.float32(32768.0) if block.dtype == np.int16 else block
    if channel is None and samples.shape[1] > 1:
        mean: npt.NDArray[np.float32] = samples.mean(axis=1)
        return mean
    return np.ascontiguousarray(samples[:, 0 if channel is None else channel - 1])


def to_int16(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Quantise ``(samples,)`` in [-1, 1] to 16 bits; what is outside is clipped."""
    quantised: npt.NDArray[np.int16] = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return quantised


def _id3_length(encoded: BinaryIO) -> int:
    """Return the length of an ID3v2 tag (id3.org, section 3.1: 7 bits a byte) at the head of an MP3 file."""
    encoded.seek(0)
    head = encoded.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def _tells_its_length(encoded: BinaryIO, place: int) -> bool:
    """Tell whether an MP3 file's first frame is one of Xing's, with the number of frames; then go to a place in it.

    Without it, the length that libsndfile announces is a guess from the first frames' bit rate.
    """
    encoded.seek(_id3_length(encoded))
    tag = re.search(rb"(?:Xing|Info)(....)", encoded.read(64), re.DOTALL)
    encoded.seek(place)
    return tag is not None and bool(tag[1][3] & 1)


def _refuse_cut_ogg(encoded: BinaryIO) -> None:
    """Raise if a file is empty, or one of Ogg's (RFC 3533, section 6) that ends within a page."""
    head = encoded.read(4)
    if not head:
        raise AudioError("zero length")
    if head != b"OggS":
        return
    encoded.seek(max(encoded.seek(0, os.SEEK_END) - 2 * _OGG_PAGE, 0))
    end = encoded.read()
    page = end[max(end.rfind(b"OggS"), 0) :]
    count = page[26] if len(page) > 26 else len(page)
    segments = page[27 : 27 + count]
    if len(segments) < count or 27 + count + sum(segments) > len(page):
        raise AudioError("truncated: its last page is cut")
