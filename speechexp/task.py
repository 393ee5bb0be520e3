"""What every task has: it says what labels mean and what is scored. No data, no network, no steps."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from speechexp.errors import UserError
from speechexp.paths import write_lines

Record = dict[str, Any]


class LabelledData(Protocol):
    """What a task reads of a data set."""

    def describe(self) -> str:
        """Say in a few words where it comes from."""

    def split_hint(self) -> str:
        """Say how an empty split comes to clips, where the source has settings for that."""

    def symbols(self, split: str) -> set[str]:
        """Return what a split's references are made of, those of clips that were dropped included."""

    def count_symbols(self, split: str) -> Counter[str]:
        """Count the references of a split, dropped clips left out, that hold each symbol."""

    def largest(self, split: str) -> int:
        """Return the largest size of a split's references, those of clips that were dropped included."""

    def references(self, split: str) -> Sequence[str]:
        """Return the cleaned references of a split."""


class Task(ABC):
    """What labels mean: how references are cleaned and encoded, what is scored, and how it is told.

    Args:
        name: The run folder is ``outputs/<name>/…``.
        sample_rate: Of the audio that networks receive, in Hz.

    Attributes:
        kind: What a checkpoint and a data set are asked for.
        unlabelled: The reason that a clip is dropped for when nothing is left of its label.
        has_classes: Whether labels are classes, which can be balanced.
        watched: The figure that decides which checkpoint is best; known once labels are.
        watched_mode: Whether it is better lower (``min``) or higher (``max``).
        settings: Names of settings that a checkpoint must share with the run that uses it.
    """

    kind: ClassVar[str]
    unlabelled: ClassVar[str]
    has_classes: ClassVar[bool] = False
    settings: ClassVar[tuple[str, ...]] = ("sample_rate",)
    watched: str
    watched_mode: Literal["min", "max"]

    def __init__(self, name: str, sample_rate: int) -> None:
        self.name = name
        self.sample_rate = sample_rate

    # ------------------------------------------------------------------------------------------- labels

    @property
    def cleaning_settings(self) -> str:
        """What of the task's settings may leave nothing of a label, as a message names it."""
        return ""

    @property
    @abstractmethod
    def cleaning(self) -> str:
        """What decides the cleaned references."""

    @abstractmethod
    def clean_references(self, references: Sequence[str | None]) -> tuple[list[str | None], list[int]]:
        """Return what is trained on and scored, None where nothing is left, and the size of each."""

    @staticmethod
    @abstractmethod
    def symbols_of(reference: str) -> Iterable[str]:
        """Return what a cleaned reference is made of: characters, classes."""

    @abstractmethod
    def learn(self, data: LabelledData) -> None:
        """Take the labels from the data, or check its labels against those that a checkpoint has brought.

        Raises:
            UserError: They can't be trained on, or are not the checkpoint's.
        """

    def sizes_of(self, data: LabelledData, split: str, sizes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return the sizes of a split's references, given those that they had before the labels were known."""
        return sizes

    @abstractmethod
    def encode(self, reference: str) -> list[int]:
        """Return label ids of a cleaned reference."""

    def balancing_weights(self, references: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return how much more often than others each clip is to be drawn, so that rare classes come oftener."""
        raise NotImplementedError(f"{type(self).__name__} has no classes.")

    # ------------------------------------------------------------------------------------ a checkpoint's

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of the task, in plain containers."""

    def load_state(self, state: Mapping[str, Any], ckpt: Path) -> None:
        """Take over a checkpoint's labels.

        Raises:
            UserError: The checkpoint is of another task, or its labels are others.
        """
        if state["kind"] != self.kind:
            raise UserError(
                f"{ckpt} is a checkpoint of another task ({state['kind']}), not of task={self.name} ({self.kind}). "
                "Choose its task with task=."
            )
        for setting in self.settings:
            if state[setting] != getattr(self, setting):
                raise UserError(
                    f"{ckpt} was trained with task.{setting}={state[setting]}, but task.{setting} is "
                    f"{getattr(self, setting)} instead. Add task.{setting}={state[setting]}."
                )

    @abstractmethod
    def save_labels(self, folder: Path) -> None:
        """Write what labels there are into the folder of a run's checkpoints, for people and other programs."""

    # ------------------------------------------------------------------------------------------ figures

    @abstractmethod
    def score(self, records: Sequence[Record], seed: int) -> dict[str, float]:
        """Return the test figures of records, with a 95 % interval of the watched one."""

    def write_predictions(self, folder: Path, records: Sequence[Record]) -> None:
        """Write ``predictions.jsonl``, and whatever else the records hold, into a run's folder."""
        write_lines(folder / "predictions.jsonl", records)

    def write_predicted(self, folder: Path, records: Sequence[Record]) -> None:
        """Write what was predicted of files that have no reference."""
        write_lines(folder / "predictions.jsonl", records)

    # -------------------------------------------------------------------------------------------- words

    @property
    @abstractmethod
    def titles(self) -> dict[str, str]:
        """The figures of validation that a person wants to see, and what they are called there."""

    @property
    def headline(self) -> str:
        """The watched figure's name without its split."""
        return self.watched.split("/")[1]

    @abstractmethod
    def describe_labels(self, data: LabelledData) -> tuple[list[tuple[str, str]], Record]:
        """Return rows for the console (a name and a text), and what ``run.json`` keeps of them."""

    @abstractmethod
    def describe_figures(self, figures: Mapping[str, float]) -> list[str]:
        """Return lines in rich's markup that tell the test figures, the first with its interval."""

    def describe_training(self, figures: Mapping[str, float]) -> list[list[str]]:
        """Return a table of what each part of the training has brought, its header first; empty if there is none."""
        return []

    @abstractmethod
    def describe_record(self, record: Record) -> list[tuple[str, str]]:
        """Return what to show of a test clip: names and texts, the prediction last."""

    @abstractmethod
    def describe_prediction(self, prediction: Record) -> str:
        """Return the text that tells a prediction."""
