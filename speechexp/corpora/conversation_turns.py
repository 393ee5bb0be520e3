"""Who speaks when in a generated conversation: turns, pauses, interruptions and back-channels."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from speechexp.corpora.sound_speech import fit_speech
from speechexp.corpora.sound_waves import Samples, active_power
from speechexp.corpora.spanish_sentences import draw_sentence
from speechexp.corpora.spanish_voices import SAMPLE_RATE, Voice, draw_voices
from speechexp.turns import Turn, merged

# `EspeakNg.speak`, or what stands in for it: samples at ESPEAK_SAMPLE_RATE.
Speak: TypeAlias = Callable[[str, Voice], npt.NDArray[np.int16]]

SPEAKERS = ("A", "B", "C", "D")

# All speech begins and ends at whole milliseconds, which is what an RTTM file can say.
GRID = SAMPLE_RATE // 1000

BACK_CHANNELS = ("sí", "ya", "claro", "vale", "ajá", "bueno", "eso", "exacto", "entiendo", "mm", "qué bien")
ANSWERS = (
    *("claro que sí", "por supuesto", "creo que no", "¿de verdad?", "no me digas", "tienes razón"),
    *("de acuerdo", "muy bien", "no lo sé todavía", "a mí me parece bien"),
)

SHORTEST_TURN, LONGEST_TURN = 0.6, 8.0
_SHORTEST_FIRST_TURN = 2.0
# Pauses within a turn are short enough to belong to it.
BREATHS = (0.05, 0.2)

_PITCHES = (25, 75)
_PITCH_STEP = 18
# Variants that are one voice under several names.
_ONE_VOICE = ("steph steph2 steph3", "iven iven2 iven3 iven4", "Reed adam", "Gene Gene2", "edward edward2")

_SHORT_SHARE = 0.2
_SAME_AGAIN = 0.2
_PAUSE_MEDIAN, _PAUSE_SIGMA = 0.4, 0.7
_LONG_PAUSE_SHARE, _LONG_PAUSES = 0.05, (1.5, 4.0)
_INTERRUPTED_SHARE, _INTERRUPTIONS = 0.42, (0.2, 2.2)
_BACK_CHANNEL_EVERY = 2.5
_BACK_CHANNEL_SHARE = 0.4
# Nobody speaks twice within this, or it would be one turn.
_REST = 0.3
_CLEAR = 0.1


@dataclass(frozen=True)
class Said:
    """A stretch of one speaker's speech.

    Attributes:
        speaker: his place in `SPEAKERS`.
        first: the sample it begins at, a multiple of `GRID`.
        samples: `(samples,)` at `SAMPLE_RATE`, a multiple of `GRID`; its active frames have power 1.
    """

    speaker: int
    first: int
    samples: Samples

    @property
    def end(self) -> float:
        """Seconds."""
        return (self.first + self.samples.size) / SAMPLE_RATE

    @property
    def turn(self) -> Turn:
        """When it is said, by whom."""
        start, end = self.first // GRID / 1000, (self.first + self.samples.size) // GRID / 1000
        return Turn(start, end, SPEAKERS[self.speaker])


def turns_of(said: Sequence[Said]) -> tuple[Turn, ...]:
    """Return the reference of a conversation."""
    return merged(each.turn for each in said)


def draw_partners(split: str, count: int, rng: random.Random) -> tuple[Voice, ...]:
    """Draw the voices of one conversation, of a split's variants.

    No two are of one variant, and those of one gender differ in pitch, so that an encoder of voices can tell them
    apart.
    """
    partners: list[Voice] = []
    while len(partners) < count:
        (voice,) = draw_voices(split, 1, rng)
        voice = replace(voice, pitch=rng.randint(*_PITCHES))
        if all(are_distinct(voice, other) for other in partners):
            partners.append(voice)
        elif rng.random() < 0.02:
            partners.clear()  # what was drawn first may leave no room
    return tuple(partners)


def are_distinct(voice: Voice, other: Voice) -> bool:
    """Tell whether two voices can be told apart: in their variants, and in gender or pitch."""
    if voice.variant == other.variant or any(
        {voice.variant, other.variant} <= set(names.split()) for names in _ONE_VOICE
    ):
        return False
    return voice.gender != other.gender or abs(voice.pitch - other.pitch) >= _PITCH_STEP


def converse(voices: Sequence[Voice], seconds: float, rng: random.Random, speak: Speak) -> list[Said]:
    """Let some voices talk; at most two at once.

    Args:
        voices: one of each speaker.
        seconds: how long the recording is.
        rng: of all that is drawn.
        speak: says a text in a voice.

    Returns:
        What is said, in the order of its beginning.
    """
    talk = _Talk(voices, seconds, rng, speak)
    while talk.go_on():
        pass
    return sorted(talk.said, key=lambda said: (said.first, said.speaker))


class _Talk:
    def __init__(self, voices: Sequence[Voice], seconds: float, rng: random.Random, speak: Speak) -> None:
        self.voices, self.rng, self.speak = voices, rng, speak
        self.last = seconds - rng.uniform(0.1, 0.5)
        self.longest = min(LONGEST_TURN, seconds / 5)
        self.eagerness = [rng.uniform(0.5, 1.5) for _ in voices]
        self.said: list[Said] = []
        self.turn: Said | None = None  # the one that goes on, or was the last
        self.had_turns: set[int] = set()
        self.clear = rng.uniform(0.1, 1.0)  # from here on nobody speaks but in `turn`
        self.silent_until = [0.0] * len(voices)

    def go_on(self) -> bool:
        """Add a turn and what is said into it; False when there is no room left."""
        speaker = self._next_speaker()
        onset = self._onset(speaker)
        samples = self._turn(speaker, self.last - onset)
        if samples is None:
            return False
        before = self.turn.end if self.turn else 0.0
        # Whoever interrupts goes on when the other has ended.
        onset = max(onset, before - 0.8 * samples.size / SAMPLE_RATE)
        if onset + samples.size / SAMPLE_RATE > self.last:
            return False
        self.turn = self._say(speaker, onset, samples)
        self.had_turns.add(speaker)
        self.clear = max(before, onset)
        self._back_channels(self.turn)
        return True

    def _next_speaker(self) -> int:
        """Draw who speaks next; who has said nothing when his time comes, does then."""
        everyone = range(len(self.voices))
        silent = [each for each in everyone if each not in self.had_turns]
        if self.turn is None:
            return self.rng.choice(everyone)
        if silent and self.turn.end > self.last * len(self.had_turns) / (len(self.voices) + 1):
            return self.rng.choice(silent)
        if self.rng.random() < _SAME_AGAIN:
            return self.turn.speaker
        others = [each for each in everyone if each != self.turn.speaker]
        return self.rng.choices(others, [self.eagerness[each] for each in others])[0]

    def _onset(self, speaker: int) -> float:
        """Draw when a turn begins: after a pause, or before the other's end."""
        rng, turn = self.rng, self.turn
        if turn is None:
            return self.clear
        if speaker != turn.speaker and rng.random() < _INTERRUPTED_SHARE:
            overlap = min(rng.uniform(*_INTERRUPTIONS), 0.6 * turn.samples.size / SAMPLE_RATE)
            earliest = max(self.clear + _CLEAR, self.silent_until[speaker])
            if turn.end - overlap >= earliest:
                return turn.end - overlap
        pause = rng.lognormvariate(np.log(_PAUSE_MEDIAN), _PAUSE_SIGMA)
        if rng.random() < _LONG_PAUSE_SHARE:
            pause = rng.uniform(*_LONG_PAUSES)
        return max(turn.end + pause, self.silent_until[speaker])

    def _back_channels(self, turn: Said) -> None:
        """Let others agree within a turn, where nobody else speaks."""
        others = [each for each in range(len(self.voices)) if each != turn.speaker]
        for _ in range(int(turn.samples.size / SAMPLE_RATE / _BACK_CHANNEL_EVERY)):
            if self.rng.random() > _BACK_CHANNEL_SHARE:
                continue
            speaker = self.rng.choice(others)
            samples = self._spoken(speaker, self.rng.choice(BACK_CHANNELS))
            earliest = max(self.clear + _CLEAR, self.silent_until[speaker], turn.first / SAMPLE_RATE + 0.5)
            latest = turn.end - samples.size / SAMPLE_RATE - _CLEAR
            if earliest < latest:
                self.clear = self._say(speaker, self.rng.uniform(earliest, latest), samples).end

    def _say(self, speaker: int, onset: float, samples: Samples) -> Said:
        said = Said(speaker, -(-round(onset * SAMPLE_RATE) // GRID) * GRID, samples)
        self.said.append(said)
        self.silent_until[speaker] = said.end + _REST
        return said

    def _turn(self, speaker: int, room: float) -> Samples | None:
        """Speak a turn that is no longer than `room` seconds; None if that is too little."""
        first = speaker not in self.had_turns  # by which everybody can be known
        if not first and self.rng.random() < _SHORT_SHARE:
            answer = self._spoken(speaker, self.rng.choice(ANSWERS))
            if SHORTEST_TURN <= answer.size / SAMPLE_RATE <= room:
                return answer
        wanted = self.rng.uniform(_SHORTEST_FIRST_TURN if first else SHORTEST_TURN, self.longest)
        pieces: list[Samples] = []
        seconds = 0.0
        while seconds < wanted:
            breath = round(self.rng.uniform(*BREATHS) * 1000) * GRID if pieces else 0
            sentence = self._spoken(speaker, draw_sentence(self.rng).spoken)
            longer = seconds + (breath + sentence.size) / SAMPLE_RATE
            if longer > (min(room, self.longest) if pieces else room):
                break
            pieces += [np.zeros(breath, dtype=np.float32), sentence]
            seconds = longer
        return np.concatenate(pieces) if pieces else None

    def _spoken(self, speaker: int, text: str) -> Samples:
        samples = fit_speech(self.speak(text, self.voices[speaker]), LONGEST_TURN, SAMPLE_RATE)
        samples = np.pad(samples, (0, -samples.size % GRID))
        return samples / np.float32(np.sqrt(active_power(samples, SAMPLE_RATE)))
