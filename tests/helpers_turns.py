"""A task for the data sets whose references are turns."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechexp.task import LabelledData, Record, Task


class Turns(Task):
    """Takes references as they are."""

    kind = "diarization"
    unlabelled = "without a reference"
    watched = "val/der"
    watched_mode = "min"

    def __init__(self) -> None:
        super().__init__("turns", 16_000)

    cleaning = "as they are"
    titles: Mapping[str, str] = {"val/der": "DER"}  # type: ignore[assignment]

    def clean_references(self, references: Sequence[str | None]) -> tuple[list[str | None], list[int]]:
        return list(references), [1] * len(references)

    @staticmethod
    def symbols_of(reference: str) -> Iterable[str]:
        return ()

    def learn(self, data: LabelledData) -> None: ...

    def encode(self, reference: str) -> list[int]:
        return []

    def state(self) -> dict[str, Any]:
        return {}

    def save_labels(self, folder: Path) -> None: ...

    def score(self, records: Sequence[Record], seed: int) -> dict[str, float]:
        return {}

    def describe_labels(self, data: LabelledData) -> tuple[list[tuple[str, str]], Record]:
        return [], {}

    def describe_figures(self, figures: Mapping[str, float]) -> list[str]:
        return []

    def describe_record(self, record: Record) -> list[tuple[str, str]]:
        return []

    def describe_prediction(self, prediction: Record) -> str:
        return ""
