"""Decoding: any file that libsndfile reads becomes mono int16 at the task's rate. No FFmpeg."""

import io
import struct
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".au"})
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # written by programs that stream to a pipe


class AudioError(Exception):
    """A clip that can't be decoded; the message says why in a few words."""


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
    import soundfile

    try:
        raw = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise AudioError(error.strerror or str(error)) from error
    if not raw:
        raise AudioError("zero length")
    _refuse_truncated_wav(raw)
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            announced, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = str(error).rsplit(":", 1)[-1].strip(" .") or str(error)
        raise AudioError(f"not readable as audio ({reason})") from error
    if len(samples) == 0:
        raise AudioError("zero length")
    if len(samples) < announced:
        raise AudioError(f"truncated: {len(samples)} of {announced} frames are there")
    if not np.isfinite(samples).all():
        raise AudioError("holds values that are not finite")
    return to_int16(resample(samples.mean(axis=1), rate, sample_rate))


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


def _refuse_truncated_wav(raw: bytes) -> None:
    """Raise if a RIFF file holds less than its data chunk announces: libsndfile reads on without a word."""
    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        return
    position = 12
    while position + 8 <= len(raw):
        name, size = raw[position : position + 4], struct.unpack_from("<I", raw, position + 4)[0]
        if name == b"data":
            there = len(raw) - position - 8
            if size not in _UNKNOWN_SIZES and there < size:
                raise AudioError(f"truncated: {there} of {size} bytes are there")
            return
        position += 8 + size + size % 2
    raise AudioError("truncated: the header ends before any audio")
