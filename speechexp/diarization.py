"""The task of speaker diarization: who spoke when, scored under conventions that have names."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal

from speechexp.audio import AUDIO_SUFFIXES
from speechexp.diarization_interval import der_interval
from speechexp.diarization_metrics import CONVENTIONS, WATCHED, figures
from speechexp.errors import UserError
from speechexp.manifest import SPLITS
from speechexp.paths import write_json, write_lines
from speechexp.rttm import rttm_name, write_rttm
from speechexp.task import LabelledData, Record, Task
from speechexp.turns import Reference, Turn, cut, read_reference

_SHOWN_TURNS = 10


class Diarization(Task):
    """Who speaks when in a recording.

    A reference is the text of `speechexp.turns.write_reference`. A network hears stretches of recordings in training,
    and whole recordings in validation and test.

    Args:
        name: The run folder is ``outputs/<name>/…``.
        sample_rate: Of the audio that networks receive, in Hz.
        num_speakers: How many speakers each recording has; None where that is to be found out.
        min_speakers: The fewest there can be.
        max_speakers: The most there can be.
        timelines: Test recordings, the worst first, of which a picture is drawn.

    Raises:
        UserError: The numbers of speakers contradict each other.
    """

    kind: ClassVar[str] = "diarization"
    unlabelled: ClassVar[str] = "without a reference"
    watched = "val/der"
    watched_mode: Literal["min", "max"] = "min"

    def __init__(
        self,
        name: str = "diarization_es",
        sample_rate: int = 16000,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        timelines: int = 10,
    ) -> None:
        super().__init__(name, sample_rate)
        for setting, count in (
            ("num_speakers", num_speakers),
            ("min_speakers", min_speakers),
            ("max_speakers", max_speakers),
        ):
            if count is not None and count < 1:
                raise UserError(f"task.{setting} must be at least 1, but is {count} instead.")
        if num_speakers is not None and (min_speakers is not None or max_speakers is not None):
            raise UserError(
                "task.num_speakers says how many speakers there are: leave task.min_speakers and "
                "task.max_speakers out."
            )
        if min_speakers is not None and max_speakers is not None and min_speakers > max_speakers:
            raise UserError(
                f"task.min_speakers={min_speakers} must not be above task.max_speakers={max_speakers}."
            )
        self.num_speakers = num_speakers
        self.min_speakers = min_speakers
        self.max_speakers = max_speakers
        self.timelines = timelines

    @property
    def bounds(self) -> tuple[int | None, int | None, int | None]:
        """How many speakers a recording has, and the fewest and the most there can be."""
        return self.num_speakers, self.min_speakers, self.max_speakers

    # ------------------------------------------------------------------------------------------- labels

    @property
    def cleaning(self) -> str:
        """What decides the cleaned references: they are taken as the data gives them."""
        return "turns"

    def clean_references(self, references: Sequence[str | None]) -> tuple[list[str | None], list[int]]:
        """Return the references as they are, and the number of speakers of each."""
        sizes = [0 if text is None else len(read_reference(text).speakers) for text in references]
        return list(references), sizes

    @staticmethod
    def symbols_of(reference: str) -> Iterable[str]:
        """Return how many speakers there are, for counting."""
        return (str(len(read_reference(reference).speakers)),)

    def learn(self, data: LabelledData) -> None:
        """Check that a test can be scored. Speakers have no names beyond their recording: there is nothing to learn.

        Raises:
            UserError: Nobody speaks in the test.
        """
        require_speech(data, "test")

    def encode(self, reference: str) -> list[int]:
        """Return nothing: a whole recording is scored by its turns. See `speechexp.segmentation_targets`."""
        return []

    # ------------------------------------------------------------------------------------ a checkpoint's

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of the task."""
        return {"kind": self.kind, "sample_rate": self.sample_rate}

    def save_labels(self, folder: Path) -> None:
        """There are none to write."""

    # ------------------------------------------------------------------------------------------ figures

    def score(self, records: Sequence[Record], seed: int) -> dict[str, float]:
        """Return the test figures of records, each of which holds ``_score``.

        Beside the figures of `speechexp.diarization_metrics`: ``known_speakers/…``, the same where the pipeline is told
        how many speakers there are; ``by_source/…``, where the data has recordings of several sources;
        ``fine_tuned/…``, those with the thresholds of before they were tuned.
        """
        scores = [record["_score"] for record in records]
        result = figures(scores) | der_interval(scores, seed) | _by_source(records, "_score")
        known = figures([record["_known"] for record in records])
        result |= {f"known_speakers/{name}": known[name] for name in _TOLD if name in known}
        if "_fine_tuned" in records[0]:
            untuned = figures([record["_fine_tuned"] for record in records])
            untuned |= _by_source(records, "_fine_tuned")
            result |= {f"fine_tuned/{name}": value for name, value in untuned.items()}
        return result

    def write_predictions(self, folder: Path, records: Sequence[Record]) -> None:
        """Write ``predictions.jsonl``; an RTTM and a JSON file for each recording; timelines of the worst."""
        self.write_predicted(folder, records)
        worst = sorted(records, key=lambda record: (-(record["der"] or 0.0), record["id"]))[: self.timelines]
        if worst:
            (folder / "timelines").mkdir(exist_ok=True)
        names = _file_names([record["id"] for record in records])
        for record in worst:
            timeline_of(record).savefig(folder / "timelines" / f"{names[record['id']]}.png")

    def write_predicted(self, folder: Path, records: Sequence[Record]) -> None:
        """Write ``predictions.jsonl``, and ``diarization/`` with an RTTM and a JSON file for each recording."""
        names = _file_names([record["id"] for record in records])
        told = [
            {"id": each["id"], "file": names[each["id"]]}
            | {key: value for key, value in each.items() if not key.startswith("_")}
            for each in records
        ]
        write_lines(folder / "predictions.jsonl", told)
        target = folder / "diarization"
        target.mkdir(exist_ok=True)
        for record in told:
            if "prediction" in record:  # otherwise it could not be read
                # Of files that are predicted, the id is a path, which no other program takes for one.
                name = record["id"] if "reference" in record else record["file"]
                write_rttm(target / f"{record['file']}.rttm", name, turns_of(record["prediction"]))
                write_json(target / f"{record['file']}.json", record)

    # -------------------------------------------------------------------------------------------- words

    @property
    def titles(self) -> dict[str, str]:
        """The figure of validation that a person wants to see."""
        return {"val/der": "val DER"}

    def describe_labels(self, data: LabelledData) -> tuple[list[tuple[str, str]], Record]:
        """Return how much speech and overlap each split has, and how many speakers."""
        told: list[str] = []
        warnings: list[tuple[str, str]] = []
        kept: Record = {}
        for split in SPLITS:
            references = [read_reference(text) for text in data.references(split)]
            if not references:
                continue
            speech, overlap = map(sum, zip(*(_talk(each.turns) for each in references), strict=True))
            counts = sorted({len(each.speakers) for each in references})
            speakers = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            share = 100 * overlap / speech if speech else 0.0
            told.append(f"{split} {speech / 60:.1f} min ({share:.0f} % overlapped, {speakers} speakers)")
            empty = sum(not each.turns for each in references)
            if empty:
                what = f"{empty} {split} recording{'s have' if empty > 1 else ' has'} no speech"
                warnings.append(("", f"{what}: all that is heard there is an error."))
            kept[split] = {
                "speech_seconds": round(speech, 3),
                "overlap_seconds": round(overlap, 3),
                "speakers": counts,
            }
        return [("speech", ", ".join(told)), *warnings], {"speech": kept}

    def describe_figures(self, figures: Mapping[str, float]) -> list[str]:
        """Tell the DER with its interval and parts, then the other conventions."""

        def told(name: str) -> str:
            """A figure that would divide by nothing is not there."""
            return f"{figures[name]:.4f}" if name in figures else "-"

        low, high = figures.get("test/der_ci95_low"), figures.get("test/der_ci95_high")
        between = "" if low is None or high is None else f" (95 % interval {low:.4f} to {high:.4f})"
        words = {"missed": "missed", "false_alarm": "false alarm", "confusion": "confusion"}
        parts = ", ".join(f"{word} {told(f'test/{part}_{WATCHED}')}" for part, word in words.items())
        others = ", ".join(f"{each} {told(f'test/der_{each}')}" for each in CONVENTIONS if each != WATCHED)
        lines = [
            f"[bold]test DER {told('test/der')}[/bold]{between}, {WATCHED}: {parts}",
            f"DER by other conventions: {others}; told the number of speakers {told('test/known_speakers/der')}",
            f"JER {told('test/jer')}, speech detection error {told('test/detection_error')}, number of speakers right "
            f"in {100 * figures.get('test/speaker_count_right', 0.0):.0f} % of recordings",
        ]
        sources = [f"{each} {told(f'test/by_source/{each}/der')}" for each in _sources(figures)]
        return [*lines, f"DER by source: {', '.join(sources)}"] if sources else lines

    def describe_training(self, figures: Mapping[str, float]) -> list[list[str]]:
        """Return the test figures of before training, of after it, and of after the thresholds were tuned."""
        if "test/der" not in figures:
            return []
        sources = _sources(figures)
        keys = ["der", *(f"{part}_{WATCHED}" for part in ("missed", "false_alarm", "confusion")), "jer"]
        keys += [f"by_source/{source}/der" for source in sources]
        titles = ["DER", "missed", "false alarm", "confusion", "JER", *(f"DER {each}" for each in sources)]
        stages = {"before/": "before", "fine_tuned/": "fine-tuned", "": "fine-tuned and tuned"}
        if "test/fine_tuned/der" not in figures:
            stages[""] = "fine-tuned"
        rows = [
            [title, *(f"{figures.get(f'test/{stage}{key}', float('nan')):.4f}" for key in keys)]
            for stage, title in stages.items()
            if f"test/{stage}der" in figures
        ]
        return [["test figures", *titles], *rows] if len(rows) > 1 else []

    def describe_record(self, record: Record) -> list[tuple[str, str]]:
        """Return the recording, who really spoke, and who was heard."""
        der = "" if record.get("der") is None else f"  DER {record['der']:.4f}"
        return [
            ("recording", f"{record['id']}{der}"),
            ("reference", _in_lines(record["reference"])),
            ("heard", _in_lines(record["prediction"])),
        ]

    def describe_prediction(self, prediction: Record) -> str:
        """Return the turns, one a line."""
        return _in_lines(prediction["prediction"], most=None)


def require_speech(data: LabelledData, split: str) -> None:
    """Raise where a split has recordings, but nobody speaks in them: an error rate would divide by nothing.

    Raises:
        UserError: So it is.
    """
    references = [read_reference(text) for text in data.references(split)]
    if references and not any(_is_spoken(each) for each in references):
        raise UserError(
            f"Nobody speaks where the {split} recordings of {data.describe()} are scored, so there is no diarization "
            "error rate. Correct their references, or take other recordings."
        )


def _is_spoken(reference: Reference) -> bool:
    if reference.scored is None:
        return bool(reference.turns)
    return any(cut(reference.turns, start, end) for start, end in reference.scored)


def _sources(figures: Mapping[str, float]) -> list[str]:
    found = [re.fullmatch(r"test/by_source/(.+)/der", name) for name in figures]
    return [each[1] for each in found if each]


def _by_source(records: Sequence[Record], key: str) -> dict[str, float]:
    """Return the figures of each source of recordings, where the data has several."""
    sources = sorted({record["attributes"].get("source", "") for record in records} - {""})
    result: dict[str, float] = {}
    for source in sources if len(sources) > 1 else ():
        chosen = figures([each[key] for each in records if each["attributes"].get("source") == source])
        result |= {f"by_source/{source}/{name}": chosen[name] for name in _TOLD if name in chosen}
    return result


_TOLD = ("der", "jer", *(f"der_{convention}" for convention in CONVENTIONS))


def _file_names(ids: Sequence[str]) -> dict[str, str]:
    """Return what the files of each recording are called: its name without folders, and a number if need be."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for each in ids:
        path = PurePath(each)
        stem = rttm_name(path.stem if path.suffix.lower() in AUDIO_SUFFIXES else path.name)[:100]
        name = stem
        for number in itertools.count(2):
            if name not in taken:
                break
            name = f"{stem}-{number}"
        names[each] = name
        taken.add(name)
    return names


def turns_of(rows: Iterable[Sequence[Any]]) -> tuple[Turn, ...]:
    """Return the turns that a record lists as start, end and speaker."""
    return tuple(Turn(start, end, speaker) for start, end, speaker in rows)


def rows_of(turns: Iterable[Turn]) -> list[list[Any]]:
    """Return turns as a record lists them; times to a millisecond."""
    return [[round(turn.start, 3), round(turn.end, 3), turn.speaker] for turn in turns]


def timeline_of(record: Record) -> Any:
    """Draw a record's reference above what was heard."""
    from speechexp.timelines import timeline_figure

    scored = record.get("scored")
    reference = Reference(
        turns_of(record["reference"]),
        None if scored is None else tuple((start, end) for start, end in scored),
    )
    title = record["id"] + ("" if record.get("der") is None else f"   DER {record['der']:.3f}")
    return timeline_figure(
        reference,
        turns_of(record["prediction"]),
        record["duration_seconds"],
        title,
        record.get("mapping"),
    )


def _in_lines(rows: Sequence[Sequence[Any]], most: int | None = _SHOWN_TURNS) -> str:
    """Return turns in the lines that pyannote's own examples print, each after a line break."""
    if not rows:
        return "(nobody)"
    shown = rows[:most]
    lines = [f"start={start:.1f}s stop={end:.1f}s speaker_{speaker}" for start, end, speaker in shown]
    if len(shown) < len(rows):
        lines.append(f"… and {len(rows) - len(shown)} more")
    return "".join(f"\n{line}" for line in lines)


def _talk(turns: Sequence[Turn]) -> tuple[float, float]:
    """Return the seconds in which somebody speaks, and those in which several do."""
    changes = sorted([(turn.start, 1) for turn in turns] + [(turn.end, -1) for turn in turns])
    speech = overlap = 0.0
    active, last = 0, 0.0
    for time, change in changes:
        speech += time - last if active else 0.0
        overlap += time - last if active > 1 else 0.0
        active, last = active + change, time
    return speech, overlap
