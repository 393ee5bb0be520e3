"""Error rates that can be believed: counted by edit distance, summed over the corpus."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from rapidfuzz.distance import Levenshtein
from torchmetrics import Metric

Unit = Literal["word", "character"]


@dataclass(frozen=True)
class EditCounts:
    """What it takes to turn a reference into a prediction.

    Attributes:
        substitutions: Units replaced.
        deletions: Units of the reference that the prediction lacks.
        insertions: Units of the prediction that the reference lacks.
        reference_length: Units in the reference.
    """

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int

    @property
    def errors(self) -> int:
        """All edits together."""
        return self.substitutions + self.deletions + self.insertions


def count_edits(reference: str, prediction: str, unit: Unit = "word") -> EditCounts:
    """Count the fewest edits between two texts (Levenshtein 1966), by words or by characters."""
    expected = reference.split() if unit == "word" else reference
    found = prediction.split() if unit == "word" else prediction
    kinds = [op.tag for op in Levenshtein.editops(expected, found)]
    return EditCounts(kinds.count("replace"), kinds.count("delete"), kinds.count("insert"), len(expected))


class ErrorRate(Metric):
    """Corpus word or character error rate: all edits over all units of the references.

    Unlike a mean over utterances it does not depend on how utterances are batched or ordered.

    Args:
        unit: ``"word"`` for WER, ``"character"`` for CER.
    """

    full_state_update = False
    higher_is_better = False
    substitutions: torch.Tensor
    deletions: torch.Tensor
    insertions: torch.Tensor
    reference_length: torch.Tensor

    def __init__(self, unit: Unit, **metric_options: Any) -> None:
        super().__init__(**metric_options)
        self.unit: Unit = unit
        for name in ("substitutions", "deletions", "insertions", "reference_length"):
            self.add_state(name, default=torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, references: Sequence[str], predictions: Sequence[str]) -> None:
        """Count the edits of some pairs.

        Raises:
            ValueError: There are not as many predictions as references.
        """
        if len(references) != len(predictions):
            raise ValueError(
                f"there must be a prediction for each of {len(references)} references, "
                f"but there are {len(predictions)} instead."
            )
        for reference, prediction in zip(references, predictions, strict=True):
            for name, count in asdict(count_edits(reference, prediction, self.unit)).items():
                getattr(self, name).add_(count)

    def compute(self) -> torch.Tensor:
        """Return the rate as a 64-bit scalar; nan while no reference has been seen."""
        errors = self.substitutions + self.deletions + self.insertions
        return errors.double() / self.reference_length.double()
