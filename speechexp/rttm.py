"""RTTM and UEM files, and what can be wrong with the turns that files or tables give.

Rich Transcription Time Marked files are those of NIST's RT-09 evaluation plan (2009), appendix A; un-partitioned
evaluation maps (UEM) say which stretches of a recording are scored.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from speechexp.errors import UserError, did_you_mean
from speechexp.paths import write_text
from speechexp.turns import Turn, merged

Faults = Literal["refuse", "mend"]

BACKWARDS = "turns without a length"
EARLY = "turns before the beginning"
LATE = "turns past the end of the audio"
OVERLAPPING = "overlaps of a speaker with itself"
UNKNOWN_FILE = "files without a recording"

# Files are written with two or three decimals, of durations too, and a codec may add or take a few frames.
TOLERANCE_SECONDS = 0.05

_SHOWN = 5
_OTHER_RECORDS = (
    *(
        "NOSCORE",
        "NO_RT_METADATA",
        "SEGMENT",
        "LEXEME",
        "NON-LEX",
        "NON-SPEECH",
        "FILLER",
        "EDIT",
        "IP",
        "SU",
    ),
    *("CB", "A/P", "SPKR-INFO"),
)


@dataclass(frozen=True)
class Placed:
    """A turn as a source gives it, which may be impossible, and the place it comes from.

    Attributes:
        turn: Its end may lie before its start, or past the end of the audio.
        where: Of a message: ``calls.rttm:12``, or a table's row.
    """

    turn: Turn
    where: str


@dataclass(frozen=True)
class RttmTurn(Placed):
    """A turn of an RTTM file.

    Attributes:
        channel: As the file has it, such as ``1``.
        line: Its number, from 1.
    """

    channel: str
    line: int


@dataclass(frozen=True)
class Fault:
    """Something wrong with a reference.

    Attributes:
        kind: `BACKWARDS`, `EARLY`, `LATE`, `OVERLAPPING` or `UNKNOWN_FILE`.
        where: As of the turn.
        text: What is wrong, to stand behind ``where``.
    """

    kind: str
    where: str
    text: str


P = TypeVar("P", bound=Placed)


def settle(turns: Sequence[Placed], seconds: float, faults: Faults) -> tuple[tuple[Turn, ...], Counter[str]]:
    """Return a recording's turns as a reference has them, and how many faults of each kind were mended.

    Args:
        turns: In any order.
        seconds: The length of the recording.
        faults: ``"refuse"`` or ``"mend"``: see `mend`.

    Raises:
        UserError: There are faults, and they are refused.
    """
    done, found = mend(turns, seconds)
    if faults == "refuse":
        refuse(found)
    return done, Counter(fault.kind for fault in found)


def mend(turns: Sequence[Placed], seconds: float) -> tuple[tuple[Turn, ...], list[Fault]]:
    """Return a recording's turns without their faults, and the faults.

    A turn without a length is left out; one that begins before 0 or ends past the audio is cut, to nothing if all of it
    lies there; those of one speaker that overlap become one. What is off by no more than `TOLERANCE_SECONDS` is mended
    too, and is no fault.

    Args:
        turns: In any order.
        seconds: The length of the recording.
    """
    found: list[Fault] = []
    within: list[Turn] = []
    last: dict[str, Placed] = {}
    for placed in turns:
        if not placed.turn.end > placed.turn.start:  # a table may hold NaN, too
            found.append(Fault(BACKWARDS, placed.where, f"{_told(placed.turn)}, which has no length"))
    lasting = [placed for placed in turns if placed.turn.end > placed.turn.start]
    for placed in sorted(lasting, key=lambda each: each.turn):
        turn = placed.turn
        told = _told(turn)
        if turn.start < -TOLERANCE_SECONDS:
            found.append(Fault(EARLY, placed.where, f"{told}, which begins before 0"))
        if turn.end > seconds + TOLERANCE_SECONDS:
            found.append(Fault(LATE, placed.where, f"{told}, but the audio ends at {seconds:.3f} s"))
        before = last.get(turn.speaker)
        if before is not None and min(before.turn.end, turn.end) - turn.start > TOLERANCE_SECONDS:
            found.append(
                Fault(OVERLAPPING, placed.where, f"{told}, while {before.where} has the same speaker")
            )
        if before is None or turn.end > before.turn.end:
            last[turn.speaker] = placed
        start, end = max(turn.start, 0.0), min(turn.end, seconds)
        if end > start:
            within.append(Turn(start, end, turn.speaker))
    return merged(within), found


def _told(turn: Turn) -> str:
    return f"{turn.speaker} from {turn.start:.3f} to {turn.end:.3f} s"


def known_files(
    turns: Mapping[str, Sequence[P]], recordings: Collection[str], faults: Faults
) -> tuple[dict[str, Sequence[P]], Counter[str]]:
    """Return the turns of files that there is a recording of, and how many files there is none of.

    Args:
        turns: By file id, as of `read_rttm`.
        recordings: The ids of the recordings.
        faults: ``"refuse"``, or ``"mend"``, which leaves the others out.

    Raises:
        UserError: There are others, and they are refused.
    """
    found = [
        Fault(
            UNKNOWN_FILE,
            each[0].where,
            f"no recording is called {file_id}.{did_you_mean(file_id, recordings)}",
        )
        for file_id, each in turns.items()
        if file_id not in recordings and each
    ]
    if faults == "refuse":
        refuse(found)
    known = {file_id: each for file_id, each in turns.items() if file_id in recordings}
    return known, Counter(fault.kind for fault in found)


def refuse(faults: Sequence[Fault]) -> None:
    """Raise for faults, those of one recording or of many, which tells the first few.

    Raises:
        UserError: There are some.
    """
    if not faults:
        return
    shown = "; ".join(f"{fault.where}: {fault.text.rstrip('.')}" for fault in faults[:_SHOWN])
    more = f"; … ({len(faults)} in all)" if len(faults) > _SHOWN else ""
    raise UserError(
        f"The references are faulty, with {_in_words(faults)}: {shown}{more}. Correct them, "
        "or type data.faults=mend, which cuts turns to the audio, merges overlaps and leaves the rest out."
    )


def _in_words(faults: Sequence[Fault]) -> str:
    counts = Counter(fault.kind for fault in faults)
    return ", ".join(f"{kind} ({count})" for kind, count in counts.most_common())


def read_rttm(path: Path) -> dict[str, list[RttmTurn]]:
    """Return the turns of an RTTM file by file id, in the file's order.

    Records of other types than ``SPEAKER`` and comments (``;;``) are passed over. Times may be impossible: see
    `settle`.

    Args:
        path: UTF-8.

    Raises:
        UserError: The file can't be read, or a line is broken.
    """
    found: dict[str, list[RttmTurn]] = {}
    for line, fields in _records(path):
        where = f"{path}:{line}"
        kind = fields[0]
        if kind in _OTHER_RECORDS:
            continue
        if kind != "SPEAKER":
            hint = did_you_mean(kind.upper(), ["SPEAKER", *_OTHER_RECORDS])
            raise UserError(
                f"{where} must begin with a type of RTTM records, but begins with {kind!r}.{hint}"
            )
        if not 8 <= len(fields) <= 10:
            raise UserError(
                f"{where} must be SPEAKER FILE CHANNEL START DURATION <NA> <NA> SPEAKER <NA> <NA>, "
                f"but has {len(fields)} fields instead of 10: names may hold no spaces."
            )
        start, duration = _number(fields[3], "start", where), _number(fields[4], "duration", where)
        if fields[7] == "<NA>":
            raise UserError(f"{where} must name its speaker in the 8th field, but that is <NA>.")
        # 6.69 + 0.43 is a little less than 7.12: the end is as exact as what it is made of.
        turn = Turn(start, round(start + duration, 9), fields[7])
        found.setdefault(fields[1], []).append(RttmTurn(turn, where, fields[2], line))
    return found


def read_uem(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return what a UEM file scores: stretches in seconds by file id, sorted, those that overlap or touch as one.

    Args:
        path: UTF-8; its lines are ``FILE CHANNEL START END``.

    Raises:
        UserError: The file can't be read, or a line is broken.
    """
    found: dict[str, list[Turn]] = {}
    for line, fields in _records(path):
        where = f"{path}:{line}"
        if len(fields) != 4:
            raise UserError(
                f"{where} must be FILE CHANNEL START END, but has {len(fields)} fields instead of 4."
            )
        start, end = _number(fields[2], "start", where), _number(fields[3], "end", where)
        if not 0 <= start < end:
            raise UserError(
                f"{where} must end after it starts, at 0 or later, but it is {start:g} to {end:g} s."
            )
        found.setdefault(fields[0], []).append(Turn(start, end, ""))
    return {
        file_id: [(each.start, each.end) for each in merged(stretches)]
        for file_id, stretches in found.items()
    }


def write_rttm(path: Path, file_id: str, turns: Sequence[Turn]) -> None:
    """Write a recording's turns as an RTTM file, times with three decimals; it is never seen half-written.

    Turns that are no longer than half a millisecond have no length in it, and are left out.

    Args:
        path: Where to.
        file_id: Any text; the file has it as `rttm_name` makes it, and speakers' names too.
        turns: In any order.
    """
    name = rttm_name(file_id)
    lines = []
    for turn in sorted(turns):
        start, end = round(1000 * turn.start), round(1000 * turn.end)
        if end > start:
            times = f"{start / 1000:.3f} {(end - start) / 1000:.3f}"
            lines.append(f"SPEAKER {name} 1 {times} <NA> <NA> {rttm_name(turn.speaker)} <NA> <NA>\n")
    write_text(path, "".join(lines))


def rttm_name(text: str) -> str:
    """Return a name that RTTM can hold; different ones for different texts.

    White space, ``%`` and what can't be printed become ``%20`` and the like, as in web addresses.
    """
    if text in ("", "<NA>"):
        return "%" if not text else "%3CNA>"
    return "".join(
        each
        if each.isprintable() and each not in " %"
        else "".join(f"%{byte:02X}" for byte in each.encode(errors="surrogatepass"))
        for each in text
    )


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line that is neither empty nor a comment."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8 text, but {error.reason} at byte {error.start}.") from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error
    for number, line in enumerate(content.split("\n"), start=1):
        fields = line.split()
        if fields and not fields[0].startswith(";;"):
            yield number, fields


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where} must have its {name} as a number of seconds, but that is {text!r}.")
    return value
