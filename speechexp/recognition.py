"""Speech recognition: the task of writing down what is said, by characters."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rich.markup import escape

from speechexp.bootstrap import bootstrap_interval
from speechexp.errors import UserError
from speechexp.manifest import SPLITS
from speechexp.metrics import ErrorRate, count_edits
from speechexp.task import LabelledData, Record, Task
from speechexp.text import NormaliserName, Vocabulary, frames_needed, normalise, text_version

_DURATION_EDGES_SECONDS = (0, 2, 5, 10, 15, 20)


class SpeechRecognition(Task):
    """Speech recognition by characters.

    Args:
        name: The run folder is ``outputs/<name>/…``.
        sample_rate: Of the audio that networks receive, in Hz.
        normaliser: See `speechexp.text.normalise`.
        vocabulary: A ``vocab.json`` to write with; by default the training text's characters.
    """

    kind = "asr"
    unlabelled = "no text"
    settings = ("normaliser", "sample_rate")
    watched = "val/wer"
    watched_mode: Literal["min", "max"] = "min"
    titles = {"val/wer": "val WER", "val/cer": "val CER"}  # noqa: RUF012

    def __init__(
        self,
        name: str = "asr_es",
        sample_rate: int = 16000,
        normaliser: NormaliserName = "spanish",
        vocabulary: str | None = None,
    ) -> None:
        super().__init__(name, sample_rate)
        self.normaliser: NormaliserName = normaliser
        self.vocabulary_path = vocabulary
        self._vocabulary = Vocabulary.load(Path(vocabulary)) if vocabulary else None

    # ------------------------------------------------------------------------------------------- labels

    @property
    def vocabulary(self) -> Vocabulary:
        """What is written with; known once the training text or a checkpoint was read."""
        if self._vocabulary is None:
            raise RuntimeError("the vocabulary is not known yet: call learn_labels or load_state first.")
        return self._vocabulary

    def clean_reference(self, reference: str) -> str | None:
        """Return what is trained on and scored, or None if nothing is left of it."""
        return normalise(reference, self.normaliser) or None

    def clean_references(self, references: Sequence[str | None]) -> tuple[list[str | None], list[int]]:
        """Return what is trained on and scored, None where nothing is left, and the frames that CTC needs for each.

        Raises:
            AssertionError: Labels of a reference would not give that reference back.
        """
        cleaned = [self.clean_reference(reference or "") for reference in references]
        occurring = set().union(*(text for text in cleaned if text))
        vocabulary = Vocabulary.from_texts(occurring)
        for character in sorted(occurring):  # labels are made and read one by one
            returned = vocabulary.decode(vocabulary.encode(character))
            if returned != character:
                raise AssertionError(f"the label of {character!r} stands for {returned!r}")
        return cleaned, [frames_needed(text or "") for text in cleaned]

    @property
    def cleaning_settings(self) -> str:
        """The normaliser."""
        return f", task.normaliser={self.normaliser}"

    @property
    def cleaning(self) -> str:
        """What decides the cleaned references."""
        return f"{self.kind}|{self.normaliser}|{text_version()}"

    @staticmethod
    def symbols_of(reference: str) -> Iterable[str]:
        """Return the characters of a reference."""
        return set(reference)

    def learn(self, data: LabelledData) -> None:
        """Take the vocabulary from all of the training text, or check it against one that is known."""
        found = data.symbols("train")
        if found:
            self.learn_labels(found)

    def learn_labels(self, references: Iterable[str]) -> None:
        """Take the vocabulary from the training text, or check it against one that is known.

        Args:
            references: The training text, or just its characters.

        Raises:
            UserError: The vocabulary that is known (a checkpoint's) is not that of these references.
        """
        if self.vocabulary_path is not None:
            return  # chosen by the user: what it lacks is reported, not refused
        found = Vocabulary.from_texts(references)
        if self._vocabulary is None:
            self._vocabulary = found
        elif self._vocabulary != found:
            difference = self._vocabulary.difference(
                found, "in the checkpoint", "in the data's training text"
            )
            raise UserError(
                "The checkpoint's vocabulary is not that of the data's training text "
                f"({difference}). To score this data with the checkpoint's own vocabulary, add "
                "task.vocabulary=RUN/checkpoints/vocab.json; what it cannot write then counts as errors."
            )

    def sizes_of(self, data: LabelledData, split: str, sizes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return the frames that CTC needs for each reference of a split as this vocabulary writes it."""
        unknown = data.symbols(split) - self.vocabulary.characters - {" "}
        if not unknown:
            return sizes
        # They get one label, so two of them in a row are equal neighbours.
        same = str.maketrans(dict.fromkeys(unknown, "\0"))
        return np.array([frames_needed(text.translate(same)) for text in data.references(split)], np.int32)

    def encode(self, reference: str) -> list[int]:
        """Return label ids of a cleaned reference."""
        return self.vocabulary.encode(reference)

    def unknown_characters(self, references: Iterable[str]) -> dict[str, int]:
        """Count the references that hold each character which the vocabulary lacks."""
        known = self.vocabulary.characters | {" "}
        counts: dict[str, int] = defaultdict(int)
        for reference in references:
            for character in set(reference) - known:
                counts[character] += 1
        return dict(sorted(counts.items()))

    # ------------------------------------------------------------------------------------ a checkpoint's

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of the task, in plain containers."""
        return {
            "kind": self.kind,
            "sample_rate": self.sample_rate,
            "normaliser": self.normaliser,
            "vocabulary": self.vocabulary.tokens,
        }

    def load_state(self, state: Mapping[str, Any], ckpt: Path) -> None:
        """Take over a checkpoint's labels.

        Raises:
            UserError: The checkpoint is of another task, normaliser, rate or vocabulary.
        """
        super().load_state(state, ckpt)
        found = Vocabulary(state["vocabulary"])
        self.check_same(found, Path(self.vocabulary_path) if self.vocabulary_path else None, ckpt)
        beside = ckpt.parent / "vocab.json"
        if beside.is_file():
            self.check_same(found, beside, ckpt, Vocabulary.load(beside))
        self._vocabulary = found

    def check_same(
        self, found: Vocabulary, path: Path | None, ckpt: Path, given: Vocabulary | None = None
    ) -> None:
        """Refuse a vocabulary file that is not the checkpoint's."""
        given = given or self._vocabulary
        if given is not None and given != found:
            raise UserError(
                f"The vocabulary {path or ''} is not the one that {ckpt} was trained with: "
                f"{found.difference(given, 'in the checkpoint', 'in the file')}."
            )

    def save_labels(self, folder: Path) -> None:
        """Write ``vocab.json``."""
        self.vocabulary.save(folder / "vocab.json")

    # ------------------------------------------------------------------------------------------ figures

    def metrics(self) -> dict[str, ErrorRate]:
        """Return fresh metrics that take references and predictions."""
        return {"wer": ErrorRate("word"), "cer": ErrorRate("character")}

    def record(self, reference: str, prediction: str) -> Record:
        """Return what ``predictions.jsonl`` says of one pair, its counts included."""
        words, characters = (
            count_edits(reference, prediction),
            count_edits(reference, prediction, "character"),
        )
        return {
            "reference": reference,
            "prediction": prediction,
            "word_errors": words.errors,
            "words": words.reference_length,
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "character_errors": characters.errors,
            "characters": characters.reference_length,
        }

    def score(self, records: Sequence[Record], seed: int) -> dict[str, float]:
        """Return the test figures of records: rates, counts, 95 % interval, breakdowns."""
        figures = {"wer": _rate(records, "word"), "cer": _rate(records, "character")}
        low, high = bootstrap_interval(
            [record["word_errors"] for record in records], [record["words"] for record in records], seed
        )
        figures |= {"wer_ci95_low": low, "wer_ci95_high": high}
        for count in ("substitutions", "deletions", "insertions", "words"):
            figures[count] = sum(record[count] for record in records)
        figures["utterances"] = len(records)
        for name, group in _breakdown(records).items():
            figures[f"wer_by_{name}"] = _rate(group, "word")
        return figures

    # -------------------------------------------------------------------------------------------- words

    def describe_labels(self, data: LabelledData) -> tuple[list[tuple[str, str]], Record]:
        """Return the vocabulary, and by split in how many references each character stands that it lacks."""
        rows = [
            (
                "vocabulary",
                f"{len(self.vocabulary)} tokens: {' '.join(sorted(self.vocabulary.characters))}",
            )
        ]
        unknown = {}
        for split in SPLITS:
            if not data.symbols(split) - self.vocabulary.characters - {" "}:
                continue
            counts = self.unknown_characters(data.references(split))
            if counts:
                unknown[split] = counts
                listed = ", ".join(f"«{character}» in {count}" for character, count in counts.items())
                rows.append(
                    (
                        "",
                        f"{split} holds characters that the network cannot write: clips with {listed}",
                    )
                )
        return rows, {"unknown_characters": unknown} if unknown else {}

    def describe_figures(self, figures: Mapping[str, float]) -> list[str]:
        """Tell the rates with their interval, then the breakdowns."""
        low, high = figures["test/wer_ci95_low"], figures["test/wer_ci95_high"]
        lines = [
            f"[bold]test WER {figures['test/wer']:.4f}[/bold] (95 % interval {low:.4f} to {high:.4f}), "
            f"CER {figures['test/cer']:.4f}, on {int(figures['test/utterances'])} utterances, "
            f"{int(figures['test/words'])} words: {int(figures['test/substitutions'])} substituted, "
            f"{int(figures['test/deletions'])} deleted, {int(figures['test/insertions'])} inserted"
        ]
        parts = [
            f"{escape(key.removeprefix('test/wer_by_').replace('/', ' '))} {value:.4f}"
            for key, value in figures.items()
            if key.startswith("test/wer_by_")
        ]
        return lines + ([f"WER by {', '.join(parts[:12])}"] if parts else [])

    def describe_record(self, record: Record) -> list[tuple[str, str]]:
        """Return the reference and the transcript."""
        return [("reference", record["reference"]), ("transcript", record["prediction"])]

    def describe_prediction(self, prediction: Record) -> str:
        """Return the transcript."""
        return prediction["prediction"] or "(nothing recognised)"


def _rate(records: Sequence[Record], unit: str) -> float:
    errors = sum(record[f"{unit}_errors"] for record in records)
    return float(errors / max(sum(record[f"{unit}s"] for record in records), 1))


def _breakdown(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group records by duration and by each attribute that takes at least two, and not too many, values."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        low = max(edge for edge in _DURATION_EDGES_SECONDS if edge <= record["duration_seconds"])
        above = [edge for edge in _DURATION_EDGES_SECONDS if edge > low]
        groups[f"duration/{low}-{above[0]}s" if above else f"duration/{low}s-"].append(record)
        for name, value in record["attributes"].items():
            groups[f"{name}/{value}"].append(record)
    values: dict[str, int] = defaultdict(int)
    for key in groups:
        values[key.split("/")[0]] += 1
    kept = {key: group for key, group in groups.items() if 1 < values[key.split("/")[0]] <= 50}
    return dict(sorted(kept.items(), key=lambda item: _natural(item[0])))


def _natural(key: str) -> tuple[str, float, str]:
    name, value = key.split("/", 1)
    number = value.split("-")[0].rstrip("s")
    return name, float(number) if number.isdigit() else 0.0, value
