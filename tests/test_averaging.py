"""Averaged weights: the formula, what is validated with them, what checkpoints hold, what is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import SMALL, Ended
from torch.utils.data import DataLoader

from speechexp.averaging import AveragedWeights
from speechexp.errors import UserError
from speechexp.trainer import build_trainer


class Line(pl.LightningModule):
    """A straight line through points; notes its weight as it is trained and as it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor([0.0]))
        self.frozen = torch.nn.Parameter(torch.tensor([0.7]), requires_grad=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.trained: list[float] = []
        self.validated: list[float] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.steps += 1
        return (self.slope * batch - 3 * batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.slope.item())

    def on_train_batch_end(self, outputs: Any, batch: torch.Tensor, batch_idx: int) -> None:
        if not self.trainer.fit_loop.epoch_loop._should_accumulate():
            self.trained.append(self.slope.item())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.slope], lr=0.05)


def fit(decay: float, accumulate: int = 1, epochs: int = 2) -> Line:
    torch.manual_seed(0)
    points = DataLoader(torch.randn(8, 1), batch_size=1)
    module = Line()
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=accumulate, num_sanity_val_steps=0,
        callbacks=[AveragedWeights(decay)],
    )  # fmt: skip
    trainer.fit(module, points, DataLoader(torch.randn(1, 1)))
    return module


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_that_of_the_weights_after_each_optimizer_step(accumulate: int) -> None:
    module = fit(0.5, accumulate)
    averages = module.trained[:1]
    for weight in module.trained[1:]:
        averages.append(0.5 * averages[-1] + 0.5 * weight)

    assert len(averages) == 16 // accumulate
    assert module.validated == pytest.approx([averages[len(averages) // 2 - 1], averages[-1]])
    assert module.slope.item() == module.validated[-1] < module.trained[-1]  # what training ends with
    assert module.frozen.item() == pytest.approx(0.7)
    assert module.steps.item() == 16


def test_a_run_validates_keeps_and_tests_the_average(
    speechexp: Callable[[Sequence[str]], Ended], tmp_path: Path
) -> None:
    ended = speechexp(
        [*SMALL, "trainer.max_epochs=2", "trainer.weight_averaging=0.9", f"hydra.run.dir={tmp_path}/run"]
    )
    assert ended.code == 0, ended.err
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    name = "network.lm_head.weight"
    assert not torch.equal(best["state_dict"][name], best["current_model_state"][name])

    again = speechexp(
        ["stage=test", f"ckpt={tmp_path}/run/checkpoints/best.ckpt", f"hydra.run.dir={tmp_path}/test"]
    )
    assert again.code == 0, again.err
    figures, retested = (
        json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in ("run", "test")
    )
    assert figures["test/loss"] == retested["test/loss"]


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_a_decay_that_can_not_be_is_refused(decay: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.weight_averaging=.* must be above 0 and below 1"):
        build_trainer(tmp_path, 1, accelerator="cpu", weight_averaging=decay)


def test_the_average_is_taken_without_reading_the_device() -> None:
    module = Line()
    callback = AveragedWeights(0.9)

    class OnMeta:
        """What of a trainer the callback asks."""

        class strategy:
            root_device = torch.device("meta")

        global_step = 0

    trainer: Any = OnMeta()
    callback.setup(trainer, module, "fit")
    module.to("meta")
    for step in (1, 2):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, 0)
    assert callback.state_dict() == {"latest_update_step": 2}
