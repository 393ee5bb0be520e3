"""``data.batch_seconds=auto``: the most padded audio that a training step has the memory for."""

import copy
import gc
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch

from speechexp.averaging import AveragedWeights
from speechexp.batch import Clip
from speechexp.data import AudioData
from speechexp.errors import UserError
from speechexp.memory import PeakMemory, available_memory, give_back_freed_memory, is_out_of_memory

MIN_BATCHES = 64  # in an epoch: fewer and larger steps would not train well
KEPT_FREE = 0.1  # of what fitted; memory gets fragmented, and others use the device too
CPU_SHARE = 0.6  # of the free memory that a CPU's step may take: beyond it the kernel kills
_BISECTIONS = 3

Verdict = Literal["fits", "refused", "too much"]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        clips: The most that fitted; 0 if not one did.
        above: The fewest that did not; None if none was too many.
        verdict: On those: ``refused`` by the allocator, or ``too much`` as far as can be told.
    """

    clips: int
    above: int | None = None
    verdict: Verdict = "fits"


def search(attempt: Callable[[int], Verdict], most: int) -> Found:
    """Find how many clips fit: twice as many until they do not, then a few in between.

    Args:
        attempt: Tries a number of clips.
        most: Try no more than these.
    """
    fitting, count = 0, 1
    above: int | None = None
    verdict: Verdict = "fits"
    while above is None and fitting < most:
        outcome = attempt(count)
        if outcome == "fits":
            fitting, count = count, min(2 * count, most)
        else:
            above, verdict = count, outcome
    for _ in range(_BISECTIONS):
        if above is None or fitting == 0 or above - fitting < 2:
            break
        count = (fitting + above) // 2
        outcome = attempt(count)
        if outcome == "fits":
            fitting = count
        else:
            above, verdict = count, outcome
    return Found(fitting, above, verdict)


def settle(module: pl.LightningModule, data: AudioData, trainer: pl.Trainer) -> str:
    """Put the largest ``batch_seconds`` that fits into ``data``; nothing else is changed.

    Tries steps of a copy of the module, on the trainer's device and in its precision, with batches of the longest
    training clip, and with as much memory taken as gradients and Adam's state need.

    Args:
        module: Not yet trained.
        data: Loaded and cleaned.
        trainer: Not yet run.

    Returns:
        What was found, and why it is not more.

    Raises:
        UserError: Not even one clip fits.
    """
    data.trainer = trainer
    device = trainer.strategy.root_device
    gc.collect()  # what an earlier job of a sweep left
    give_back_freed_memory()
    free = available_memory() if device.type == "cpu" else None
    if device.type == "cpu" and free is None:
        raise UserError(
            "data.batch_seconds=auto can't tell how much memory is free on this system. Give a number of seconds."
        )
    with _untouched(device):
        steps = _Steps(module, data, trainer, free)
        share = data.hours("train") * 3600 / MIN_BATCHES
        found = search(steps.attempt, max(int(share / steps.padded_seconds), 1))
        steps.release()
    seconds = steps.padded_seconds
    if found.clips == 0:
        raise UserError(_nothing_fits(seconds, module, trainer))
    total = found.clips * seconds
    if found.verdict == "refused":
        total = max((1 - KEPT_FREE) * total, seconds)
    data.batch_seconds = round(total, 3)
    clips = f"{found.clips} clip{'s' if found.clips > 1 else ''} of {seconds:g} s"
    if found.verdict == "refused":
        why = f"{clips} fitted, {found.above} ran out of memory"
        why += ", a tenth is kept free" if found.clips > 1 else ""
    elif found.verdict == "too much":
        assert free is not None
        why = (
            f"{clips}; {found.above} would take more than {CPU_SHARE:.0%} of the {free / 2**30:.1f} GiB free"
        )
    else:
        why = f"{clips}; more would be over 1/{MIN_BATCHES} of an epoch's audio"
    return f"auto: {data.batch_seconds:g} s of audio ({why})"


def _nothing_fits(seconds: float, module: pl.LightningModule, trainer: pl.Trainer) -> str:
    remedies = [f"data.max_seconds below {seconds:g}"]
    if not getattr(module, "gradient_checkpointing", False):
        remedies.append("model.gradient_checkpointing=true")
    if trainer.strategy.root_device.type != "cpu" and "32" in str(trainer.precision):
        remedies.append("trainer.precision=16-mixed")
    return (
        f"data.batch_seconds=auto: not even one clip of {seconds:g} s, the longest in training, fits into the memory "
        f"with the gradients and the optimizer's state. Set {' or '.join(remedies)}."
    )


@contextmanager
def _untouched(device: torch.device) -> Iterator[None]:
    """Leave every random state, and the device's cache, as they were."""
    gpus = [device.index or 0] if device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class _Steps:
    """Training steps on batches of one clip, as large as asked for.

    Args:
        module: Copied.
        data: Collates the batches.
        trainer: Gives the device and the precision.
        free: Bytes that a CPU has; None on a GPU, whose allocator refuses.
    """

    def __init__(
        self, module: pl.LightningModule, data: AudioData, trainer: pl.Trainer, free: int | None
    ) -> None:
        self._module = module
        self._trainer = trainer
        self._device = trainer.strategy.root_device
        self._copy: pl.LightningModule | None = None
        self._state: torch.Tensor | None = None
        self._memory = PeakMemory()
        self._before = self._memory.now()
        self._free = free
        self._taken: tuple[int, int] | None = None  # clips, and the bytes that they took
        self._clip = data.longest_clip("train")
        data.batch_seconds = 1.0  # whatever it is, one clip makes a batch
        self._collate: Any = data.train_dataloader().collate_fn
        data.batch_seconds = "auto"
        self.padded_seconds: float = self._collate([self._clip]).audio.shape[1] / data.task.sample_rate

    def attempt(self, clips: int) -> Verdict:
        """Try a step, unless it is known to be too large."""
        if self._free is not None and self._taken is not None:
            known, taken = self._taken
            if taken * clips / known > CPU_SHARE * self._free:
                return "too much"
        self._memory.begin()
        try:
            self._step(clips)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            outcome: Verdict = "refused"
        else:
            outcome = "fits"
            if self._free is not None:
                self._taken = clips, self._memory.peak() - self._before + self._state_bytes()
        self._tidy()  # here, where the error no longer holds the step's tensors
        return outcome

    def _step(self, clips: int) -> None:
        module = self._ready()
        plugin = self._trainer.precision_plugin
        # A batch without any padding needs no mask, and attention without one may take less memory.
        length = len(self._clip.audio)
        shorter: Clip = replace(self._clip, audio=self._clip.audio[: length - length // 100])
        batch = self._collate([self._clip, *[shorter] * (clips - 1)])
        batch = plugin.convert_input(batch).to(self._device)
        with plugin.train_step_context():
            result: Any = module.training_step(batch, 0)
        loss = result["loss"] if isinstance(result, Mapping) else result
        loss.backward()

    def _ready(self) -> pl.LightningModule:
        """Return the copy, with what lies in memory beside a step: gradients, Adam's two moments, averages."""
        if self._copy is None:
            module = self._trainer.precision_plugin.convert_module(copy.deepcopy(self._module))
            assert isinstance(module, pl.LightningModule)
            module.to(self._device)
            trained = [weight for weight in module.parameters() if weight.requires_grad]
            kept = 2 + any(isinstance(each, AveragedWeights) for each in self._trainer.callbacks)  # type: ignore[attr-defined]
            self._state = torch.empty(kept * sum(weight.numel() for weight in trained), device=self._device)
            for weight in trained:
                weight.grad = torch.zeros_like(weight)
            self._copy = module
        return self._copy

    def _state_bytes(self) -> int:
        """Return the bytes that the system does not count yet, since nothing was written into them."""
        return 0 if self._state is None else self._state.nbytes

    def release(self) -> None:
        """Give all memory back."""
        self._copy = self._state = None
        self._tidy()

    def _tidy(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
