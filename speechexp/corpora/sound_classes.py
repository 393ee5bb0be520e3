"""The classes of the generated sounds: AudioSet's names and ids (Gemmeke et al. 2017), and who makes each."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np

from speechexp.corpora import sound_signals as signals
from speechexp.corpora import sound_sources as sources
from speechexp.corpora.sound_waves import Samples
from speechexp.labels import SoundClass

Maker: TypeAlias = Callable[[np.random.Generator, float, int], Samples]


@dataclass(frozen=True)
class Sound:
    """A class and how it comes about.

    Attributes:
        label: AudioSet's name and id.
        weight: how often it is drawn, relative to the others.
        min_seconds: what it takes to tell it by its cadence.
        make: generator, seconds, samples a second → `(samples,)`; None where another module does that.
    """

    label: SoundClass
    weight: int
    min_seconds: float
    make: Maker | None


SPEECH = Sound(SoundClass("Speech", "/m/09x0r"), 6, 0.8, None)
SILENCE = Sound(SoundClass("Silence", "/m/028v0c"), 5, 1.0, None)
WHITE_NOISE = Sound(SoundClass("White noise", "/m/0chx_"), 4, 0.6, sources.white_noise)
PINK_NOISE = Sound(SoundClass("Pink noise", "/m/0cj0r"), 3, 0.6, sources.pink_noise)
_MAINS_HUM = Sound(SoundClass("Mains hum", "/m/06xkwv"), 4, 0.6, sources.mains_hum)
_SINE = Sound(SoundClass("Sine wave", "/m/01v_m0"), 6, 1.0, sources.sine_wave)
_CHIRP = Sound(SoundClass("Chirp tone", "/m/0hdsk"), 6, 0.6, sources.chirp_tone)
_SIREN = Sound(SoundClass("Siren", "/m/03kmc9"), 6, 1.8, signals.siren)
_FOGHORN = Sound(SoundClass("Foghorn", "/m/04fq5q"), 2, 1.0, signals.foghorn)
_DIAL_TONE = Sound(SoundClass("Dial tone", "/m/015jpf"), 3, 0.6, signals.dial_tone)
_BUSY = Sound(SoundClass("Busy signal", "/m/01z47d"), 3, 1.4, signals.busy_signal)
_DTMF = Sound(SoundClass("Telephone dialing, DTMF", "/m/02c8p"), 4, 0.9, signals.telephone_dialing)
_BELL = Sound(SoundClass("Telephone bell ringing", "/m/07pp8cl"), 5, 0.9, signals.telephone_bell)
_RINGTONE = Sound(SoundClass("Ringtone", "/m/01hnzm"), 5, 0.9, signals.ringtone)

SOUNDS = (
    SPEECH,
    _SINE,
    _CHIRP,
    WHITE_NOISE,
    PINK_NOISE,
    _MAINS_HUM,
    Sound(SoundClass("Clicking", "/m/07qc9xj"), 6, 1.0, sources.clicking),
    _DIAL_TONE,
    _BUSY,
    _DTMF,
    _BELL,
    _RINGTONE,
    _SIREN,
    Sound(SoundClass("Smoke detector, smoke alarm", "/m/01y3hg"), 3, 2.4, signals.smoke_alarm),
    Sound(SoundClass("Buzzer", "/m/030rvx"), 4, 0.8, signals.buzzer),
    _FOGHORN,
    SILENCE,
)

SOUND_CLASSES: tuple[SoundClass, ...] = tuple(sound.label for sound in SOUNDS)
SOUND_OF = {sound.label.name: sound for sound in SOUNDS}

# Within a group, one would hide the other or be taken for it; besides, a telephone does one thing at a time.
_APART = (
    (WHITE_NOISE, PINK_NOISE),
    (_MAINS_HUM, _FOGHORN),
    (_CHIRP, _SIREN),
    (_DIAL_TONE, _BUSY, _DTMF, _BELL, _RINGTONE),
    (_SINE, _DIAL_TONE),
    (_SINE, _BUSY),
)
NEVER_TOGETHER = frozenset(
    frozenset(sound.label.name for sound in pair) for group in _APART for pair in combinations(group, 2)
)


def classes_fingerprint() -> str:
    """Return a text that changes whenever the classes, their shares or what excludes what do."""
    apart = sorted(sorted(pair) for pair in NEVER_TOGETHER)
    return repr(([(str(sound.label), sound.weight, sound.min_seconds) for sound in SOUNDS], apart))
