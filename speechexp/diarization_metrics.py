"""Diarization scored exactly: error rates by named conventions, Jaccard errors, detection of speech and of overlap.

Nothing is rounded to frames. A recording is cut wherever a turn, a collar or a scored stretch begins or ends; between
two cuts nothing changes, so that seconds are counted by adding up the lengths in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from speechexp.activity import FloatArray, activity, depth, stretches_of
from speechexp.turns import Reference, Turn, merged

Convention = Literal["collar0_overlap", "collar0.25_overlap", "collar0.25_no_overlap"]
BoolArray = npt.NDArray[np.bool_]


class Rule(NamedTuple):
    """What a convention leaves out of the score.

    Attributes:
        collar_seconds: Before each boundary of the reference, and as much behind it. (``collar`` of pyannote.metrics
            is both together.)
        overlap: Whether stretches where several speakers speak are scored.
    """

    collar_seconds: float
    overlap: bool


CONVENTIONS: Mapping[Convention, Rule] = {
    "collar0_overlap": Rule(0.0, overlap=True),  # DIHARD's, and of most figures that pyannote reports
    "collar0.25_overlap": Rule(0.25, overlap=True),  # of NIST's later evaluations and VoxConverse
    "collar0.25_no_overlap": Rule(0.25, overlap=False),  # of most figures on CallHome: the most lenient
}
WATCHED: Convention = "collar0_overlap"

_SHORTEST = 1e-6  # seconds; what is shorter comes from rounding


@dataclass(frozen=True)
class Components:
    """What a diarization error rate is made of, in seconds; a second with two speakers counts twice.

    Attributes:
        speech: Of the reference.
        false_alarm: Where the hypothesis has more speakers, those beyond.
        missed: Where it has fewer, those it lacks.
        confusion: Of the others, those that are not the right ones.
    """

    speech: float
    false_alarm: float
    missed: float
    confusion: float

    @property
    def error(self) -> float:
        """All errors together, in seconds."""
        return self.false_alarm + self.missed + self.confusion

    @property
    def rate(self) -> float | None:
        """The diarization error rate; None if the reference has no speech."""
        return self.error / self.speech if self.speech > 0 else None


@dataclass(frozen=True)
class Detected:
    """How well a kind of stretch was found, whoever speaks, in seconds.

    Attributes:
        reference: How long the reference has it.
        hypothesis: How long the hypothesis has it.
        both: How long both have it at once.
    """

    reference: float
    hypothesis: float
    both: float


@dataclass(frozen=True)
class FileScore:
    """What scoring a recording gives; `figures` makes rates of one or many.

    Attributes:
        components: By convention.
        mapping: Hypothesis speakers to reference speakers, under `WATCHED`; speakers with no counterpart are not in it.
        jaccard: The Jaccard error of each reference speaker who speaks in the scored stretches, 0 to 1.
        hypothesis_speakers: How many speak there in the hypothesis.
        speech: Of stretches with one speaker or more.
        overlap: Of stretches with several.
    """

    components: Mapping[Convention, Components]
    mapping: Mapping[str, str]
    jaccard: Mapping[str, float]
    hypothesis_speakers: int
    speech: Detected
    overlap: Detected

    @property
    def der(self) -> float | None:
        """The diarization error rate under `WATCHED`; None if the reference has no speech."""
        return self.components[WATCHED].rate

    @property
    def speaker_count_error(self) -> int:
        """Speakers of the hypothesis less those of the reference."""
        return self.hypothesis_speakers - len(self.jaccard)


def score_file(reference: Reference, hypothesis: Sequence[Turn], seconds: float) -> FileScore:
    """Score a hypothesis.

    Each convention has the one-to-one mapping of speakers that makes its own confusion least, as in NIST's md-eval and
    pyannote.metrics: Fiscus et al. (2006), "The Rich Transcription 2006 Spring Meeting Recognition Evaluation". Overlap
    counts as in Galibert (2013), "Methodologies for the evaluation of speaker diarization and automatic speech
    recognition in the presence of overlapping speech". The Jaccard errors are those of Ryant et al. (2019), "The Second
    DIHARD Diarization Challenge", under the mapping of `WATCHED`.

    Args:
        reference: Who really speaks, and what is scored.
        hypothesis: In any order; where turns of one speaker overlap, the speaker counts once.
        seconds: The length of the recording, all of which is scored if the reference says nothing else.
    """
    scored = ((0.0, seconds),) if reference.scored is None else reference.scored
    turns, found = merged(reference.turns), merged(hypothesis)
    boundaries = np.array([time for turn in turns for time in (turn.start, turn.end)], dtype=np.float64)
    collars = {
        rule.collar_seconds: boundaries[:, None] + rule.collar_seconds * np.array([-1.0, 1.0])
        for rule in CONVENTIONS.values()
        if rule.collar_seconds
    }
    stretches = np.array(scored, dtype=np.float64).reshape(-1, 2)
    times = [boundaries, *(np.ravel(each) for each in (stretches_of(found), stretches, *collars.values()))]
    cuts = np.unique(np.concatenate(times))
    inside = np.diff(cuts) * (depth(stretches, cuts) > 0)
    speakers, speaking = activity(turns, cuts)
    voices, voicing = activity(found, cuts)
    count, count_found = speaking.sum(axis=0), voicing.sum(axis=0)

    components: dict[Convention, Components] = {}
    mapping: dict[int, int] = {}
    for convention, rule in CONVENTIONS.items():
        weights = inside
        if rule.collar_seconds:
            weights = weights * (depth(collars[rule.collar_seconds], cuts) == 0)
        if not rule.overlap:
            weights = weights * (count < 2)
        together = (voicing * weights) @ speaking.T
        pairs = _best_pairs(together)
        right = sum(together[pair] for pair in pairs)
        components[convention] = Components(
            speech=float(weights @ count),
            false_alarm=float(weights @ np.maximum(count_found - count, 0)),
            missed=float(weights @ np.maximum(count - count_found, 0)),
            confusion=max(float(weights @ np.minimum(count, count_found) - right), 0.0),
        )
        if convention == WATCHED:
            mapping = dict(pairs)
    spoken, voiced = speaking @ inside, voicing @ inside
    return FileScore(
        components=components,
        mapping={voices[voice]: speakers[speaker] for voice, speaker in mapping.items()},
        jaccard=_jaccard(speakers, spoken, voiced, (voicing * inside) @ speaking.T, mapping),
        hypothesis_speakers=int((voiced > _SHORTEST).sum()),
        speech=_detected(count > 0, count_found > 0, inside),
        overlap=_detected(count > 1, count_found > 1, inside),
    )


def figures(files: Sequence[FileScore]) -> dict[str, float]:
    """Return the figures of one recording or of many by name; seconds are added up before they are divided.

    Shares of the reference's speech, which add up to the error rate: ``false_alarm_…``, ``missed_…``, ``confusion_…``
    and ``der_…`` for each of `CONVENTIONS`. ``der`` is that of `WATCHED`. ``jer`` is a mean over reference speakers,
    ``speaker_count_error`` (without its sign) and ``speaker_count_right`` are means over recordings. A figure that
    would divide by nothing is left out, but ``der``, which is nan.
    """
    found: dict[str, float] = {"der": float("nan")}
    for convention in CONVENTIONS:
        parts = [file.components[convention] for file in files]
        speech = sum(part.speech for part in parts)
        if speech > 0:
            found[f"der_{convention}"] = sum(part.error for part in parts) / speech
            found[f"false_alarm_{convention}"] = sum(part.false_alarm for part in parts) / speech
            found[f"missed_{convention}"] = sum(part.missed for part in parts) / speech
            found[f"confusion_{convention}"] = sum(part.confusion for part in parts) / speech
    found["der"] = found.get(f"der_{WATCHED}", found["der"])
    errors = [error for file in files for error in file.jaccard.values()]
    if errors:
        found["jer"] = sum(errors) / len(errors)
    if files:
        found["speaker_count_error"] = sum(abs(file.speaker_count_error) for file in files) / len(files)
        found["speaker_count_right"] = sum(file.speaker_count_error == 0 for file in files) / len(files)
    found |= _detection_figures("detection", [file.speech for file in files], with_errors=True)
    return found | _detection_figures("overlap", [file.overlap for file in files], with_errors=False)


def _detection_figures(name: str, parts: Sequence[Detected], with_errors: bool) -> dict[str, float]:
    """Return precision, recall and F1, and errors as shares of what the reference has."""
    reference, hypothesis, both = (
        sum(getattr(part, field) for part in parts) for field in ("reference", "hypothesis", "both")
    )
    found: dict[str, float] = {}
    if reference > 0 and with_errors:
        found[f"{name}_false_alarm"] = (hypothesis - both) / reference
        found[f"{name}_missed"] = (reference - both) / reference
        found[f"{name}_error"] = found[f"{name}_false_alarm"] + found[f"{name}_missed"]
    if hypothesis > 0:
        found[f"{name}_precision"] = both / hypothesis
    if reference > 0:
        found[f"{name}_recall"] = both / reference
    if reference + hypothesis > 0:
        found[f"{name}_f1"] = 2 * both / (reference + hypothesis)
    return found


def _best_pairs(together: FloatArray) -> list[tuple[int, int]]:
    """Return the one-to-one pairs with most seconds together; those that never speak at once are no pair."""
    rows, columns = linear_sum_assignment(together, maximize=True)
    return [
        (int(row), int(column))
        for row, column in zip(rows, columns, strict=True)
        if together[row, column] > _SHORTEST
    ]


def _jaccard(
    speakers: Sequence[str],
    spoken: FloatArray,
    voiced: FloatArray,
    together: FloatArray,
    mapping: Mapping[int, int],
) -> dict[str, float]:
    """Return one less the seconds that both speak over those that either does, of each speaker who speaks."""
    counterparts = {speaker: voice for voice, speaker in mapping.items()}
    found = {}
    for index, speaker in enumerate(speakers):
        if spoken[index] <= _SHORTEST:
            continue
        voice = counterparts.get(index)
        both = 0.0 if voice is None else together[voice, index]
        either = spoken[index] + (0.0 if voice is None else voiced[voice]) - both
        found[speaker] = float(1 - both / either)
    return found


def _detected(reference: BoolArray, hypothesis: BoolArray, weights: FloatArray) -> Detected:
    return Detected(
        float(weights @ reference), float(weights @ hypothesis), float(weights @ (reference & hypothesis))
    )
