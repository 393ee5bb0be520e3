"""Which clips of generated sounds there are: every clip of every split, decided before a sound is made."""

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from speechexp.corpora.sound_classes import (
    NEVER_TOGETHER,
    PINK_NOISE,
    SILENCE,
    SOUNDS,
    SPEECH,
    WHITE_NOISE,
    Sound,
)
from speechexp.corpora.sound_speech import draw_speaker, draw_text
from speechexp.corpora.spanish_voices import Voice

SPLITS = ("train", "validation", "test")

CLIP_SECONDS = (1.0, 2.6)
# Of clips with one, two and three sounds: what is heard alone is soon learnt.
_PARTS_SHARES = {"train": (30, 55, 15), "validation": (55, 38, 7), "test": (55, 38, 7)}
# Levels within 2 dB of the middle: mixed at -4 to 4 dB.
_LEVELS_DB = (-2.0, 2.0)
# Of the sets of three classes, in percent, that belong to each split.
_SPLIT_SHARES = {"train": 70, "validation": 10, "test": 20}

PEAKS_DBFS = (-35.0, -3.0)
# A noise any fainter could be taken for the silence of another clip.
_NOISE_PEAKS_DBFS = (-24.0, -3.0)
_FLOORS_DBFS = (-60.0, -40.0)
_SILENT_FLOORS_DBFS = (-75.0, -58.0)

_RATES = ((48_000, 9), (44_100, 1))
_STEREO_SHARE = 0.3
_FINE_SHARE = 0.1
_LOW_PASS_SHARE, _LOW_PASS_HERTZ = 0.25, (4500.0, 9000.0)
_REVERB_SHARE, _REVERB_SECONDS = 0.15, (0.15, 0.4)
_DIGITAL_SILENCE_SHARE = 0.15


@dataclass(frozen=True)
class Part:
    """One sound of a clip.

    Attributes:
        sound: its class.
        onset: seconds from the clip's beginning.
        seconds: how long it lasts at most.
        level_db: of its active frames, against the clip's other sounds.
        pan: 0 is left, 1 right.
        voice: who speaks, of speech.
        text: what is said, of speech.
    """

    sound: Sound
    onset: float
    seconds: float
    level_db: float
    pan: float
    voice: Voice | None = None
    text: str = ""


@dataclass(frozen=True)
class Clip:
    """One clip before it is made.

    Attributes:
        video_id: eleven characters, as YouTube's ids have, unique in the corpus.
        sounds: its classes, in the order of `SOUNDS`.
        parts: its sounds; none for silence.
        seconds: its length.
        rate: samples a second.
        channels: 1 or 2.
        peak_dbfs: its largest sample; of silence, nothing.
        floor_dbfs: the most that the noise behind the sounds may have; None for digital zeros.
        floor_slope: its colour: see `sound_waves.coloured_noise`.
        low_pass_hertz: where what lies above begins to be damped, or None.
        reverb_seconds: in which the room's sound falls by 60 dB, or None.
        fine: whether all 24 bits are used, or 16 as in most recordings.
        seed: of all that the sounds draw themselves.
        fault: a kind that `sound_rows.faults_of` lists, or None for a good row.
    """

    video_id: str
    sounds: tuple[Sound, ...]
    parts: tuple[Part, ...]
    seconds: float
    rate: int
    channels: int
    peak_dbfs: float
    floor_dbfs: float | None
    floor_slope: float
    low_pass_hertz: float | None
    reverb_seconds: float | None
    fine: bool
    seed: int
    fault: str | None = None


def plan_clips(
    clips: Mapping[str, int], faults: Mapping[str, Mapping[str, int]], seed: int
) -> dict[str, list[Clip]]:
    """Decide every clip, in the order in which they are made and stored.

    Args:
        clips: good clips by split.
        faults: bad ones by split and kind, which come on top.
        seed: of everything.
    """
    plan: dict[str, list[Clip]] = {}
    number = 0
    for split, count in clips.items():
        rng = random.Random(f"sounds/{seed}/{split}")
        kinds = [kind for kind, times in faults[split].items() for _ in range(times)]
        places = dict(zip(rng.sample(range(count + len(kinds)), len(kinds)), kinds, strict=True))
        good, bad = _draw_firsts(rng), _draw_firsts(rng)
        plan[split] = []
        for place in range(count + len(kinds)):
            fault = places.get(place)
            first = next(bad if fault else good)
            plan[split].append(_draw_clip(f"sound{number:06d}", split, first, fault, rng))
            number += 1
    return plan


def split_of(names: frozenset[str]) -> str:
    """Return the one split that a mixture of these three classes belongs to."""
    digest = hashlib.sha256("+".join(sorted(names)).encode()).digest()
    place = int.from_bytes(digest[:4], "big") % 100
    for split, share in _SPLIT_SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("The shares must add up to 100.")


def _draw_firsts(rng: random.Random) -> Iterator[Sound]:
    """Draw the classes that clips are built around: each once, then again as often as its weight says."""
    while True:
        for turn in range(max(sound.weight for sound in SOUNDS)):
            yield from rng.sample(deck := [sound for sound in SOUNDS if sound.weight > turn], len(deck))


def _draw_sounds(split: str, first: Sound, rng: random.Random) -> tuple[Sound, ...]:
    """Choose what else is heard; which three are heard together belongs to one split."""
    (count,) = rng.choices((1, 2, 3), _PARTS_SHARES[split])
    if first is SILENCE or count == 1:
        return (first,)
    others = [sound for sound in SOUNDS if sound not in (first, SILENCE)]
    while True:
        sounds = [first, *rng.choices(others, [sound.weight for sound in others], k=count - 1)]
        names = frozenset(sound.label.name for sound in sounds)
        apart = any(frozenset(pair) in NEVER_TOGETHER for pair in itertools.combinations(names, 2))
        if len(names) == count and not apart and (count < 3 or split_of(names) == split):
            return tuple(sound for sound in SOUNDS if sound in sounds)


def _draw_clip(video_id: str, split: str, first: Sound, fault: str | None, rng: random.Random) -> Clip:
    sounds = _draw_sounds(split, first, rng)
    shortest, longest = CLIP_SECONDS
    seconds = shortest + (longest - shortest) * rng.random() ** 2
    seconds = round(max([seconds, *(sound.min_seconds + 0.1 for sound in sounds)]), 3)
    parts = () if SILENCE in sounds else tuple(_draw_part(sound, split, seconds, rng) for sound in sounds)
    (rate,) = rng.choices([rate for rate, _ in _RATES], [share for _, share in _RATES])
    noisy = WHITE_NOISE in sounds or PINK_NOISE in sounds
    floor: float | None = rng.uniform(*(_FLOORS_DBFS if parts else _SILENT_FLOORS_DBFS))
    if not parts and rng.random() < _DIGITAL_SILENCE_SHARE:
        floor = None
    return Clip(
        video_id=video_id,
        sounds=sounds,
        parts=parts,
        seconds=seconds,
        rate=rate,
        channels=1 + (rng.random() < _STEREO_SHARE),
        peak_dbfs=rng.uniform(*(_NOISE_PEAKS_DBFS if noisy else PEAKS_DBFS)),
        floor_dbfs=floor,
        floor_slope=rng.choice((0.0, 1.0, 2.0)),
        low_pass_hertz=rng.uniform(*_LOW_PASS_HERTZ)
        if not noisy and rng.random() < _LOW_PASS_SHARE
        else None,
        reverb_seconds=rng.uniform(*_REVERB_SECONDS) if rng.random() < _REVERB_SHARE else None,
        fine=rng.random() < _FINE_SHARE,
        seed=rng.getrandbits(63),
        fault=fault,
    )


def _draw_part(sound: Sound, split: str, clip_seconds: float, rng: random.Random) -> Part:
    shortest = max(sound.min_seconds, 0.4 * clip_seconds)
    seconds = clip_seconds if rng.random() < 0.25 else rng.uniform(shortest, clip_seconds)
    voice = draw_speaker(split, rng) if sound is SPEECH else None
    return Part(
        sound=sound,
        onset=rng.uniform(0.0, clip_seconds - seconds),
        seconds=seconds,
        level_db=rng.uniform(*_LEVELS_DB),
        pan=rng.uniform(0.2, 0.8),
        voice=voice,
        text=draw_text(voice.language, seconds, rng) if voice else "",
    )
