"""Sounds that mean something: of telephones, alarms, sirens and horns.

Each function returns a sound that fills its seconds, of any level, with parameters of its own drawing.
Frequencies of the telephone's tones are North America's (ITU-T E.180, Q.23), within half a percent.
"""

import numpy as np

from speechexp.corpora.sound_waves import (
    Samples,
    Span,
    coloured_noise,
    cycles,
    decaying,
    envelope,
    faded,
    harmonic_wave,
    log_uniform,
    sine,
    spans_of,
    struck,
)

DIAL_TONE_HERTZ = (350.0, 440.0)
BUSY_HERTZ = (480.0, 620.0)
DTMF_ROWS_HERTZ = (697.0, 770.0, 852.0, 941.0)
DTMF_COLUMNS_HERTZ = (1209.0, 1336.0, 1477.0)
DETUNING = 0.005

_PENTATONIC = (0, 2, 4, 7, 9, 12, 14, 16)  # semitones


def _pair(rng: np.random.Generator, hertz: tuple[float, float], num_samples: int, rate: int) -> Samples:
    """Two steady tones, detuned together, within 2 dB of each other."""
    tuning = 1 + DETUNING * rng.uniform(-1, 1)
    low, high = (sine(cycles(each * tuning, num_samples, rate, rng.random())) for each in hertz)
    return low + np.float32(10 ** (rng.uniform(-2, 2) / 20)) * high


def dial_tone(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """350 and 440 Hz without a break."""
    return faded(_pair(rng, DIAL_TONE_HERTZ, round(seconds * rate), rate), rate, rng.uniform(0.005, 0.05))


def busy_signal(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """480 and 620 Hz, half a second on and half a second off."""
    num_samples = round(seconds * rate)
    half = 0.5 * rng.uniform(0.96, 1.04)
    gates = envelope(spans_of([(half, half)], seconds), num_samples, rate)
    return _pair(rng, BUSY_HERTZ, num_samples, rate) * gates


def telephone_dialing(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """Digits of a keypad, each a tone of its row and one of its column."""
    on, off = rng.uniform(0.08, 0.2), rng.uniform(0.04, 0.1)
    spans = spans_of([(on, off)], seconds)
    tuning = 1 + DETUNING * rng.uniform(-1, 1)
    twist = np.float32(10 ** (rng.uniform(-2, 3) / 20))
    result = np.zeros(round(seconds * rate), dtype=np.float32)
    for start, end in spans:
        count = round((end - start) * rate)
        row, column = (tuning * float(rng.choice(group)) for group in (DTMF_ROWS_HERTZ, DTMF_COLUMNS_HERTZ))
        digit = sine(cycles(row, count, rate)) + twist * sine(cycles(column, count, rate))
        first = round(start * rate)
        digit = faded(digit, rate, 0.003)[: result.size - first]
        result[first : first + digit.size] = digit
    return result


def telephone_bell(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """A clapper between two gongs, 20 to 26 strikes a second, in rings with pauses."""
    length = 0.4
    times_ = rng.uniform(0.05, 0.12)
    base = rng.uniform(900, 1500)
    gongs = []
    for tune in (1.0, rng.uniform(1.05, 1.25)):
        gong = np.zeros(round(length * rate), dtype=np.float32)
        # Partials of a small bell lie apart as those of no string do.
        for number, ratio in enumerate((1.0, 1.52, 2.41, 3.3, 4.2)):
            partial = sine(
                cycles(base * tune * ratio * rng.uniform(0.98, 1.02), gong.size, rate, rng.random())
            )
            strength = rng.uniform(0.4, 1.0) / (1 + 0.4 * number)
            gong += np.float32(strength) * partial * decaying(length, times_ / (1 + 0.3 * number), rate)
        gongs.append(gong)
    ring, pause = rng.uniform(0.8, 2.0), rng.uniform(0.4, 1.5)
    interval = 1 / rng.uniform(20, 26)
    result = np.zeros(round(seconds * rate), dtype=np.float32)
    for start, end in spans_of([(ring, pause)], seconds - 0.1, shortest=0.3):
        strikes = np.arange(start, end, interval)
        for side, gong in enumerate(gongs):
            moments = ((when, rng.uniform(0.8, 1.0)) for when in strikes[side::2])
            result += struck(gong, moments, result.size, rate)
    return faded(result, rate, 0.002)


def ringtone(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """An electronic ring: a trill of two tones in bursts, or a short tune that repeats."""
    num_samples = round(seconds * rate)
    amplitudes = [1.0, 0.0, rng.uniform(0.1, 0.35), 0.0, rng.uniform(0.05, 0.2), 0.0, 0.08]
    if rng.random() < 0.5:
        note = 1 / rng.uniform(14, 26)
        low = rng.uniform(700, 1200)
        notes = [low, low * rng.uniform(1.2, 1.35)]
        spans = spans_of([(rng.uniform(0.6, 1.2), rng.uniform(0.15, 0.5))], seconds)
    else:
        note = rng.uniform(0.1, 0.18)
        base = rng.uniform(500, 900)
        steps = rng.choice(_PENTATONIC, size=rng.integers(4, 8), replace=False)
        notes = [base * 2 ** (float(step) / 12) for step in steps]
        spans = spans_of([(0.9 * note, 0.1 * note)], seconds, shortest=0.03)
    places = (np.arange(num_samples) / (note * rate)).astype(np.int64) % len(notes)
    counted = cycles(np.asarray(notes)[places], num_samples, rate)
    return harmonic_wave(counted, max(notes), rate, amplitudes) * envelope(spans, num_samples, rate)


def siren(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """A tone with harmonics that rises and falls for as long as it lasts: wail (slow) or yelp (fast)."""
    num_samples = round(seconds * rate)
    turns = rng.uniform(0.45, 0.8) if rng.random() < 0.5 else rng.uniform(2.0, 4.0)
    low, high = rng.uniform(450, 700), rng.uniform(1200, 1700)
    swing = 0.5 - 0.5 * np.cos(2 * np.pi * cycles(turns, num_samples, rate, rng.random()))
    amplitudes = [1.0, *(rng.uniform(0.1, 0.5) / number for number in range(2, 7))]
    wave = harmonic_wave(cycles(low * (high / low) ** swing, num_samples, rate), high, rate, amplitudes)
    return faded(wave, rate, rng.uniform(0.02, 0.2))


def smoke_alarm(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """Three beeps of about 3.1 kHz, half a second each and apart, and 1.5 s of rest (ISO 8201)."""
    num_samples = round(seconds * rate)
    hertz, half = rng.uniform(2950, 3350), 0.5 * rng.uniform(0.97, 1.03)
    amplitudes = [1.0, rng.uniform(0, 0.1), rng.uniform(0.05, 0.25)]
    spans = spans_of([(half, half), (half, half), (half, 3 * half)], seconds)
    counted = cycles(hertz, num_samples, rate, rng.random())
    return harmonic_wave(counted, hertz, rate, amplitudes) * envelope(spans, num_samples, rate)


def buzzer(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """A harsh, rattling tone of 130 to 450 Hz with many harmonics, in long bursts."""
    num_samples = round(seconds * rate)
    hertz = log_uniform(rng, 130, 450)
    numbers = np.arange(1, 61)
    amplitudes = numbers ** -rng.uniform(0.3, 0.8)
    if rng.random() < 0.5:
        amplitudes[1::2] *= rng.uniform(0.0, 0.3)
    wobble = coloured_noise(rng, num_samples // 64 + 2, rate // 64, 1.0)
    rattle = 1 + 0.003 * np.repeat(wobble, 64)[:num_samples]
    counted = cycles(hertz * rattle.astype(np.float64), num_samples, rate)
    spans: list[Span] = [(0.0, seconds)]
    if rng.random() < 0.6:
        spans = spans_of([(rng.uniform(0.4, 1.2), rng.uniform(0.2, 0.6))], seconds)
    wave = harmonic_wave(counted, 1.02 * hertz, rate, amplitudes.tolist())
    return wave * envelope(spans, num_samples, rate, 0.004)


def foghorn(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """Long low blasts of 75 to 190 Hz that swell, with harmonics fading above 600 Hz, and sag at the end."""
    num_samples = round(seconds * rate)
    hertz = log_uniform(rng, 75, 190)
    numbers = np.arange(1, 25)
    bend = rng.uniform(400, 800)
    amplitudes = rng.uniform(0.6, 1.0, numbers.size) / (1 + (numbers * hertz / bend) ** 3)
    blast, pause = min(rng.uniform(1.0, 2.5), seconds), rng.uniform(0.4, 1.0)
    spans = spans_of([(blast, pause)], seconds, shortest=0.5)
    pitch = np.full(num_samples, hertz)
    for _, end in spans:
        last = min(round(end * rate), num_samples)
        sag = min(round(0.25 * rate), last)
        pitch[last - sag : last] *= np.linspace(1.0, rng.uniform(0.8, 0.95), sag)
    counted = cycles(pitch, num_samples, rate)
    gates = envelope(spans, num_samples, rate, rng.uniform(0.08, 0.2))
    return harmonic_wave(counted, hertz, rate, amplitudes.tolist()) * gates
