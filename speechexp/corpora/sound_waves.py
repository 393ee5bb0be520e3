"""What sounds are built of: cycles, harmonic waves, envelopes, strikes and coloured noise.

All samples are float32, `(samples,)`.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float32]
Cycles: TypeAlias = npt.NDArray[np.float64]

# (start, end) in seconds.
Span: TypeAlias = tuple[float, float]

# The table of one period is read at the nearest place: an error of -45 dB for the 60th harmonic, less below.
_TABLE = 1 << 14
_HIGHEST = 0.45  # of the sampling rate: a recorder's filter ends about there
_LOWEST_NOISE_HERTZ = 20.0

_ACTIVE_FRAME_SECONDS = 0.01
_ACTIVE_BELOW_LOUDEST = 0.01  # of its power: -20 dB


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def cycles(hertz: float | Cycles, num_samples: int, rate: int, start: float = 0.0) -> Cycles:
    """Count the cycles of an oscillator up to each sample.

    Args:
        hertz: its frequency, constant or `(samples,)`.
        num_samples: how many.
        rate: samples a second.
        start: cycles at the first sample.
    """
    if isinstance(hertz, np.ndarray):
        return np.asarray(start + np.cumsum(hertz) / rate, dtype=np.float64)
    return np.asarray(start + np.arange(num_samples) * (hertz / rate), dtype=np.float64)


def sine(counted: Cycles) -> Samples:
    """Return a sine of amplitude 1 from its cycles."""
    turns = (counted - np.floor(counted)).astype(np.float32)
    wave: Samples = np.sin(turns * np.float32(2 * np.pi))
    return wave


def harmonic_wave(counted: Cycles, hertz: float, rate: int, amplitudes: Sequence[float]) -> Samples:
    """Return a wave of harmonics, with those left out that the sampling rate cannot hold.

    Args:
        counted: cycles of the fundamental.
        hertz: the fundamental's highest frequency.
        rate: samples a second.
        amplitudes: of the first, second, third … harmonic; all begin as sines.
    """
    allowed = int(_HIGHEST * rate / hertz)
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=np.complex128)
    spectrum[1 : 1 + min(len(amplitudes), allowed)] = -0.5j * _TABLE * np.asarray(amplitudes[:allowed])
    table = np.fft.irfft(spectrum).astype(np.float32)
    places = ((counted - np.floor(counted)) * _TABLE + 0.5).astype(np.int32) & (_TABLE - 1)
    wave: Samples = table[places]
    return wave


def spans_of(pattern: Iterable[Span], seconds: float, shortest: float = 0.04) -> list[Span]:
    """Lay out a cadence.

    Args:
        pattern: seconds (on, off), again and again.
        seconds: where it ends; a span that reaches beyond is cut.
        shortest: spans cut to less are left out.
    """
    spans, now = [], 0.0
    for on, off in cycle(pattern):
        end = min(now + on, seconds)
        if end - now >= shortest:
            spans.append((now, end))
        now += on + off
        if now >= seconds:
            return spans
    return spans


def envelope(spans: Iterable[Span], num_samples: int, rate: int, ramp: float = 0.005) -> Samples:
    """Return 1 within spans and 0 without, with raised-cosine edges of `ramp` seconds inside the spans."""
    gates = np.zeros(num_samples, dtype=np.float32)
    for start, end in spans:
        first, last = round(start * rate), min(round(end * rate), num_samples)
        size = min(round(ramp * rate), (last - first) // 2)
        if size < 1:
            continue
        edge = (0.5 - 0.5 * np.cos(np.pi * (np.arange(size) + 0.5) / size)).astype(np.float32)
        gates[first:last] = 1.0
        gates[first : first + size] = edge
        gates[last - size : last] = edge[::-1]
    return gates


def faded(samples: Samples, rate: int, ramp: float = 0.01) -> Samples:
    """Fade samples in and out over `ramp` seconds."""
    return samples * envelope([(0.0, samples.size / rate)], samples.size, rate, ramp)


def struck(samples: Samples, moments: Iterable[tuple[float, float]], num_samples: int, rate: int) -> Samples:
    """Let one sound begin at several moments.

    Args:
        samples: the sound, `(samples,)` of any length.
        moments: seconds and strength of each strike.
        num_samples: of the result.
        rate: samples a second.
    """
    result = np.zeros(num_samples, dtype=np.float32)
    for seconds, strength in moments:
        first = round(seconds * rate)
        if 0 <= first < num_samples:
            piece = samples[: num_samples - first]
            result[first : first + piece.size] += np.float32(strength) * piece
    return result


def decaying(seconds: float, time_constant: float, rate: int, attack: float = 0.001) -> Samples:
    """Return an exponential decay with a short linear attack."""
    times = np.arange(round(seconds * rate)) / rate
    return (np.exp(-times / time_constant) * np.minimum(1.0, times / attack)).astype(np.float32)


def coloured_noise(rng: np.random.Generator, num_samples: int, rate: int, slope: float) -> Samples:
    """Draw Gaussian noise of variance 1.

    Args:
        rng: where from.
        num_samples: how many.
        rate: samples a second.
        slope: power falls as 1 / frequency ** slope, from 20 Hz on: 0 is white, 1 pink, 2 brown.
    """
    white = rng.standard_normal(num_samples, dtype=np.float32)
    if slope == 0:
        return white
    from scipy.fft import irfft, next_fast_len, rfft

    size = next_fast_len(num_samples, real=True)
    frequencies = np.maximum(np.arange(size // 2 + 1) * (rate / size), _LOWEST_NOISE_HERTZ)
    spectrum = rfft(white, size) * (frequencies ** (-slope / 2)).astype(np.float32)
    noise: Samples = irfft(spectrum, size)[:num_samples]
    return noise / np.float32(noise.std() + 1e-12)


def active_power(samples: Samples, rate: int) -> float:
    """Return the mean power of the 10 ms frames within 20 dB of the loudest one; 0 for silence."""
    size = min(round(_ACTIVE_FRAME_SECONDS * rate), samples.size)
    frames = samples[: samples.size // size * size].reshape(-1, size)
    powers = np.einsum("ij,ij->i", frames, frames) / size
    return float(powers[powers >= _ACTIVE_BELOW_LOUDEST * powers.max()].mean())
