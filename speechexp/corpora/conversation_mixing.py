"""From what is said to the recording: the speakers' levels, the room, the noise behind, the telephone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from speechexp.corpora.conversation_turns import Said
from speechexp.corpora.sound_sources import mains_hum
from speechexp.corpora.sound_waves import Samples, active_power, coloured_noise
from speechexp.corpora.spanish_voices import SAMPLE_RATE

TELEPHONE_HERTZ = (300.0, 3400.0)
NOISES = ("white", "pink", "hum", "babble")

_NOISE_WEIGHTS = (3, 4, 2, 2)
_LEVEL_DB = 6.0
_TURN_LEVEL_DB = 1.5
_REVERB_SECONDS = (0.15, 0.5)
_DIRECT_TO_REVERB_DB = (-3.0, 9.0)
_EARLY_SECONDS = (0.002, 0.04)
_EARLY_COUNT = 8
_SNR_DB = (4.0, 22.0)
_BABBLE_SNR_DB = (8.0, 20.0)
_PEAK_DBFS = (-12.0, -1.0)
_LOOP_SECONDS = 60


@dataclass(frozen=True)
class Scene:
    """How a conversation is recorded.

    Attributes:
        levels_db: of each speaker.
        direct_to_reverb_db: of each speaker: far from the microphone it is small.
        reverb_seconds: the room's RT60.
        noise: one of `NOISES`.
        snr_db: of speech, while someone speaks, against the noise.
        telephone: whether it is limited to `TELEPHONE_HERTZ`.
        peak_dbfs: of the recording.
        seed: of the room's echoes and the noise.
    """

    levels_db: tuple[float, ...]
    direct_to_reverb_db: tuple[float, ...]
    reverb_seconds: float
    noise: str
    snr_db: float
    telephone: bool
    peak_dbfs: float
    seed: int


def draw_scene(speakers: int, telephone: bool, rng: random.Random) -> Scene:
    """Draw how a conversation of so many speakers is recorded, by telephone or not."""
    (noise,) = rng.choices(NOISES, _NOISE_WEIGHTS)
    return Scene(
        levels_db=tuple(rng.uniform(-_LEVEL_DB, _LEVEL_DB) for _ in range(speakers)),
        direct_to_reverb_db=tuple(rng.uniform(*_DIRECT_TO_REVERB_DB) for _ in range(speakers)),
        reverb_seconds=rng.uniform(*_REVERB_SECONDS),
        noise=noise,
        snr_db=rng.uniform(*(_BABBLE_SNR_DB if noise == "babble" else _SNR_DB)),
        telephone=telephone,
        peak_dbfs=rng.uniform(*_PEAK_DBFS),
        seed=rng.getrandbits(32),
    )


def mix(said: Sequence[Said], seconds: float, scene: Scene, babble: Samples | None = None) -> Samples:
    """Make the recording of a conversation; what is said begins when it begins in the reference.

    Args:
        said: by the speakers, within the recording.
        seconds: how long the recording is.
        scene: how it is recorded.
        babble: many voices at once, which goes on in a circle; needed where the scene has it.

    Returns:
        `(samples,)` in [-1, 1].
    """
    from scipy.signal import oaconvolve

    rng = np.random.default_rng(scene.seed)
    mixture = np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
    rooms = [_room(scene.reverb_seconds, direct_db, rng) for direct_db in scene.direct_to_reverb_db]
    for each in said:
        level_db = scene.levels_db[each.speaker] + rng.uniform(-_TURN_LEVEL_DB, _TURN_LEVEL_DB)
        heard = oaconvolve(each.samples, rooms[each.speaker])[: mixture.size - each.first]
        mixture[each.first : each.first + heard.size] += np.float32(10 ** (level_db / 20)) * heard
    if scene.telephone:
        mixture = _through_telephone(mixture)
    noise = _noise(scene, mixture.size, rng, babble)
    speech_power, noise_power = active_power(mixture, SAMPLE_RATE), float(np.square(noise).mean())
    mixture += np.float32(np.sqrt(speech_power / noise_power) * 10 ** (-scene.snr_db / 20)) * noise
    mixture *= np.float32(10 ** (scene.peak_dbfs / 20) / np.abs(mixture).max())
    return mixture


def _room(reverb_seconds: float, direct_to_reverb_db: float, rng: np.random.Generator) -> Samples:
    """Draw an impulse response: the direct sound, a few early echoes, and noise that decays.

    The late part is Polack's model (1988, La transmission de l'énergie sonore dans les salles): Gaussian noise whose
    power falls by 60 dB in the reverberation time.
    """
    count = round(reverb_seconds * SAMPLE_RATE)
    echoes = rng.standard_normal(count, dtype=np.float32)
    first, last = (round(seconds * SAMPLE_RATE) for seconds in _EARLY_SECONDS)
    echoes[:last] *= np.linspace(0.0, 1.0, last, dtype=np.float32)
    places = rng.integers(first, last, _EARLY_COUNT)
    echoes[places] += (rng.choice((-1.0, 1.0), _EARLY_COUNT) * rng.uniform(3.0, 12.0, _EARLY_COUNT)).astype(
        np.float32
    )
    echoes *= np.exp(-np.log(1000) * np.arange(count) / count).astype(np.float32)
    echoes[0] = 0.0
    echoes *= np.float32(10 ** (-direct_to_reverb_db / 20) / np.sqrt(np.square(echoes).sum()))
    echoes[0] = 1.0
    return echoes


def _noise(scene: Scene, num_samples: int, rng: np.random.Generator, babble: Samples | None) -> Samples:
    if scene.noise == "babble":
        assert babble is not None
        loop = _through_telephone(babble) if scene.telephone else babble
    elif scene.noise == "hum":
        loop = mains_hum(rng, num_samples / SAMPLE_RATE, SAMPLE_RATE)
        if scene.telephone:
            loop = _through_telephone(loop)
    else:
        # Noise that is hardly heard is used again: drawing it would take a quarter of the time.
        loop = _loop(scene.noise, scene.telephone)
    return np.resize(np.roll(loop, -int(rng.integers(loop.size))), num_samples)


@cache
def _loop(colour: str, telephone: bool) -> Samples:
    slope = {"white": 0.0, "pink": 1.0}[colour]
    noise = coloured_noise(np.random.default_rng(0), _LOOP_SECONDS * SAMPLE_RATE, SAMPLE_RATE, slope)
    return _through_telephone(noise) if telephone else noise


def _through_telephone(samples: Samples) -> Samples:
    from scipy.signal import butter, sosfilt

    filters = butter(4, TELEPHONE_HERTZ, "bandpass", fs=SAMPLE_RATE, output="sos").astype(np.float32)
    return np.asarray(sosfilt(filters, samples), dtype=np.float32)
