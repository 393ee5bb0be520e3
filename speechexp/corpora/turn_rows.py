"""Rows of recordings whose reference is who speaks when, and what every data set of them lets one set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from rich.markup import escape

from speechexp.audio import Extent
from speechexp.console import say
from speechexp.errors import UserError
from speechexp.manifest import Row
from speechexp.rttm import Fault, Faults, Placed, mend, refuse
from speechexp.turns import Reference, Turn, cut, merged, write_reference

Channels = Literal["mix", "separate"]
Stretch = tuple[float, float]


class TurnRows:
    """Makes rows of recordings and their turns, and counts what it mends.

    Args:
        last_seconds: Take this much from the end of each recording alone; None takes all of it.
        faults: What is done about turns that can't be as they are: ``refuse`` stops, ``mend`` cuts them to the audio,
            merges those of one speaker that overlap, leaves out what has no length, and counts all that.
        channels: ``mix`` averages a recording's channels, ``separate`` makes each a recording of its own.

    Raises:
        UserError: A setting is none of these.
    """

    def __init__(self, last_seconds: float | None, faults: Faults, channels: Channels) -> None:
        if last_seconds is not None and not last_seconds > 0:
            raise UserError(
                f"data.last_seconds={last_seconds} must be a number of seconds, such as 15, or null for all."
            )
        for name, value, choices in (
            ("faults", faults, get_args(Faults)),
            ("channels", channels, get_args(Channels)),
        ):
            if value not in choices:
                raise UserError(f"data.{name}={value} must be {' or '.join(choices)}.")
        self.last_seconds = last_seconds
        self.faults = faults
        self.channels = channels
        self.key = f"{last_seconds}|{faults}|{channels}"  # what decides, beside the source, what rows hold
        self.forget()

    @property
    def described(self) -> str:
        """What of a recording is taken, as part of a description."""
        return f", last {self.last_seconds:g} s" if self.last_seconds is not None else ""

    def forget(self) -> None:
        """Count from nothing."""
        self.found: list[Fault] = []
        self.recordings = self.mixed = self.without_speech = 0

    def add(self, faults: Sequence[Fault]) -> None:
        """Count faults that are none of a single recording's turns."""
        self.found += faults

    def check(self) -> None:
        """Raise for the faults that were found, if they are refused.

        Raises:
            UserError: It tells the first few.
        """
        if self.faults == "refuse":
            refuse(self.found)

    def tell(self, source: str) -> None:
        """Say in a line each what was mended, which recordings were mixed down, and where nobody speaks."""
        if self.found:
            kinds = Counter(fault.kind for fault in self.found).most_common()
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds)
            say(f"mended in {escape(source)}: {counts} (data.faults=refuse stops at them instead)")
        if self.mixed:
            say(
                f"{self.mixed} of {self.recordings} recordings have several channels, which are mixed down "
                "(data.channels=separate makes each a recording of its own)"
            )
        if self.without_speech:
            say(f"{self.without_speech} of {self.recordings} recordings have no turns: nobody speaks there")

    def row(
        self,
        name: str,
        split: str,
        audio: bytes | Path,
        extent: Extent | None,
        turns: Sequence[Placed],
        scored: Sequence[Stretch] | None = None,
        channel: int | None = None,
    ) -> Row:
        """Make a row, its faults mended: see `check`.

        Args:
            name: The row's id.
            split: ``train``, ``validation`` or ``test``.
            audio: An encoded file's bytes, or its path.
            extent: Of all of it; None if it can't be read or is passed over: then nothing else is looked at.
            turns: On the clock of the whole recording, faults and all.
            scored: What is scored of it, as a UEM file says.
            channel: The only one to take, from 1.

        Raises:
            UserError: Nothing of the recording is scored.
        """
        if extent is None:
            return Row(name, split, audio, write_reference(Reference(())), channel=channel)
        settled, found = mend(turns, extent.seconds)
        self.add(found)
        self.recordings += 1
        self.mixed += extent.channels > 1 and channel is None
        self.without_speech += not settled
        if scored is not None and not cut([Turn(*each, "") for each in scored], 0.0, extent.seconds):
            raise UserError(
                f"The UEM of {name} scores nothing of it: the recording ends at {extent.seconds:.3f} s. Correct the "
                "UEM, or take it away to score all of the recording."
            )
        reference, stretch = self._last(settled, scored, extent.seconds)
        return Row(name, split, audio, write_reference(reference), channel=channel, stretch=stretch)

    def _last(
        self, turns: Sequence[Turn], scored: Sequence[Stretch] | None, seconds: float
    ) -> tuple[Reference, Stretch | None]:
        """Return the reference of what is taken, on its own clock, and where it lies in the recording."""
        start = 0.0 if self.last_seconds is None else max(seconds - self.last_seconds, 0.0)
        moved = (
            Turn(_since(each.start, start), _since(each.end, start), each.speaker)
            for each in cut(turns, start, seconds)
        )
        evaluated = None
        if scored is not None:
            stretches = cut([Turn(*each, "") for each in scored], start, seconds)
            evaluated = tuple((_since(each.start, start), _since(each.end, start)) for each in stretches)
        return Reference(merged(moved), evaluated), (start, seconds) if start else None


def _since(time: float, start: float) -> float:
    """Return a time on the clock that begins at another; a nanosecond's rounding keeps decimals as written."""
    return round(time - start, 9)
