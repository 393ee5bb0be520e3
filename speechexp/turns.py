"""Who spoke when: speech turns, how a reference is written, and what can be wrong with one."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Turn:
    """A stretch of one speaker's speech.

    Attributes:
        start: Seconds from the beginning of the recording.
        end: Seconds; after `start`.
        speaker: A name that holds within the recording.
    """

    start: float
    end: float
    speaker: str

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


@dataclass(frozen=True)
class Reference:
    """Who really speaks when in a recording.

    Attributes:
        turns: Sorted; turns of the same speaker neither overlap nor touch.
        scored: What is scored, as sorted stretches (start, end) in seconds, which a UEM file gives; None for the
            whole recording.
    """

    turns: tuple[Turn, ...]
    scored: tuple[tuple[float, float], ...] | None = None

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers, sorted."""
        return tuple(sorted({turn.speaker for turn in self.turns}))


def write_reference(reference: Reference) -> str:
    """Return a reference as the text that manifests keep: JSON, times in seconds."""
    content: dict[str, object] = {"turns": [[turn.start, turn.end, turn.speaker] for turn in reference.turns]}
    if reference.scored is not None:
        content["scored"] = [list(stretch) for stretch in reference.scored]
    return json.dumps(content, ensure_ascii=False)


def read_reference(text: str) -> Reference:
    """Return the reference that `write_reference` has written."""
    content = json.loads(text)
    scored = content.get("scored")
    return Reference(
        tuple(Turn(start, end, speaker) for start, end, speaker in content["turns"]),
        None if scored is None else tuple((start, end) for start, end in scored),
    )


def merged(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Return turns sorted, those of one speaker that overlap or touch as one."""
    last: dict[str, Turn] = {}
    done: list[Turn] = []
    for turn in sorted(turns):
        before = last.get(turn.speaker)
        if before is not None and turn.start <= before.end:
            last[turn.speaker] = Turn(before.start, max(before.end, turn.end), turn.speaker)
            continue
        if before is not None:
            done.append(before)
        last[turn.speaker] = turn
    return tuple(sorted([*done, *last.values()]))


def cut(turns: Sequence[Turn], start: float, end: float) -> tuple[Turn, ...]:
    """Return the parts of turns within a stretch, on the recording's own clock."""
    inside = (Turn(max(turn.start, start), min(turn.end, end), turn.speaker) for turn in turns)
    return tuple(turn for turn in inside if turn.end > turn.start)
