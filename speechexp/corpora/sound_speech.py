"""Speech for the generated sounds: short phrases of six languages, in espeak-ng's voices."""

import random
from dataclasses import replace
from functools import cache
from math import gcd

import numpy as np
import numpy.typing as npt

from speechexp.corpora.sound_waves import Samples, faded
from speechexp.corpora.spanish_voices import ESPEAK_SAMPLE_RATE, Voice, draw_voices

_SILENCE_BELOW_PEAK = 0.01

PHRASES = {
    "en-us": (
        "the train leaves at nine",
        "please close the window",
        "nobody saw the letter",
        "we bought bread and apples",
        "turn left at the bridge",
        "my brother plays the piano",
    ),
    "es": (
        "mañana vamos al mercado",
        "la puerta está abierta",
        "el perro duerme en la cocina",
        "quiero dos cafés",
        "hoy hace mucho viento",
        "mi hermana vive lejos",
    ),
    "de": (
        "der Zug kommt heute später",
        "wir gehen in den Garten",
        "das Fenster ist noch offen",
        "ich habe drei Brüder",
        "morgen wird es regnen",
        "wo liegt mein Schlüssel",
    ),
    "fr": (
        "le bateau part ce soir",
        "il fait froid dehors",
        "nous cherchons une chambre",
        "ma sœur aime la musique",
        "la clé est sur la table",
        "vous prenez du café",
    ),
    "it": (
        "il treno è in ritardo",
        "andiamo a casa insieme",
        "la finestra è chiusa",
        "mio padre lavora qui vicino",
        "domani compro il pane",
        "dove abita tua zia",
    ),
    "pt-br": (
        "o menino corre na praia",
        "amanhã vai chover muito",
        "a porta fica à direita",
        "queremos água e pão",
        "minha avó mora aqui",
        "o livro está na mesa",
    ),
}


def draw_speaker(split: str, rng: random.Random) -> Voice:
    """Draw a voice of a split, speaking any of the languages. No variant is in two splits."""
    (voice,) = draw_voices(split, 1, rng)
    return replace(voice, language=rng.choice(tuple(PHRASES)))


def draw_text(language: str, seconds: float, rng: random.Random) -> str:
    """Draw phrases that take about so many seconds."""
    count = 1 + (seconds > 1.8) + (seconds > 3.4)
    return ", ".join(rng.sample(PHRASES[language], count)) + "."


def speech_fingerprint() -> str:
    """Return a text that changes whenever the phrases do."""
    return repr(PHRASES)


@cache
def _low_pass(up: int, down: int) -> npt.NDArray[np.float32]:
    from scipy.signal import firwin

    taps = firwin(2 * 10 * max(up, down) + 1, 1 / max(up, down), window=("kaiser", 5.0))
    return np.asarray(taps, dtype=np.float32)


def fit_speech(spoken: npt.NDArray[np.int16], seconds: float, rate: int) -> Samples:
    """Trim what espeak-ng said, cut it to at most `seconds`, and resample it.

    Args:
        spoken: `(samples,)` at espeak's rate.
        seconds: the most that is kept.
        rate: of the result, samples a second.
    """
    from scipy.signal import resample_poly

    audio = spoken.astype(np.float32) / 32768
    level = np.abs(audio)
    loud = np.flatnonzero(level > _SILENCE_BELOW_PEAK * level.max())
    audio = audio[loud[0] : loud[-1] + 1][: int(seconds * ESPEAK_SAMPLE_RATE)]
    divisor = gcd(rate, ESPEAK_SAMPLE_RATE)
    up, down = rate // divisor, ESPEAK_SAMPLE_RATE // divisor
    # scipy takes the filter's taps as `window` (its documentation says so; the stubs do not).
    resampled: Samples = resample_poly(audio, up, down, window=_low_pass(up, down))  # type: ignore[call-overload]
    return faded(resampled[: round(seconds * rate)], rate, 0.01)
