"""Profiles of a run: where the time goes, written into its folder."""

import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, SimpleProfiler

ProfilerName = Literal["simple", "advanced", "pytorch"]
_SKIPPED, _RECORDED = 4, 4  # batches: the first ones choose kernels and allocate
_ROWS = 60


def profiler_of(name: ProfilerName | None, folder: Path) -> Profiler | None:
    """Return Lightning's profiler of that name, which writes ``<stage>-<name>.txt``; None where it has none.

    Args:
        name: ``simple`` times Lightning's actions, ``advanced`` Python's functions.
        folder: Is made when there is something to write.
    """
    if name == "simple":
        return _StageProfiler(dirpath=folder, filename=name)
    return AdvancedProfiler(dirpath=folder, filename=name) if name == "advanced" else None


class _StageProfiler(SimpleProfiler):
    """Tells of each stage alone: Lightning's own counts training again in the test that follows it."""

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Begin anew."""
        super().setup(stage, local_rank, log_dir)
        self.recorded_durations.clear()
        self.start_time = time.perf_counter()


class OperatorProfile(Callback):
    """Records a few batches with ``torch.profiler``: ``<stage>-pytorch.txt``, and a trace beside it.

    Lightning's own PyTorchProfiler goes on recording to the end of the run where validation has fewer than five
    batches (86 MB for three short epochs of the tiny network), and its table holds validation alone.

    Args:
        folder: Is made when there is something to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._profile: Any = None
        self._stage = ""
        self._seen = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to count batches."""
        self._seen = 0

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write what there is, if the stage was short."""
        if self._profile is not None:
            self._write()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Begin to record, if it is time."""
        batches = float(trainer.num_training_batches)
        self._begin("fit", pl_module, batches if trainer.max_steps < 0 else min(batches, trainer.max_steps))

    def on_train_batch_end(self, *_: Any) -> None:
        """Count the batch."""
        self._count()

    def on_test_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Begin to record, if it is time."""
        self._begin("test", pl_module, float(trainer.num_test_batches[0]))

    def on_test_batch_end(self, *_: Any) -> None:
        """Count the batch."""
        self._count()

    def on_predict_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Begin to record, if it is time."""
        self._begin("predict", pl_module, float(trainer.num_predict_batches[0]))

    def on_predict_batch_end(self, *_: Any) -> None:
        """Count the batch."""
        self._count()

    def _begin(self, stage: str, module: pl.LightningModule, batches: float) -> None:
        if self._seen == (_SKIPPED if batches >= _SKIPPED + _RECORDED else 0):
            activities = [torch.profiler.ProfilerActivity.CPU]
            if module.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._stage = stage
            self._profile = torch.profiler.profile(activities=activities, acc_events=True)
            self._profile.start()

    def _count(self) -> None:
        self._seen += 1
        if self._profile is None:
            return
        self._profile.step()
        if self._seen >= _SKIPPED + _RECORDED:
            self._write()

    def _write(self) -> None:
        self._profile.stop()
        self.folder.mkdir(exist_ok=True)
        device = torch.profiler.ProfilerActivity.CUDA in self._profile.activities
        order = "self_device_time_total" if device else "self_cpu_time_total"
        table = self._profile.key_averages().table(sort_by=order, row_limit=_ROWS)
        (self.folder / f"{self._stage}-pytorch.txt").write_text(table, encoding="utf-8")
        self._profile.export_chrome_trace(str(self.folder / f"{self._stage}-pytorch.json.gz"))
        self._profile = None
