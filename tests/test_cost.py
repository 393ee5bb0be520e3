"""What training costs: the figures are where they are looked for, and mean what their names say."""

import gzip
import json
import resource
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from speechexp.asr import SpeechRecognizer
from speechexp.batch import AudioBatch, Clip
from speechexp.corpora.spanish_mini import SpanishMini
from speechexp.errors import UserError
from speechexp.hardware import known_peak_tflops
from speechexp.loading import PreparedClips
from speechexp.optim import adamw, linear
from speechexp.recognition import SpeechRecognition
from speechexp.report import say_cost, write_report
from speechexp.throughput import Throughput
from speechexp.trainer import build_trainer

NAMES = ("audio_seconds_per_second", "data_wait_share", "padding_share", "peak_memory_gb", "mfu")
PEAK = 0.25  # TFLOP/s
TOY: dict[str, Any] = {"conv_dim": [8, 8, 8], "conv_kernel": [20, 8, 8], "conv_stride": [10, 8, 8],
                       "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                       "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}  # fmt: skip


class Batches(pl.Callback):
    """Keeps the training batches, and the rows of each."""

    def __init__(self) -> None:
        self.seen: list[AudioBatch] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: Any, batch: AudioBatch, batch_idx: int
    ) -> None:
        self.seen.append(batch)


def fit(
    folder: Path, *callbacks: pl.Callback, data: type[SpanishMini] = SpanishMini, **options: Any
) -> tuple[Throughput, SpeechRecognizer]:
    """Train, and return what measured it, and the network."""
    task = SpeechRecognition()
    corpus = data(
        task, train_utterances=40, validation_utterances=8, test_utterances=8, batch_seconds=8.0, seed=1
    )
    corpus.load(lambda *_: None)
    task.learn_labels(corpus.references("train"))
    module = SpeechRecognizer(
        task, network=TOY, optimizer=partial(adamw, lr=1e-3), schedule=partial(linear, warmup=1)
    )
    corpus.drop_infeasible(module.num_frames)
    trainer = build_trainer(folder, seed=1, accelerator="cpu", max_epochs=2, peak_tflops=PEAK, **options)
    trainer.callbacks.extend(callbacks)
    trainer.fit(module, corpus, weights_only=True)
    return next(each for each in trainer.callbacks if isinstance(each, Throughput)), module


# ---------------------------------------------------------------------------------- where the figures are


@pytest.fixture(scope="module")
def costed(tmp_path_factory, cache_dir) -> tuple[Path, str]:
    """The folder of a run on a device whose peak is told, and what the run printed."""
    import contextlib
    import io
    import os

    from speechexp.__main__ import main
    from speechexp.console import console

    folder = tmp_path_factory.mktemp("costed") / "run"
    os.environ["SPEECHEXP_CACHE"] = str(cache_dir)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        console.file = printed
        assert (
            main([*SMALL, "trainer.max_epochs=2", f"trainer.peak_tflops={PEAK}", f"hydra.run.dir={folder}"])
            == 0
        )
        console.file = None
    return folder, printed.getvalue()


def epochs_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def test_each_epoch_and_the_run_tell_what_they_cost(costed):
    folder, _ = costed
    for figures in (*epochs_of(folder), metrics_of(folder)):
        assert {f"train/{name}" for name in NAMES} <= set(figures)
        assert figures["train/audio_seconds_per_second"] > 0
        assert 0 <= figures["train/data_wait_share"] < 1
        assert 0 < figures["train/padding_share"] < 1
    seconds = [epoch["train/seconds"] for epoch in epochs_of(folder)]
    assert metrics_of(folder)["train/seconds"] == pytest.approx(sum(seconds))


def test_tensorboard_has_a_point_an_epoch_over_the_optimizer_step(costed):
    folder, _ = costed
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    for name in NAMES:
        points = [(event.step, event.value) for event in events.Scalars(f"cost/{name}")]
        wanted = [(epoch["step"], epoch[f"train/{name}"]) for epoch in epochs_of(folder)]
        assert [step for step, _ in points] == [step for step, _ in wanted]
        assert [value for _, value in points] == pytest.approx([value for _, value in wanted])
    assert "epoch" not in events.Tags()["scalars"]


def test_the_console_says_in_a_line_what_training_cost(costed):
    folder, printed = costed
    line = next(line for line in printed.splitlines() if line.startswith("cost "))
    assert f"{metrics_of(folder)['train/audio_seconds_per_second']:.0f} audio s/s, " in line
    for words in (" % waiting for data, ", " % padding, ", "peak memory ", " GB, ", "MFU "):
        assert words in line


def test_without_a_known_peak_there_is_no_mfu_and_the_rest_is_there(trained):
    for figures in (*epochs_of(trained), metrics_of(trained)):
        assert "train/mfu" not in figures
        assert "train/peak_memory_gb" in figures


def test_a_run_that_took_no_step_says_nothing_of_cost(capfd):
    assert Throughput(PEAK).figures() == Throughput(PEAK).epoch_figures() == {}
    say_cost({})
    assert capfd.readouterr().out == ""


def test_the_report_keeps_its_columns_when_an_epoch_has_fewer_figures(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    first, second = epochs_of(folder)
    short = {name: value for name, value in second.items() if not name.startswith("train/")}
    (folder / "epochs.jsonl").write_text(json.dumps(short) + "\n" + json.dumps(first) + "\n")
    write_report(folder)
    table = (folder / "report.html").read_text().split("<h2>Figures")[0]
    head, *rows = table.split("<tr>")[1:]
    assert {row.count("<td") for row in rows} == {head.count("<th")} == {len(first)}


# --------------------------------------------------------------------------------- what the figures mean


def test_padding_is_the_share_of_what_is_computed_that_no_clip_has(tmp_path):
    batches = Batches()
    throughput, _ = fit(tmp_path, batches)
    computed = sum(batch.audio.numel() for batch in batches.seen)
    true = sum(int(batch.lengths.sum()) for batch in batches.seen)
    assert throughput.figures()["train/padding_share"] == pytest.approx(1 - true / computed)


def test_audio_and_mfu_are_over_the_seconds_of_training(tmp_path):
    batches = Batches()
    throughput, module = fit(tmp_path, batches)
    figures = throughput.figures()
    audio = sum(float(batch.lengths.sum()) for batch in batches.seen) / 16_000
    assert figures["train/audio_seconds_per_second"] == pytest.approx(audio / figures["train/seconds"])
    flops = sum(module.training_flops(batch) for batch in batches.seen)
    assert flops > 0
    assert figures["train/mfu"] == pytest.approx(flops / (figures["train/seconds"] * PEAK * 1e12))


def test_a_frozen_encoder_and_padding_count_as_they_are_computed(tmp_path):
    batches = Batches()
    _, module = fit(tmp_path, batches)
    batch = batches.seen[0]
    whole = module.training_flops(batch)
    longer = replace(batch, audio=torch.cat([batch.audio, torch.zeros_like(batch.audio)], dim=1))
    assert module.training_flops(longer) > 1.9 * whole
    module.network.freeze_feature_encoder()
    assert module.training_flops(batch) < whole


SLEEP = 0.02


class SlowlyRead(PreparedClips):
    """Clips that take their time."""

    def __getitem__(self, number: int) -> Clip:
        time.sleep(SLEEP)
        return super().__getitem__(number)


class SlowClips(SpanishMini):
    """A source that takes its time with each clip."""

    def clips(self, split: str) -> SlowlyRead:
        clips = super().clips(split)
        clips.__class__ = SlowlyRead
        return clips


def test_a_slow_loader_shows_up_as_waiting_for_data(tmp_path):
    batches = Batches()
    throughput, _ = fit(tmp_path, batches, data=SlowClips)
    figures = throughput.figures()
    per_epoch = len(batches.seen) // 2
    # an epoch's clock starts with its first step, so the first batch's loading is outside
    loaded = sum(len(batch) for i, batch in enumerate(batches.seen) if i % per_epoch)
    waited = figures["train/data_wait_share"] * figures["train/seconds"]
    assert waited >= SLEEP * loaded
    assert figures["train/data_wait_share"] < 1


class SlowElsewhere(pl.Callback):
    """Takes its time with what isn't training, and times the whole."""

    def __init__(self) -> None:
        self.slept = {"validation": 0.0, "checkpoints": 0.0}

    def _sleep(self, what: str) -> None:
        time.sleep(0.1)
        self.slept[what] += 0.1

    def on_train_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.began

    def on_validation_batch_start(self, *_: Any) -> None:
        self._sleep("validation")

    def on_save_checkpoint(self, *_: Any) -> None:
        self._sleep("checkpoints")


def test_validation_and_checkpoints_are_not_training(tmp_path):
    slow = SlowElsewhere()
    throughput, _ = fit(tmp_path, slow, checkpoint_every_minutes=0)  # a checkpoint at each step
    assert min(slow.slept.values()) > 0.5
    assert throughput.figures()["train/seconds"] < slow.seconds - sum(slow.slept.values())


def test_peak_memory_is_the_process_in_gigabytes(tmp_path):
    def resident() -> float:
        status = Path("/proc/self/status")
        if not status.is_file():
            pytest.skip("no /proc here")
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1]) / 1e9

    before = resident()
    throughput, _ = fit(tmp_path)
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    assert 0.95 * before <= throughput.figures()["train/peak_memory_gb"] <= most


@pytest.mark.gpu
def test_on_a_gpu_peak_memory_is_what_torch_gave_out(tmp_path, cache_dir, speechexp):
    ended = speechexp([*SMALL, "trainer=auto", "trainer.max_epochs=1", "hydra.run.dir=run"])
    assert ended.code == 0, ended.err
    figures = metrics_of(tmp_path / "run")
    assert 0 < figures["train/peak_memory_gb"] * 1e9 < torch.cuda.get_device_properties(0).total_memory
    name = torch.cuda.get_device_name(0)
    assert ("train/mfu" in figures) == (known_peak_tflops(name, "16-mixed") is not None)


# -------------------------------------------------------------------------------------- a device's peak


@pytest.mark.parametrize(
    ("gpu", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989.4),
        ("NVIDIA H100 PCIe", "16-mixed", 756.0),
        ("NVIDIA H200", "32-true", 494.7),
        ("NVIDIA A100-SXM4-80GB", "16-mixed", 312.0),
        ("NVIDIA A100 80GB PCIe", "32-true", 156.0),
        ("NVIDIA A10", "16-mixed", 125.0),
        ("Tesla V100-SXM2-32GB", "32-true", 15.7),
        ("AMD Instinct MI250X", "bf16-true", 191.5),
        ("AMD Instinct MI300X", "16-mixed", 1307.4),
        # not known
        ("NVIDIA A10G", "16-mixed", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "16-mixed", None),
        ("NVIDIA H20", "16-mixed", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "16-mixed", None),
        ("AMD Instinct MI250X/MI250", "16-mixed", None),
        ("Tesla V100-SXM2-32GB", "bf16-mixed", None),  # it has no bf16
        ("NVIDIA H200", "64-true", None),
    ],
)
def test_a_peak_is_known_by_the_whole_name_and_the_precision(gpu, precision, peak):
    assert known_peak_tflops(gpu, precision) == peak


@pytest.mark.parametrize("peak", [0, -1.0, float("inf"), float("nan")])
def test_a_peak_that_can_not_be_is_refused(peak, tmp_path):
    with pytest.raises(UserError, match=r"trainer\.peak_tflops=.* must be above 0"):
        build_trainer(tmp_path, seed=1, accelerator="cpu", peak_tflops=peak)


def test_a_peak_in_words_is_refused_on_the_command_line(speechexp):
    ended = speechexp(["trainer.peak_tflops=fast"])
    assert ended.code == 2
    assert "trainer.peak_tflops" in ended.err


# --------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("name", ["simple", "advanced", "pytorch"])
def test_a_profiler_writes_into_the_run_folder_a_file_for_each_stage(name, speechexp, tmp_path):
    ended = speechexp([*SMALL, "trainer.max_epochs=1", f"trainer.profiler={name}", "hydra.run.dir=run"])
    assert ended.code == 0, ended.err
    folder = tmp_path / "run" / "profile"
    assert str(folder) in ended.out
    fitted, tested = ((folder / f"{stage}-{name}.txt").read_text() for stage in ("fit", "test"))
    marks = {"simple": ("training_step", "test_step"), "advanced": ("training_step", "test_step"),
             "pytorch": ("convolution_backward", "aten::convolution")}  # fmt: skip
    assert marks[name][0] in fitted
    assert marks[name][1] in tested
    assert marks[name][0] not in tested  # a stage by itself
    assert len(ended.out.splitlines()) < 60  # nothing of it on the console


@pytest.mark.slow
def test_a_trace_stays_small_where_validation_is_short(speechexp, tmp_path):
    ended = speechexp([*SMALL, "trainer.max_epochs=3", "data.validation_utterances=1", "trainer.profiler=pytorch",
                       "hydra.run.dir=run"])  # fmt: skip
    assert ended.code == 0, ended.err
    with gzip.open(tmp_path / "run" / "profile" / "fit-pytorch.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert [event["name"] for event in events].count("Optimizer.step#AdamW.step") == 4


def test_training_loss_does_not_depend_on_how_many_batches_make_a_step(speechexp, tmp_path):
    losses = []
    for batches in (1, 2):
        run = f"run{batches}"
        ended = speechexp(
            [*SMALL, "trainer.max_epochs=1", "model.optimizer.lr=1e-12", f"trainer.accumulate_grad_batches={batches}",
             f"hydra.run.dir={run}"]
        )  # fmt: skip
        assert ended.code == 0, ended.err
        losses.append(json.loads((tmp_path / run / "epochs.jsonl").read_text())["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
