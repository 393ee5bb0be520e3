"""A run that is stopped anywhere and resumed ends with the weights of a run never stopped."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from speechexp.asr import SpeechRecognizer
from speechexp.batch import AudioBatch
from speechexp.corpora.spanish_mini import SpanishMini
from speechexp.errors import Interrupted
from speechexp.optim import adamw, linear
from speechexp.recognition import SpeechRecognition
from speechexp.signals import StopSignal
from speechexp.trainer import build_trainer

EPOCHS = 3
NETWORK: dict[str, Any] = {
    "conv_dim": [8, 8, 8],
    "conv_kernel": [20, 8, 8],
    "conv_stride": [10, 8, 8],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    # everything that draws at random in a step
    "hidden_dropout": 0.2,
    "attention_dropout": 0.1,
    "layerdrop": 0.3,
    "mask_time_prob": 0.2,
    "mask_time_length": 2,
}


class StopAt(pl.Callback):
    """Acts as a signal that comes at a certain place."""

    def __init__(self, stop: StopSignal, epoch: int, batch: int, hook: str) -> None:
        self.stop, self.epoch, self.batch, self.hook = stop, epoch, batch, hook

    def _maybe(self, trainer: pl.Trainer, batch_idx: int, hook: str) -> None:
        if hook == self.hook and (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            self.stop.received = signal.SIGTERM

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self._maybe(trainer, batch_idx, "train")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._maybe(trainer, batch_idx, "validation")

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._maybe(trainer, 0, "validated")


def train(
    folder: Path,
    place: tuple[int, int, str] | None,
    resume: bool,
    batch_seconds: float = 8.0,
    watch: pl.Callback | None = None,
    **options: Any,
) -> Any:
    """Train in ``folder``; stop at a place if one is given. Return the trainer and the module."""
    pl.seed_everything(3, verbose=False)
    task = SpeechRecognition()
    data = SpanishMini(
        task, train_utterances=40, validation_utterances=8, test_utterances=8, batch_seconds=batch_seconds,
        eval_batch_seconds=8.0, seed=3,
    )  # fmt: skip
    data.load(lambda *_: None)
    task.learn_labels(data.references("train"))
    module = SpeechRecognizer(
        task, network=NETWORK, optimizer=partial(adamw, lr=1e-2), schedule=partial(linear, warmup=3)
    )
    data.drop_infeasible(module.num_frames)
    stop = StopSignal()
    trainer = build_trainer(folder, seed=3, stop=stop, accelerator="cpu", max_epochs=EPOCHS, **options)
    if place is not None:
        trainer.callbacks.insert(0, StopAt(stop, *place))
    if watch is not None:
        trainer.callbacks.append(watch)
    last = folder / "checkpoints" / "last.ckpt"
    if place is None:
        trainer.fit(module, data, ckpt_path=str(last) if resume else None, weights_only=True)
    else:
        with pytest.raises(Interrupted) as stopped:
            trainer.fit(module, data, ckpt_path=str(last) if resume else None, weights_only=True)
        assert stopped.value.saved
        assert stopped.value.signal_number == signal.SIGTERM
    return trainer, module


def outcome(folder: Path, trainer: pl.Trainer, module: torch.nn.Module) -> dict[str, Any]:
    epochs = (folder / "epochs.jsonl").read_text().splitlines()
    figures = [OmegaConf.to_container(OmegaConf.create(line)) for line in epochs]
    for each in figures:
        for name in [name for name in each if name == "seconds" or name.startswith("train/")]:
            if name != "train/loss":  # the others are what this process's own steps cost
                del each[name]
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return {
        "folder": folder,
        "steps": trainer.global_step,
        "epochs": figures,
        "best": best,
        "weights": module.state_dict(),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> dict[str, Any]:
    os.environ["SPEECHEXP_CACHE"] = str(cache_dir)
    folder = tmp_path_factory.mktemp("undisturbed")
    return outcome(folder, *train(folder, None, resume=False))


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found["steps"] == wanted["steps"]
    assert found["epochs"] == wanted["epochs"]
    for part in ("weights", "best"):
        for name, weight in wanted[part].items():
            assert torch.equal(found[part][name], weight), name


@pytest.mark.parametrize(
    "place",
    [
        (0, 0, "train"),
        (0, 3, "train"),
        (1, 2, "train"),
        (1, -1, "train"),  # the epoch's last step
        (0, 0, "validation"),
        (1, 1, "validation"),
        (2, 0, "validation"),
        (1, 0, "validated"),
        (2, 4, "train"),
    ],
    ids=lambda place: f"epoch{place[0]}-{place[2]}{place[1]}",
)
def test_stopped_and_resumed_equals_never_stopped(
    place: tuple[int, int, str], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    if place[1] == -1:
        place = (place[0], undisturbed["steps"] // EPOCHS - 1, place[2])
    train(tmp_path, place, resume=False)
    assert_same(outcome(tmp_path, *train(tmp_path, None, resume=True)), undisturbed)


def test_stopped_twice_equals_never_stopped(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    train(tmp_path, (0, 3, "train"), resume=False)
    train(tmp_path, (1, 1, "validation"), resume=True)
    assert_same(outcome(tmp_path, *train(tmp_path, None, resume=True)), undisturbed)


def test_resumed_from_a_periodic_checkpoint_equals_never_stopped(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    # saves after every step; the process then dies without saving more, as with kill -9
    class Died(BaseException):
        pass

    class Die(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            if (trainer.current_epoch, batch_idx) == (1, 4):
                raise Died

    original = build_trainer

    def dying(*arguments: Any, **options: Any) -> pl.Trainer:
        trainer = original(*arguments, **options, checkpoint_every_minutes=0)
        trainer.callbacks.append(Die())
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "build_trainer", dying)
        with pytest.raises(Died):
            train(tmp_path, None, resume=False)
    assert_same(outcome(tmp_path, *train(tmp_path, None, resume=True)), undisturbed)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> dict[str, Any]:
    os.environ["SPEECHEXP_CACHE"] = str(cache_dir)
    folder = tmp_path_factory.mktemp("averaged")
    return outcome(folder, *train(folder, None, resume=False, weight_averaging=0.8))


@pytest.mark.parametrize(
    "place",
    [(0, 0, "train"), (1, 2, "train"), (0, 0, "validation"), (2, 1, "validation"), (1, 0, "validated")],
    ids=lambda place: f"epoch{place[0]}-{place[2]}{place[1]}",
)
@pytest.mark.slow
def test_with_averaged_weights_stopped_and_resumed_equals_never_stopped(
    place: tuple[int, int, str], tmp_path: Path, averaged: dict[str, Any]
) -> None:
    train(tmp_path, place, resume=False, weight_averaging=0.8)
    found = outcome(tmp_path, *train(tmp_path, None, resume=True, weight_averaging=0.8))
    assert_same(found, averaged)
    last = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["current_model_state"]
        for folder in (tmp_path, averaged["folder"])
    ]
    assert all(torch.equal(weight, last[1][name]) for name, weight in last[0].items())


def test_averaging_leaves_training_as_it_is(averaged: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    last = torch.load(averaged["folder"] / "checkpoints" / "last.ckpt", weights_only=True)

    for name, weight in undisturbed["weights"].items():
        assert torch.equal(last["current_model_state"][name], weight), name
        assert torch.equal(last["state_dict"][name], averaged["weights"][name]), name
    assert not torch.equal(averaged["weights"][name], undisturbed["weights"][name])


class Seen(pl.Callback):
    """Notes the clips and the learning rate of each step, by epoch."""

    def __init__(self) -> None:
        self.clips: dict[int, list[str]] = {}
        self.rates: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: AudioBatch, batch_idx: int
    ) -> None:
        self.clips.setdefault(trainer.current_epoch, []).extend(clip.id for clip in batch.clips)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("batch_seconds", [4.0, 12.0])
@pytest.mark.parametrize(
    ("place", "epochs"),
    [
        ((1, 2, "train"), [1, 2]),  # begins again
        ((0, -1, "train"), [1, 2]),
        ((1, 1, "validation"), [2]),
        ((1, 0, "validated"), [2]),
        ((2, 1, "validation"), []),
    ],
    ids=lambda value: f"epoch{value[0]}-{value[2]}{value[1]}" if isinstance(value, tuple) else None,
)
def test_other_batches_from_a_checkpoint_on_take_every_clip_once_an_epoch(
    place: tuple[int, int, str],
    epochs: list[int],
    batch_seconds: float,
    tmp_path: Path,
    undisturbed: dict[str, Any],
) -> None:
    if place[1] == -1:
        place = (place[0], undisturbed["steps"] // EPOCHS - 1, place[2])
    train(tmp_path, place, resume=False)
    before = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    seen = Seen()
    trainer, _ = train(tmp_path, None, resume=True, batch_seconds=batch_seconds, watch=seen)

    assert sorted(seen.clips) == epochs
    for ids in seen.clips.values():
        assert len(ids) == len(set(ids)) == len(trainer.datamodule._indices["train"])
    assert trainer.global_step == before + len(epochs) * trainer.num_training_batches
    assert [json.loads(line)["epoch"] for line in (tmp_path / "epochs.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
    ]
    if epochs:
        assert seen.rates[-1] == 0  # the schedule ends where the run does
        assert seen.rates[0] > 0


@pytest.mark.parametrize(
    "again",
    [
        (1, 0, "validation"),
        *(pytest.param(place, marks=pytest.mark.slow) for place in ((1, 4, "train"), (2, 3, "train"))),
    ],
)
def test_stopped_after_the_batches_changed_and_resumed_equals_never_stopped_again(
    again: tuple[int, int, str], tmp_path: Path
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder in (once, twice):
        train(folder, (1, 2, "train"), resume=False)
    wanted = outcome(once, *train(once, None, resume=True, batch_seconds=4.0))
    train(twice, again, resume=True, batch_seconds=4.0)
    assert_same(outcome(twice, *train(twice, None, resume=True, batch_seconds=4.0)), wanted)


def test_gradient_accumulation_is_never_cut_in_half(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    wanted = outcome(whole, *train(whole, None, resume=False, accumulate_grad_batches=3))
    train(parted, (1, 3, "train"), resume=False, accumulate_grad_batches=3)
    assert_same(outcome(parted, *train(parted, None, resume=True, accumulate_grad_batches=3)), wanted)


def test_a_checkpoint_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    from speechexp.checkpointing import WholeCheckpoints

    writer = WholeCheckpoints()
    writer.save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    with pytest.raises(AttributeError):
        writer.save_checkpoint(
            {"step": 2, "weights": torch.zeros(9), "bad": lambda: None}, tmp_path / "last.ckpt"
        )
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
