"""The mean average precision of clips that come in batches."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from speechexp.tagging_metrics import average_precision, mean_over_present


class TagScores(Metric):
    """Mean average precision over the classes present, of all clips at once: it can't be averaged over batches.

    Scores are kept in the computer's memory, as float32: 42 MB for 20,000 clips × 527 classes.
    """

    full_state_update = False
    higher_is_better = True
    scores: list[torch.Tensor]
    targets: list[torch.Tensor]

    def __init__(self, **metric_options: Any) -> None:
        super().__init__(**metric_options)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, scores: torch.Tensor, targets: torch.Tensor) -> None:
        """Keep a copy of the ``(batch, classes)`` scores and bool targets of some clips.

        Raises:
            ValueError: They do not fit each other or the clips before them, or targets are not bool.
        """
        if scores.ndim != 2:
            raise ValueError(f"`scores` must be (batch, classes), but is {tuple(scores.shape)} instead.")
        if targets.shape != scores.shape or targets.dtype != torch.bool:
            raise ValueError(
                f"`targets` must be {tuple(scores.shape)} bool, as `scores` are, "
                f"but is {tuple(targets.shape)} {targets.dtype} instead."
            )
        if self.scores and self.scores[0].shape[1] != scores.shape[1]:
            raise ValueError(
                f"`scores` must have {self.scores[0].shape[1]} classes, as before, but has {scores.shape[1]} instead."
            )
        self.scores.append(scores.detach().to("cpu", torch.float32, copy=True))
        self.targets.append(targets.to("cpu", copy=True))

    def arrays(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return the ``(clips, classes)`` scores and targets of this process, in the order they came in."""
        if not len(self.scores):
            return np.empty((0, 0), dtype=np.float32), np.empty((0, 0), dtype=np.bool_)
        return dim_zero_cat(self.scores).cpu().numpy(), dim_zero_cat(self.targets).cpu().numpy()

    def compute(self) -> torch.Tensor:
        """Return the mean as a 64-bit scalar; nan while no clip has a class.

        Raises:
            ValueError: A score is not finite, as those of a network that diverged.
        """
        return torch.tensor(mean_over_present(average_precision(*self.arrays())), dtype=torch.float64)
