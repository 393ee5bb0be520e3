"""Decoding: any file that libsndfile reads becomes mono int16 at the task's rate. No FFmpeg."""

import contextlib
import io
import os
import re
import threading
from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".au"})
_RATES = (1_000, 400_000)  # Hz; outside, it is the header that is wrong
_BLOCK = 1 << 16  # frames read at a time
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


def decode(source: bytes | Path, sample_rate: int) -> npt.NDArray[np.int16]:
    """Decode a clip, mix it down to mono and resample it.

    Args:
        source: An encoded file's bytes, or its path.
        sample_rate: Of the result, in Hz.

    Returns:
        ``(samples,)`` int16.

    Raises:
        AudioError: The clip is empty, truncated, not audio, or missing.
    """
    try:
        raw = source if isinstance(source, bytes) else source.read_bytes()
        samples, rate = _read(raw)
        if samples.dtype == np.float32:
            return to_int16(resample(samples, rate, sample_rate))
        if rate == sample_rate:
            return samples
        return to_int16(resample(samples.astype(np.float32) / 32768.0, rate, sample_rate))
    except OSError as error:
        raise AudioError(error.strerror or str(error)) from error
    except ValueError as error:  # a NUL in its name
        raise AudioError(str(error)) from error
    except MemoryError as error:
        raise AudioError("too long to be decoded in this machine's memory") from error


def clip_seconds(source: bytes | Path) -> float | None:
    """Return how long a clip is by its header, in seconds; None where that does not tell."""
    header = _header(source)
    return header[0] / header[1] if header else None


def decoding_bytes(source: bytes | Path) -> int:
    """Return about how much memory `decode` takes for a clip at most, in bytes."""
    header = _header(source)
    encoded = len(source) if isinstance(source, bytes) else 0
    return encoded + (16 * header[0] if header else 0)  # float32 twice, its resampled form, int16


def _header(source: bytes | Path) -> tuple[int, int] | None:
    """Return a file's number of frames and its sampling rate in Hz, where its header tells."""
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            frames, rate = file.frames, file.samplerate
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError):
        return None
    return (frames, rate) if 0 < frames < _UNKNOWN and _RATES[0] <= rate <= _RATES[1] else None


def _read(raw: bytes) -> tuple[npt.NDArray[Any], int]:
    """Decode an encoded file to mono ``(frames,)`` and its sampling rate in Hz.

    What is mono in 16 bits already comes as it is, int16; everything else as float32.
    """
    if not raw:
        raise AudioError("zero length")
    _refuse_cut_ogg(raw)
    try:
        with _opened(raw) as file:
            announced, rate = file.frames, file.samplerate
            if not _RATES[0] <= rate <= _RATES[1]:
                raise AudioError(f"sampling rate of {rate} Hz in its header")
            for size, there in _CUT.findall(file.extra_info):
                if int(there) < int(size) < _UNKNOWN_SIZE:
                    raise AudioError(f"truncated: {there} of {size} bytes are there")
            exact = file.subtype == "PCM_16" and file.channels == 1
            blocks = []
            while len(block := file.read(_BLOCK, dtype="int16" if exact else "float32", always_2d=True)):
                blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1))
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = getattr(error, "error_string", str(error)).strip(" .") or "damaged or truncated"
        raise AudioError(f"not readable as audio ({reason})") from error
    if not blocks:
        raise AudioError("zero length")
    samples = np.concatenate(blocks)
    if len(samples) < announced < _UNKNOWN:
        raise AudioError(f"truncated: {len(samples)} of {announced} frames are there")
    if not np.isfinite(samples).all():
        raise AudioError("holds values that are not finite")
    return samples, rate


@contextlib.contextmanager
def _opened(raw: bytes) -> Iterator[soundfile.SoundFile]:
    """Open an encoded file; an MP3 file of unknown length through a pipe, where libsndfile does not guess it."""
    with _Stream(io.BytesIO(raw)) as file:
        if file.format != "MP3" or _tells_its_length(raw):
            yield file
            return
    read_end, write_end = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(write_end, "wb") as pipe:  # noqa: PTH123
            pipe.write(raw[_id3_length(raw) :])

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        with _Stream(read_end, closefd=False) as file:
            yield file
    finally:
        os.close(read_end)
        feeder.join()


def resample(samples: npt.NDArray[np.float32], rate: int, to_rate: int) -> npt.NDArray[np.float32]:
    """Change the sampling rate by a polyphase filter; ``(samples,)`` in and out."""
    if rate == to_rate:
        return samples
    from scipy.signal import resample_poly

    divisor = gcd(rate, to_rate)
    return np.asarray(resample_poly(samples, to_rate // divisor, rate // divisor), dtype=np.float32)


def to_int16(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Quantise ``(samples,)`` in [-1, 1] to 16 bits; what is outside is clipped."""
    quantised: npt.NDArray[np.int16] = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return quantised


def _id3_length(raw: bytes) -> int:
    """Return the length of an ID3v2 tag (id3.org, section 3.1: 7 bits a byte) at the head of an MP3 file."""
    if raw[:3] != b"ID3" or len(raw) < 10:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(raw[6:10], (21, 14, 7, 0), strict=True))


def _tells_its_length(raw: bytes) -> bool:
    """Tell whether an MP3 file's first frame is one of Xing's, with the number of frames.

    Without it, the length that libsndfile announces is a guess from the first frames' bit rate.
    """
    start = _id3_length(raw)
    tag = re.search(rb"(?:Xing|Info)(....)", raw[start : start + 64], re.DOTALL)
    return tag is not None and bool(tag[1][3] & 1)


def _refuse_cut_ogg(raw: bytes) -> None:
    """Raise if an Ogg file (RFC 3533, section 6) ends within a page."""
    if raw[:4] != b"OggS":
        return
    page = raw[raw.rindex(b"OggS") :]
    count = page[26] if len(page) > 26 else len(page)
    segments = page[27 : 27 + count]
    if len(segments) < count or 27 + count + sum(segments) > len(page):
        raise AudioError("truncated: its last page is cut")
