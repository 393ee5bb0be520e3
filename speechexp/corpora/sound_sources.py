"""Sounds named after their waveform or mechanism: tones, noises, hum and clicks.

Each function returns a sound that fills its seconds, of any level, with parameters of its own drawing.
"""

import numpy as np

from speechexp.corpora.sound_waves import (
    Samples,
    coloured_noise,
    cycles,
    decaying,
    faded,
    harmonic_wave,
    log_uniform,
    sine,
    struck,
)


def sine_wave(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """One steady frequency from 250 to 4000 Hz."""
    tone = sine(cycles(log_uniform(rng, 250, 4000), round(seconds * rate), rate, rng.random()))
    return faded(tone, rate, rng.uniform(0.01, 0.1))


def chirp_tone(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """Sweeps of a pure tone over 2 to 5 octaves, all up or all down, of 0.4 s or more each."""
    num_samples = round(seconds * rate)
    low = log_uniform(rng, 150, 600)
    high = min(low * 2 ** rng.uniform(2, 5), 7000.0)
    length = min(rng.uniform(0.4, 1.5), seconds)
    gap = rng.uniform(0.05, 0.4)
    count = round(length * rate)
    place = np.arange(count) / count
    sweep = low * (high / low) ** place if rng.random() < 0.5 else low + (high - low) * place
    if rng.random() < 0.4:
        sweep = sweep[::-1]
    chirp = faded(sine(cycles(sweep, count, rate)), rate, 0.01)
    starts = np.arange(0.0, seconds - length + 1e-6, length + gap)
    return struck(chirp, ((start, 1.0) for start in starts), num_samples, rate)


def white_noise(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """The same power at every frequency."""
    return faded(coloured_noise(rng, round(seconds * rate), rate, 0.0), rate, rng.uniform(0.01, 0.15))


def pink_noise(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """The same power in every octave."""
    return faded(coloured_noise(rng, round(seconds * rate), rate, 1.0), rate, rng.uniform(0.01, 0.15))


def mains_hum(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """50 or 60 Hz with harmonics to about 1 kHz, the even ones stronger, as rectifiers and cores have them."""
    hertz = float(rng.choice((50.0, 60.0))) * rng.uniform(0.998, 1.002)
    numbers = np.arange(1, 21)
    amplitudes = numbers ** -rng.uniform(0.5, 1.1) * rng.uniform(0.4, 1.0, numbers.size)
    amplitudes[::2] *= rng.uniform(0.2, 0.8)
    amplitudes[0] = rng.uniform(0.3, 1.0)
    counted = cycles(hertz, round(seconds * rate), rate, rng.random())
    return faded(harmonic_wave(counted, hertz, rate, amplitudes.tolist()), rate, rng.uniform(0.02, 0.2))


def clicking(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """Clicks of a few milliseconds with one resonance, 3 to 11 a second, more or less regular."""
    length = 0.03
    body = sine(cycles(log_uniform(rng, 1200, 5000), round(length * rate), rate))
    snap = coloured_noise(rng, round(length * rate), rate, 0.0)
    click = body * decaying(length, rng.uniform(0.002, 0.006), rate, 0.0002)
    click += np.float32(rng.uniform(0.2, 0.6)) * snap * decaying(length, 0.001, rate, 0.0002)
    interval, jitter = 1 / rng.uniform(3, 11), rng.uniform(0.0, 0.25)
    moments, now = [], 0.0
    while now < seconds - length:
        moments.append((now, rng.uniform(0.7, 1.0)))
        now += interval * (1 + jitter * rng.uniform(-1, 1))
    return struck(click, moments, round(seconds * rate), rate)
