"""Audio tagging: the task of telling which classes of sounds a clip holds."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from speechexp import tagging_metrics
from speechexp.errors import UserError, did_you_mean
from speechexp.labels import SoundClass, read_labels, write_labels
from speechexp.manifest import SPLITS
from speechexp.paths import write_json, write_lines
from speechexp.tagging_figures import class_figures, figures_in_words, split_figures
from speechexp.task import LabelledData, Record, Task

Mode = Literal["auto", "single_label", "multi_label"]


class AudioTagging(Task):
    """Classes of sounds: any number of them in a clip, or exactly one.

    Args:
        name: The run folder is ``outputs/<name>/…``.
        sample_rate: Of the audio that networks receive, in Hz.
        mode: ``multi_label``: any number (sigmoids, mean average precision); ``single_label``: exactly one (softmax,
            accuracy); ``auto`` takes the latter where no clip of the data has two.
        top_k: How many of a clip's best classes predictions tell.
    """

    kind = "tagging"
    unlabelled = "no label"
    has_classes = True

    def __init__(
        self, name: str = "audio_tagging", sample_rate: int = 16000, mode: Mode = "auto", top_k: int = 10
    ) -> None:
        super().__init__(name, sample_rate)
        if top_k < 1:
            raise UserError(f"task.top_k={top_k} must be at least 1.")
        self.mode: Mode = mode
        self.top_k = top_k
        self._single: bool | None = None if mode == "auto" else mode == "single_label"
        self._classes: list[SoundClass] = []
        self._owner = ""  # whose classes they are, where not the data's
        self._source = self._split_hint = ""  # of the data
        self._most = 0  # classes of a clip in it
        self._found: dict[str, set[str]] = {}  # labels by split, those of dropped clips included
        self._kept: dict[str, Counter[str]] = {}  # clips that are left, by split and label
        self._places: dict[str, int] = {}

    # ------------------------------------------------------------------------------------------- labels

    @property
    def classes(self) -> list[SoundClass]:
        """What a network's outputs stand for; known once the data, a checkpoint or a pretrained network was read."""
        if not self._classes:
            raise RuntimeError("the classes are not known yet: call choose_classes, adopt or load_state.")
        return self._classes

    @property
    def names(self) -> list[str]:
        """The classes' names; with their AudioSet ids where several share a name."""
        often = Counter(each.name for each in self.classes)
        return [each.name if often[each.name] == 1 else str(each) for each in self.classes]

    @property
    def is_single(self) -> bool:
        """Whether a clip has exactly one class; several classes at once where nothing tells."""
        return bool(self._single)

    @property
    def cleaning(self) -> str:
        """What decides the cleaned references."""
        return f"{self.kind}|1"

    def clean_references(self, references: Sequence[str | None]) -> tuple[list[str | None], list[int]]:
        """Return the classes of each clip, sorted, None where there are none, and how many there are."""
        classes = [read_labels(reference) if reference else [] for reference in references]
        cleaned = [write_labels(each) if each else None for each in classes]
        return cleaned, [len(set(each)) for each in classes]

    @staticmethod
    def symbols_of(reference: str) -> Iterable[str]:
        """Return the classes of a reference as they are written."""
        return list(json.loads(reference))

    def learn(self, data: LabelledData) -> None:
        """Look which labels there are, whether clips have one or several, and whether they are known."""
        self._source, self._split_hint = data.describe(), data.split_hint()
        self._found = {split: data.symbols(split) for split in SPLITS}
        self._kept = {split: data.count_symbols(split) for split in SPLITS}
        self._most = max(data.largest(split) for split in SPLITS)
        if self._single is None:
            self._single = self._most <= 1
        self._check_mode()
        if self._classes:
            self._check_known()

    def _check_mode(self) -> None:
        if self._single and self._most > 1:
            setting = "task.mode=single_label" if self.mode == "single_label" else self._owner
            raise UserError(
                f"{setting} takes exactly one class a clip, but {self._source} has clips with {self._most}. "
                "Set task.mode=multi_label, or give each clip one label."
            )

    def choose_classes(self) -> list[SoundClass]:
        """Return the classes that a new head tells apart: those of the training split, unless a checkpoint had some.

        Raises:
            UserError: There are too few, or a class has no clip to learn it from.
        """
        if self._classes:
            return self._classes
        if not self._found:
            raise RuntimeError("the labels are not known yet: call learn first.")
        found, kept = self._found["train"], self._kept["train"]
        for split in ("validation", "test"):
            for text, count in sorted(self._kept[split].items()):
                if text not in found:
                    raise UserError(
                        f"The label {text!r} of {count} {split} clip{'s' if count > 1 else ''} in {self._source} is "
                        f"on no training clip, so it can't be learnt.{did_you_mean(text, found)} Correct it, add "
                        f"training clips, or take those clips out.{self._split_hint}"
                    )
        lost = sorted(text for text in found if not kept[text])
        if lost:
            raise UserError(
                f"The class {lost[0]!r} of {self._source} has no training clip left after cleaning"
                f"{f', nor have {len(lost) - 1} others' if len(lost) > 1 else ''}. See data.min_seconds, "
                "data.max_seconds and data.silence_peak, or take the class out."
            )
        if len(found) < 2:
            raise UserError(
                f"{self._source} has {len(found)} class in training ({', '.join(found)}), but at least two "
                "are needed. Give other clips another label."
            )
        self._take(sorted(SoundClass.parse(text) for text in found), "")
        return self._classes

    def adopt(self, classes: Sequence[SoundClass], owner: str, single: bool | None = None) -> None:
        """Take over the classes of a network that comes with its head.

        Args:
            classes: In the order of its outputs.
            owner: The network, as a message names it.
            single: Whether it tells exactly one class of a clip; None if it does not say.

        Raises:
            UserError: They are not those of the data, or of the checkpoint that is gone on from.
        """
        if self.mode == "auto":
            if single is None:
                raise UserError(
                    f"{owner} does not say what its scores are. Add task.mode=multi_label (any number of classes a "
                    "clip, as AudioSet's networks) or task.mode=single_label."
                )
            self._single = single
            self._check_mode()
        if self._classes and [each.name for each in self._classes] != [each.name for each in classes]:
            raise UserError(f"The classes of {owner} are not those of {self._owner}.")
        if not self._classes:
            self._take(list(classes), owner)
            self._check_known()

    def _take(self, classes: list[SoundClass], owner: str) -> None:
        self._classes, self._owner = classes, owner
        self._places = {}

    def _place(self, text: str) -> int | None:
        """Return which class a label is: by its AudioSet id where both have one, otherwise by its name."""
        if not self._places:
            for number, each in enumerate(self._classes):
                for key in (str(each), each.mid, each.name):
                    if key:
                        self._places.setdefault(key, number)
        place: int | None = self._places.get(text)
        if place is None:
            label = SoundClass.parse(text)
            place = self._places.get(label.mid) if label.mid else None
            if place is None:
                place = self._places.get(label.name)
                if place is not None and label.mid and self._classes[place].mid not in ("", label.mid):
                    return None
            if place is not None:
                self._places[text] = place
        return place

    def _check_known(self) -> None:
        """Refuse labels that the classes do not hold; take over the ids of those that have none.

        Raises:
            UserError: A label is unknown; says what differs on both sides.
        """
        found = sorted(set().union(*self._found.values()))
        unknown = [text for text in found if self._place(text) is None]
        if unknown:
            held = {self._place(text) for text in found}
            absent = [str(each) for place, each in enumerate(self._classes) if place not in held]
            raise UserError(
                f"The labels of {self._source} are not those of {self._owner}: {_some(unknown)} only in the data, "
                f"{_some(absent)} only in the network. Choose data with its labels, or learn these: a new run, with "
                "model.head=new if the network is pretrained."
            )
        for text in found:
            label, place = SoundClass.parse(text), self._place(text)
            if place is not None and label.mid and not self._classes[place].mid:
                self._classes[place] = label  # a pretrained network may know its classes by their names alone

    def encode(self, reference: str) -> list[int]:
        """Return the places of a reference's classes."""
        places = {self._place(text) for text in self.symbols_of(reference)}
        return sorted(place for place in places if place is not None)

    def balancing_weights(self, references: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return for each clip the sum over its classes of one by the class's clips, as for AST (Gong et al. 2021)."""
        targets = [self.encode(reference) for reference in references]
        counts = np.bincount(np.concatenate(targets), minlength=len(self.classes))
        return np.array([sum(1.0 / counts[place] for place in each) for each in targets])

    def count(self, split: str) -> Counter[int]:
        """Return how many clips of a split each class has, by its place; dropped clips left out."""
        counts: Counter[int] = Counter()
        for text, clips in self._kept.get(split, {}).items():
            known = self._place(text)
            if known is not None:
                counts[known] += clips
        return counts

    # ------------------------------------------------------------------------------------ a checkpoint's

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of the task, in plain containers."""
        return {
            "kind": self.kind,
            "sample_rate": self.sample_rate,
            "mode": "single_label" if self.is_single else "multi_label",
            "classes": [[each.name, each.mid] for each in self.classes],
        }

    def load_state(self, state: Mapping[str, Any], ckpt: Path) -> None:
        """Take over a checkpoint's classes.

        Raises:
            UserError: The checkpoint is of another task, rate or mode.
        """
        super().load_state(state, ckpt)
        if self.mode not in ("auto", state["mode"]):
            raise UserError(
                f"{ckpt} was trained with task.mode={state['mode']}, but task.mode is {self.mode} instead. "
                f"Add task.mode={state['mode']}."
            )
        self._single = state["mode"] == "single_label"
        self._take([SoundClass(name, mid) for name, mid in state["classes"]], str(ckpt))

    def save_labels(self, folder: Path) -> None:
        """Write ``classes.json``: names and AudioSet ids in the order of the network's outputs."""
        write_json(folder / "classes.json", [vars(each) for each in self.classes])

    # ------------------------------------------------------------------------------------------ figures

    @property
    def watched(self) -> str:  # type: ignore[override]
        """The figure that decides which checkpoint is best."""
        return "val/accuracy" if self.is_single else "val/map"

    watched_mode: Literal["min", "max"] = "max"

    def decide(self, scores: npt.NDArray[np.float32], thresholds: Sequence[float]) -> list[int]:
        """Return the places of the classes that a clip is given.

        Args:
            scores: ``(classes,)``.
            thresholds: Of each class; a single-label task takes the best class whatever they are.
        """
        if self.is_single:
            return [int(scores.argmax())]
        return [int(place) for place in np.flatnonzero(scores.astype(np.float64) >= np.asarray(thresholds))]

    def tell(
        self, scores: npt.NDArray[np.float32], thresholds: Sequence[float], besides: Iterable[int] = ()
    ) -> Record:
        """Return what a prediction says of a clip.

        Args:
            scores: ``(classes,)``.
            thresholds: Of each class.
            besides: Classes whose score is wanted whether it is among the best or not.

        Returns:
            ``prediction``, the classes it is given, and ``scores`` of the best, best first.
        """
        names = self.names
        best = [place for place, _ in tagging_metrics.top_labels(scores, self.top_k)]
        places = [*best, *(place for place in besides if place not in best)]
        return {
            "prediction": [names[place] for place in self.decide(scores, thresholds)],
            "scores": {names[place]: round(float(scores[place]), 6) for place in places},
        }

    def score(self, records: Sequence[Record], seed: int) -> dict[str, float]:
        """Return the test figures of records; each holds ``_scores``, ``_target`` and ``_thresholds``."""
        scores, targets = _arrays(records)
        figures = split_figures(scores, targets, self.is_single, records[0]["_thresholds"], seed)
        precision = tagging_metrics.average_precision(scores, targets)
        by_class = zip(self.names, precision.tolist(), strict=True)
        return figures | {f"ap_by_class/{name}": value for name, value in by_class if not np.isnan(value)}

    def write_predictions(self, folder: Path, records: Sequence[Record]) -> None:
        """Write ``predictions.jsonl``, all scores as ``scores.npz``, and the figures of each class."""
        write_lines(
            folder / "predictions.jsonl",
            ({key: value for key, value in each.items() if not key.startswith("_")} for each in records),
        )
        scores, targets = _arrays(records)
        partial = folder / ".scores.npz"
        np.savez_compressed(
            partial,
            ids=np.array([record["id"] for record in records]),
            classes=np.array([str(each) for each in self.classes]),
            scores=scores,
            targets=targets,
        )
        partial.replace(folder / "scores.npz")
        columns = class_figures(scores, targets, self.is_single, records[0]["_thresholds"])
        trained, tested = self.count("train"), targets.sum(axis=0).tolist()
        write_lines(
            folder / "classes.jsonl",
            (
                {
                    "name": each.name,
                    "mid": each.mid,
                    "train_clips": trained[place],
                    "test_clips": tested[place],
                    **{name: values[place] for name, values in columns.items()},
                }
                for place, each in enumerate(self.classes)
            ),
        )

    # -------------------------------------------------------------------------------------------- words

    @property
    def titles(self) -> dict[str, str]:
        """The figures of validation that a person wants to see, and what they are called there."""
        accuracy = {"val/accuracy": "val accuracy"} if self.is_single else {}
        return accuracy | {"val/map": "val mAP"}

    def describe_labels(self, data: LabelledData) -> tuple[list[tuple[str, str]], Record]:
        """Return the classes, how unlike their numbers of training clips are, and these numbers."""
        names = self.names
        most = max(data.largest(split) for split in SPLITS)
        kind = (
            "one a clip: single-label (cross-entropy, accuracy)"
            if self.is_single
            else f"up to {most} a clip: multi-label (binary cross-entropy, mAP)"
        )
        rows = [("classes", f"{len(names)}, {kind}")]
        in_train = self.count("train")
        counts = [in_train[place] for place in range(len(names))]
        trained = [place for place, count in enumerate(counts) if count]
        if trained:
            few, many = min(trained, key=counts.__getitem__), max(trained, key=counts.__getitem__)
            told = (
                f"clips in training: most {counts[many]:,} ({names[many]}), fewest {counts[few]:,} ({names[few]}), "
                f"{counts[many] / counts[few]:.1f} to 1"
            )
            if counts[few] == counts[many]:
                told = f"clips of each class in training: {counts[few]:,}"
            rows.append(("balance", told))
            if len(trained) < len(names):
                without = [name for name, count in zip(names, counts, strict=True) if not count]
                rows.append(("", f"{_some(without)} of the network's classes on no training clip"))
        kept = {
            split: {names[place]: count for place, count in sorted(self.count(split).items())}
            for split in SPLITS
        }
        return rows, {"label_counts": kept}

    def describe_figures(self, figures: Mapping[str, float]) -> list[str]:
        """Tell the watched figure with its interval, then the rest, then the classes from the worst on."""
        return figures_in_words(figures, len(self.classes), self.is_single)

    def describe_record(self, record: Record) -> list[tuple[str, str]]:
        """Return the labels, and the best classes with their scores."""
        return [("labels", "; ".join(record["reference"])), ("heard", _ranked(record["scores"]))]

    def describe_prediction(self, prediction: Record) -> str:
        """Return the classes that a clip is given with their scores, or the best where it is given none."""
        scores, given = prediction["scores"], prediction["prediction"]
        if given:
            return _ranked({name: scores[name] for name in given if name in scores} or scores)
        return f"(nothing above its threshold; best: {_ranked(scores)})"


def _ranked(scores: Mapping[str, float], most: int = 5) -> str:
    ranked = sorted(scores.items(), key=lambda item: -item[1])[:most]
    return "; ".join(f"{name} {score:.2f}" for name, score in ranked)  # a name may hold a comma


def _some(names: Sequence[str], most: int = 8) -> str:
    """Return how many there are, and the first of them."""
    listed = "; ".join(names[:most]) + ("; …" if len(names) > most else "")
    return f"{len(names)} ({listed})" if names else "0"


def _arrays(records: Sequence[Record]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the scores and the targets of records, both ``(clips, classes)``."""
    scores = np.stack([record["_scores"] for record in records])
    targets = np.zeros(scores.shape, bool)
    for row, record in enumerate(records):
        targets[row, record["_target"]] = True
    return scores, targets
