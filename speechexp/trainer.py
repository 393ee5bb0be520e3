"""The trainer: hardware, precision, epochs, callbacks, loggers."""

import math
import os
import warnings
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch

from speechexp.averaging import AveragedWeights
from speechexp.checkpointing import BatchBound, KeepBest, KeepLast, SeedSteps, WholeCheckpoints
from speechexp.console import say_row
from speechexp.errors import UserError
from speechexp.hardware import (
    AcceleratorName,
    Machine,
    choose,
    keep_freed_memory,
    known_peak_tflops,
    rocm_environment,
)
from speechexp.profiling import OperatorProfile, ProfilerName, profiler_of
from speechexp.progress import EpochTable
from speechexp.ran_out import BatchUnderWay
from speechexp.signals import StopSignal
from speechexp.tensorboard import Curves, Examples
from speechexp.throughput import Throughput

PrecisionName = Literal["auto", "32-true", "16-mixed", "bf16-mixed"]


def build_trainer(
    run_folder: Path,
    seed: int,
    stop: StopSignal | None = None,
    accelerator: AcceleratorName = "auto",
    precision: PrecisionName = "auto",
    devices: int = 1,
    max_epochs: int = 5,
    max_steps: int = -1,
    gradient_clip_val: float | None = 1.0,
    accumulate_grad_batches: int = 1,
    check_val_every_n_epoch: int = 1,
    limit_train_batches: int | float = 1.0,
    limit_val_batches: int | float = 1.0,
    limit_test_batches: int | float = 1.0,
    log_every_n_steps: int = 20,
    num_sanity_val_steps: int = 0,
    deterministic: bool = False,
    profiler: ProfilerName | None = None,
    checkpoint_every_minutes: float | None = 15,
    num_examples: int = 4,
    peak_tflops: float | None = None,
    weight_averaging: float | None = None,
) -> pl.Trainer:
    """Build a Lightning trainer that writes into a run folder.

    Args:
        run_folder: Gets ``checkpoints/``, ``tensorboard/`` and ``profile/``.
        seed: Of what is random in each step.
        stop: Tells that a signal has come.
        accelerator: ``auto`` takes a GPU where there is one.
        precision: ``auto`` is fp16 mixed on a GPU and 32-bit on a CPU.
        devices: How many GPUs, or CPU processes.
        max_epochs: Epochs, -1 for no end.
        max_steps: Optimizer steps, -1 for no end.
        gradient_clip_val: Largest norm of the gradient; None for no limit.
        accumulate_grad_batches: Batches to an optimizer step.
        check_val_every_n_epoch: Epochs to a validation.
        limit_train_batches: Use only so many batches (an int) or so large a share (a float).
        limit_val_batches: The same for validation.
        limit_test_batches: The same for the test.
        log_every_n_steps: Steps to a point in TensorBoard.
        num_sanity_val_steps: Validation batches to try before training.
        deterministic: Refuse operations whose result varies from run to run.
        profiler: What tells where the time goes, in ``profile/`` (see `speechexp.profiling`).
        checkpoint_every_minutes: Save last.ckpt also within an epoch; None for only at its end.
        num_examples: Validation clips shown in TensorBoard.
        peak_tflops: What the device can do at most, in TFLOP/s; None takes the vendor's figure where it is known.
        weight_averaging: Decay of an exponential moving average of the weights, such as 0.999, which is what is
            validated, kept as the best and tested (see `speechexp.averaging`); None for the weights themselves.

    Raises:
        UserError: The hardware that was asked for is not there, or a value can't be.
    """
    for name, count in (("max_epochs", max_epochs), ("max_steps", max_steps)):
        if count != -1 and count < 1:
            raise UserError(f"trainer.{name} must be at least 1, or -1 for no end, but is {count} instead.")
    if max_epochs == max_steps == -1:
        raise UserError("trainer.max_epochs=-1 has no end: set trainer.max_steps as well.")
    if devices != 1:
        raise UserError(
            f"trainer.devices={devices}: training on several devices is not built yet; leave it at 1."
        )
    if peak_tflops is not None and not 0 < peak_tflops < math.inf:
        raise UserError(
            f"trainer.peak_tflops={peak_tflops} must be above 0: the TFLOP/s that the device can do at most in this "
            "precision, without sparsity. Leave it at null where that isn't known."
        )
    if weight_averaging is not None and not 0 < weight_averaging < 1:
        raise UserError(
            f"trainer.weight_averaging={weight_averaging} must be above 0 and below 1, such as 0.999, which averages "
            "over about 1000 steps. Leave it at null for none."
        )
    machine = Machine.here()
    choice = choose(machine, accelerator, precision)
    if choice.rocm:
        rocm_environment(os.environ)
    if choice.accelerator == "cpu":
        keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = False  # its search for each shape costs more than it finds
        torch.set_float32_matmul_precision("high")
    _quiet()
    checkpoints = run_folder / "checkpoints"
    if peak_tflops is None and choice.accelerator == "gpu":
        peak_tflops = known_peak_tflops(machine.gpus[0], choice.precision)
    say_row("hardware", choice.explanation + (f", peak {peak_tflops:g} TFLOP/s" if peak_tflops else ""))
    if profiler is not None:
        say_row("profile", f"{profiler}, into {run_folder / 'profile'}")
    return pl.Trainer(
        default_root_dir=run_folder,
        accelerator=choice.accelerator,
        precision=choice.precision,  # type: ignore[arg-type]
        devices=devices,
        max_epochs=max_epochs,
        max_steps=max_steps,
        gradient_clip_val=gradient_clip_val,
        accumulate_grad_batches=accumulate_grad_batches,
        check_val_every_n_epoch=check_val_every_n_epoch,
        limit_train_batches=limit_train_batches,
        limit_val_batches=limit_val_batches,
        limit_test_batches=limit_test_batches,
        log_every_n_steps=log_every_n_steps,
        num_sanity_val_steps=num_sanity_val_steps,
        deterministic=deterministic,
        profiler=profiler_of(profiler, run_folder / "profile"),
        use_distributed_sampler=False,
        plugins=[WholeCheckpoints()],
        enable_model_summary=False,
        logger=Curves(run_folder, name="tensorboard", version="", default_hp_metric=False),
        callbacks=[
            BatchUnderWay(),
            BatchBound(),
            SeedSteps(seed),
            *([] if weight_averaging is None else [AveragedWeights(weight_averaging)]),
            Throughput(peak_tflops),
            Examples(num_examples),
            EpochTable(),
            *([OperatorProfile(run_folder / "profile")] if profiler == "pytorch" else []),
            KeepBest(checkpoints),
            KeepLast(checkpoints / "last.ckpt", stop, checkpoint_every_minutes),
        ],
    )


def _quiet() -> None:
    """Silence what Lightning says to people who write their own loops."""
    import logging

    # Once pyannote has imported lightning.pytorch, what both say comes from its logger.
    for name in ("pytorch_lightning", "lightning.pytorch"):
        for logger in (name, f"{name}.utilities.rank_zero"):
            logging.getLogger(logger).setLevel(logging.WARNING)
    for message in (
        "You're resuming from a checkpoint that ended before the epoch ended",  # DurationBatches goes on there
        "The '.*_dataloader' does not have many workers",
        "Checkpoint directory .* exists and is not empty",
        "Experiment logs directory .* exists",
        "The dirpath has changed from",
        "The number of training batches",
        "Trying to infer the `batch_size`",
        "You are using a custom batch sampler",
        "Found .* module.s. in eval mode",  # networks that are not trained, such as one that embeds voices
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module="pytorch_lightning")
