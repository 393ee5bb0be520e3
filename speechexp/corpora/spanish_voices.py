"""Spanish voices: espeak-ng in this process, through the library that the `espeakng-loader` wheel carries.

espeak-ng keeps state between calls, so what it says depends on what it said before, and two threads at
once abort the process. Whoever needs the same samples every time makes the same calls, in the same order,
in a fresh process and from one thread.
"""

import ctypes
import io
import os
import random
import wave
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
ESPEAK_SAMPLE_RATE = 22_050
_UP, _DOWN = 320, 441  # 16,000 / 22,050

# Sides of 0.05 s keep a voice's weak first and last sounds, which lie under the threshold.
SILENCE_SECONDS = 0.05
SILENCE_BELOW_PEAK = 0.01

LANGUAGES = ("es", "es-419")

# Words a minute as espeak counts them: about 14 to 21 letters a second. Faster speech would leave
# networks of 25 frames a second too few frames for their letters.
RATES = (150, 200)
# Variants that hurry at any rate, slowed to the pace of the others.
_HURRIED, _SLOWER = ("Andrea", "RicishayMax2", "RicishayMax3", "anika", "antonio", "pedro"), 0.83
# 0 to 99, where 50 is the voice's own pitch.
PITCHES = (35, 65)
PEAKS = (0.2, 0.9)

# Genders as the variants' own files declare them; undeclared ones by name and pitch (men 68 to 127 Hz,
# women 172 to 272 Hz). Left out are voices no person has (robosoft*, whisper*, croak, Demonic, UniRobot,
# anikaRobot, Marco, zac, caleb, AnxiousAndy, announcer), a timing test (fast), one that clips (klatt5),
# one that declares itself English (Storm), one whose name has a space (Mr serious), and three whose second formant
# is moved 1.5 times as far as the first, which no vocal tract does (travis, kaukovalta, shelby; all others: 1.23).
_VARIANTS_BY_GENDER = {
    "male": "Alex Andy Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Mario Michael Mike Reed adam antonio "
    "benjamin boris david ed edward edward2 grandpa gustave ian iven iven2 iven3 iven4 john m1 m2 m3 m4 m5 "
    "m6 m7 m8 marcelo max michel miguel mike2 norbert pablo paul pedro quincy rob robert sandro victor",
    "female": "Alicia Andrea Annie anika aunty belinda f1 f2 f3 f4 f5 grandma linda steph steph2 steph3",
    "other": "Nguyen RicishayMax RicishayMax2 RicishayMax3 Tweaky klatt klatt2 klatt3 klatt4 klatt6",
}
GENDERS = tuple(_VARIANTS_BY_GENDER)  # in FLEURS's order
GENDER_OF = {name: gender for gender, names in _VARIANTS_BY_GENDER.items() for name in names.split()}

# Some variants are one voice under several names (steph*, iven*, Reed and adam): none of these is held out.
_HELD_OUT = {
    "validation": ("Annie", "f2", "ed", "m7", "pablo", "quincy"),
    "test": ("f5", "aunty", "antonio", "m4", "marcelo", "norbert"),
}
VARIANTS = {
    "train": tuple(v for v in sorted(GENDER_OF) if not any(v in held for held in _HELD_OUT.values())),
    **_HELD_OUT,
}


@dataclass(frozen=True)
class Voice:
    """One way of speaking: an espeak-ng variant with its settings.

    Attributes:
        language: espeak's name of the accent, one of `LANGUAGES`.
        variant: a file of espeak's `voices/!v` folder, one of `GENDER_OF`.
        rate: words a minute.
        pitch: 0 to 99.
        peak: largest absolute sample, 1.0 being full scale.
    """

    language: str
    variant: str
    rate: int
    pitch: int
    peak: float

    @property
    def gender(self) -> str:
        """One of `GENDERS`."""
        return GENDER_OF[self.variant]


def draw_voices(split: str, count: int, rng: random.Random) -> list[Voice]:
    """Draw voices for a split, each variant as often as any other (give or take one)."""
    deck: list[str] = []
    voices = []
    for _ in range(count):
        if not deck:
            deck = rng.sample(VARIANTS[split], len(VARIANTS[split]))
        variant = deck.pop()
        slower = _SLOWER if variant in _HURRIED else 1.0
        voices.append(
            Voice(
                language=rng.choice(LANGUAGES),
                variant=variant,
                rate=round(slower * rng.randint(*RATES)),
                pitch=rng.randint(*PITCHES),
                peak=round(rng.uniform(*PEAKS), 3),
            )
        )
    return voices


def voices_fingerprint() -> str:
    """Return a text that changes whenever the voices or their treatment do."""
    speaking = (LANGUAGES, RATES, _HURRIED, _SLOWER, PITCHES, PEAKS)
    return repr((GENDER_OF, VARIANTS, speaking, SILENCE_SECONDS, SILENCE_BELOW_PEAK))


def import_loader() -> ModuleType:
    """Import `espeakng_loader`, whose wheel carries espeak-ng.

    Raises:
        ImportError: when it is not installed; the message says how to.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(
            "The Spanish mini corpus is spoken by espeak-ng, but espeakng_loader cannot be imported. "
            "Install it: pip install espeakng-loader"
        ) from error
    module: ModuleType = espeakng_loader
    return module


class EspeakNg:
    """The espeak-ng library, ready to speak. At most one object a process, used from one thread.

    Raises:
        ImportError: when `espeakng-loader` is not installed.
        RuntimeError: when the library does not start.
    """

    # Values of enumerations in espeak-ng's speak_lib.h.
    _AUDIO_OUTPUT_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
    # Most sentences fit into one piece; every piece costs a wait for the interpreter's lock.
    _PIECE_MILLISECONDS = 5000
    _CHARS_UTF8 = 1
    _RATE, _PITCH = 1, 3

    def __init__(self) -> None:
        espeakng_loader = import_loader()
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_Synth.argtypes = (
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
            *(ctypes.c_void_p, ctypes.c_void_p),
        )
        self._chunks: list[bytes] = []
        # The library keeps only a pointer to the callback, so this object must hold it alive.
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = callback_type(self._collect)
        data_path = os.fsencode(espeakng_loader.get_data_path())
        sample_rate = self._library.espeak_Initialize(
            self._AUDIO_OUTPUT_SYNCHRONOUS, self._PIECE_MILLISECONDS, data_path, self._DONT_EXIT
        )
        if sample_rate != ESPEAK_SAMPLE_RATE:
            raise RuntimeError(
                f"espeak-ng must start at {ESPEAK_SAMPLE_RATE} Hz, but answered {sample_rate} instead "
                f"(data in {espeakng_loader.get_data_path()})."
            )
        self._library.espeak_SetSynthCallback(self._callback)
        # Breath is noise, of another seed in every process unless it is set.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))

    def speak(self, text: str, voice: Voice) -> npt.NDArray[np.int16]:
        """Say a text.

        Returns:
            `(samples,)` at `ESPEAK_SAMPLE_RATE`, as loud as the variant is; `voice.peak` is not applied.

        Raises:
            RuntimeError: when espeak-ng does not know the voice, or gives no sound.
        """
        name = f"{voice.language}+{voice.variant}"
        self._check(self._library.espeak_SetVoiceByName(name.encode()), f"voice {name!r}")
        self._check(self._library.espeak_SetParameter(self._RATE, voice.rate, 0), f"rate {voice.rate}")
        self._check(self._library.espeak_SetParameter(self._PITCH, voice.pitch, 0), f"pitch {voice.pitch}")
        self._chunks.clear()
        data = text.encode()
        status = self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, self._CHARS_UTF8, None, None)
        self._check(status, f"text {text!r}")
        samples = np.frombuffer(b"".join(self._chunks), dtype=np.int16)
        if not samples.any():
            raise RuntimeError(f"espeak-ng gave no sound for {text!r} with voice {name!r}.")
        return samples

    def _collect(self, samples: int | None, num_samples: int, _events: int | None) -> int:
        if samples and num_samples > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * num_samples))
        return 0  # Go on.

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status != 0:
            raise RuntimeError(f"espeak-ng refused {what} with status {status}.")


@cache
def _low_pass() -> npt.NDArray[np.float32]:
    """Return the filter that resample_poly would design anew, at 1 ms, for every utterance."""
    from scipy.signal import firwin

    taps = firwin(2 * 10 * _DOWN + 1, 1 / _DOWN, window=("kaiser", 5.0))
    return np.asarray(taps, dtype=np.float32)


def finish(samples: npt.NDArray[np.int16], peak: float) -> npt.NDArray[np.int16]:
    """Resample what espeak-ng said, leave `SILENCE_SECONDS` of silence on either side, and set its level.

    Args:
        samples: `(samples,)` at `ESPEAK_SAMPLE_RATE`.
        peak: largest absolute sample of the result, 1.0 being full scale.

    Returns:
        `(samples,)` at `SAMPLE_RATE`.
    """
    from scipy.signal import resample_poly

    # scipy takes the filter's taps as `window` (its documentation says so; the stubs do not).
    audio: npt.NDArray[np.float32] = resample_poly(
        samples.astype(np.float32),
        _UP,
        _DOWN,
        window=_low_pass(),  # type: ignore[call-overload]
    )
    level = np.abs(audio)
    loud = np.flatnonzero(level > SILENCE_BELOW_PEAK * level.max())
    margin = round(SILENCE_SECONDS * SAMPLE_RATE)
    audio = np.pad(audio, margin)[loud[0] : loud[-1] + 1 + 2 * margin]
    finished: npt.NDArray[np.int16] = np.round(audio * (peak * 32767 / level.max())).astype(np.int16)
    return finished


def to_wav(samples: npt.NDArray[np.int16]) -> bytes:
    """Encode `(samples,)` as a mono WAV file at `SAMPLE_RATE`."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples.tobytes())
    return file.getvalue()
