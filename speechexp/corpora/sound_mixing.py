"""From a planned clip to its samples: each sound, their mixture, the room, the noise behind, the level."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import numpy.typing as npt

from speechexp.corpora.sound_clips import Clip, Part
from speechexp.corpora.sound_speech import fit_speech
from speechexp.corpora.sound_waves import Samples, active_power, coloured_noise

# The noise behind lies at least so far below the faintest sound.
FLOOR_BELOW_SOUNDS_DB = 22.0
_FLOOR_SECONDS = 60
_WET_DB = (-14.0, -8.0)


def make_part(
    part: Part, rate: int, rng: np.random.Generator, spoken: npt.NDArray[np.int16] | None = None
) -> Samples:
    """Make one sound of a clip, its active frames at `part.level_db` against full scale.

    Args:
        part: what to make.
        rate: samples a second.
        rng: of its parameters and noise.
        spoken: of speech, what espeak-ng said.

    Returns:
        `(samples,)`, beginning at the part's onset.
    """
    if part.sound.make is not None:
        samples = part.sound.make(rng, part.seconds, rate)
    else:
        assert spoken is not None
        samples = fit_speech(spoken, part.seconds, rate)
    return samples * np.float32(10 ** (part.level_db / 20) / np.sqrt(active_power(samples, rate)))


def make_clip(clip: Clip, spoken: Mapping[Part, npt.NDArray[np.int16]]) -> npt.NDArray[np.float32]:
    """Make a clip.

    Args:
        clip: what to make.
        spoken: what espeak-ng said for each part that is speech.

    Returns:
        `(samples, channels)` in [-1, 1].
    """
    rng = np.random.default_rng(clip.seed)
    num_samples = round(clip.seconds * clip.rate)
    mixture = np.zeros((clip.channels, num_samples), dtype=np.float32)
    for part in clip.parts:
        sound = make_part(part, clip.rate, rng, spoken.get(part))
        first = round(part.onset * clip.rate)
        sound = sound[: num_samples - first]
        mixture[:, first : first + sound.size] += _gains(part.pan, clip.channels)[:, None] * sound
    scale = 1.0
    if clip.parts:
        mixture = _heard(mixture, clip, rng)
        scale = 10 ** (clip.peak_dbfs / 20) / float(np.abs(mixture).max())
        mixture *= np.float32(scale)
    if clip.floor_dbfs is not None:
        # Noise that is hardly heard is used again: drawing it would take a quarter of the time.
        long = _floor(clip.rate, clip.floor_slope)
        faintest = min((part.level_db for part in clip.parts), default=np.inf) + 20 * np.log10(scale)
        level = 10 ** (min(clip.floor_dbfs, faintest - FLOOR_BELOW_SOUNDS_DB) / 20)
        for channel in mixture:
            first = int(rng.integers(long.size - num_samples))
            channel += np.float32(level) * long[first : first + num_samples]
    clipped: npt.NDArray[np.float32] = np.clip(mixture.T, -1.0, 1.0)
    return clipped


@cache
def _floor(rate: int, slope: float) -> Samples:
    return coloured_noise(np.random.default_rng(0), _FLOOR_SECONDS * rate, rate, slope)


def _gains(pan: float, channels: int) -> npt.NDArray[np.float32]:
    if channels == 1:
        return np.ones(1, dtype=np.float32)
    # Both signs alike, so that averaging the channels loses little.
    angle = pan * np.pi / 2
    return np.array([np.sqrt(2) * np.cos(angle), np.sqrt(2) * np.sin(angle)], dtype=np.float32)


def _heard(mixture: npt.NDArray[np.float32], clip: Clip, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Apply the room and the recorder's treble to `(channels, samples)`."""
    from scipy.signal import butter, oaconvolve, sosfilt

    if clip.reverb_seconds is not None:
        count = round(clip.reverb_seconds * clip.rate)
        tail = rng.standard_normal(count, dtype=np.float32)
        tail *= np.exp(-6.9 * np.arange(count, dtype=np.float32) / count)
        tail *= np.float32(10 ** (rng.uniform(*_WET_DB) / 20) / np.sqrt(np.square(tail).sum()))
        tail[0] = 1.0
        mixture = oaconvolve(mixture, tail[None], axes=1)[:, : mixture.shape[1]]
    if clip.low_pass_hertz is not None:
        filters = butter(2, clip.low_pass_hertz, fs=clip.rate, output="sos").astype(np.float32)
        mixture = np.asarray(sosfilt(filters, mixture, axis=1), dtype=np.float32)
    return mixture
