"""Small real audio for tests."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

RATE = 16_000


def tone(
    seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0, level: float = 0.5
) -> npt.NDArray[np.float64]:
    """Return a sine, ``(samples,)``, whose largest sample is about ``level``."""
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def encode(
    samples: npt.NDArray[np.float64], rate: int = RATE, container: str = "WAV", subtype: str = "PCM_16"
) -> bytes:
    """Return an encoded file of ``(samples,)`` or ``(samples, channels)``."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def write_tone(path: Path, seconds: float = 1.0, hertz: float = 440.0) -> Path:
    """Write a tone as a 16-bit WAV file, its folder made first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(tone(seconds, hertz=hertz)))
    return path


def no_progress(*_: object) -> None:
    """Take a report of progress and leave it."""
