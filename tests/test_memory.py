"""The largest batch that fits, and what happens when memory runs out."""

import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, Ended
from helpers_memory import SmallDevice

from speechexp import largest_batch
from speechexp.asr import SpeechRecognizer
from speechexp.batch import AudioBatch, Clip
from speechexp.corpora.spanish_mini import SpanishMini
from speechexp.errors import UserError
from speechexp.hardware import keep_freed_memory
from speechexp.largest_batch import Found, search, settle
from speechexp.memory import PeakMemory, available_memory, is_out_of_memory
from speechexp.optim import adamw, linear
from speechexp.ran_out import BatchFacts, BatchUnderWay, out_of_memory
from speechexp.recognition import SpeechRecognition
from speechexp.trainer import build_trainer

DEVICE = [
    *SMALL,
    "model._target_=helpers_memory.SmallDevice",
    "model.schedule._target_=speechexp.optim.linear",
]


@pytest.fixture(autouse=True)
def _a_device_without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("training_seconds", {}),
        ("evaluation_seconds", float("inf")),
        ("trained", {}),
        ("rates", []),
    ):
        monkeypatch.setattr(SmallDevice, name, value)
    monkeypatch.setattr(largest_batch, "MIN_BATCHES", 2)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


# ---------------------------------------------------------------------------------- telling that it ran out


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.OutOfMemoryError("whatever it says"),
        RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB (GPU 0; 63.98 GiB total capacity)"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("HIP error: out of memory"),
        RuntimeError("hipErrorOutOfMemory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
        RuntimeError("rocblas_status_memory_error"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("miopenStatusAllocFailed"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: …"),
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((9,), np.dtype("f4")),  # type: ignore[attr-defined]
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:30]}",
)  # fmt: skip
def test_memory_that_ran_out_is_recognised_also_as_a_cause(error: Exception) -> None:
    assert is_out_of_memory(error)
    wrapped = ValueError("a step failed")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)
    while_handling = KeyError("teardown")
    while_handling.__context__ = wrapped
    assert is_out_of_memory(while_handling)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA out of memory"),  # no allocator raises that
        FileNotFoundError("CUDA out of memory.wav"),
        UserError("HIP out of memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("miopenStatusUnknownError"),
        RuntimeError("could not create a primitive"),  # without a limit on the address space it is something else
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
        RuntimeError("the memory of the run is out of date"),
        OSError(28, "No space left on device"),
        RuntimeError(),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:30]}",
)  # fmt: skip
def test_what_only_sounds_like_it_is_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_what_was_raised_from_none_hides_its_context_and_circles_end() -> None:
    error = ValueError("another matter")
    error.__context__ = MemoryError()
    error.__suppress_context__ = True
    assert not is_out_of_memory(error)
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert not is_out_of_memory(one)


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_free_memory_is_the_machines_or_what_the_tightest_group_leaves(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    assert available_memory(machine(tmp_path, {})) == 8000 * 1024
    limited = {
        "proc/self/cgroup": "0::/job/step\n",
        "sys/fs/cgroup/memory.max": "max\n",
        "sys/fs/cgroup/job/memory.max": "5000000\n",
        "sys/fs/cgroup/job/memory.current": "3000000\n",
        "sys/fs/cgroup/job/memory.stat": "anon 2500000\ninactive_file 500000\n",
        "sys/fs/cgroup/job/step/memory.max": "9000000\n",
        "sys/fs/cgroup/job/step/memory.current": "100\n",
    }
    assert available_memory(machine(tmp_path, limited)) == 2_500_000


def test_free_memory_of_the_older_kind_of_group(tmp_path: Path) -> None:
    # in a container the group's own path, which is the host's, does not exist
    limited = {
        "proc/self/cgroup": "12:cpu,cpuacct:/x\n5:memory:/docker/abc\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "3900000\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 1000\n",
    }
    assert available_memory(machine(tmp_path, limited)) == 101_000


def test_the_peak_of_a_measurement_is_seen_after_the_memory_is_given_back() -> None:
    keep_freed_memory()  # as a training on a CPU does: what was freed would be taken again unseen
    np.ones(2**25)
    memory = PeakMemory()
    memory.begin()
    before = memory.now()
    np.ones(2**25)
    assert memory.peak() - before > 200 * 2**20
    memory.begin()
    assert memory.peak() - before < 100 * 2**20


# ------------------------------------------------------------------------------------------------- searching


def tried(fits: int, most: int, verdict: Any = "refused") -> tuple[Found, list[int]]:
    counts: list[int] = []

    def attempt(count: int) -> Any:
        counts.append(count)
        return "fits" if count <= fits else verdict

    return search(attempt, most), counts


def test_the_search_doubles_until_it_fails_and_then_looks_between() -> None:
    assert tried(37, 1000) == (Found(36, 40, "refused"), [1, 2, 4, 8, 16, 32, 64, 48, 40, 36])


def test_the_search_ends_when_nothing_lies_between() -> None:
    assert tried(3, 1000) == (Found(3, 4, "refused"), [1, 2, 4, 3])
    assert tried(1, 1000) == (Found(1, 2, "refused"), [1, 2])


def test_the_search_does_not_go_beyond_what_it_may() -> None:
    assert tried(1000, 12) == (Found(12), [1, 2, 4, 8, 12])
    assert tried(1000, 1) == (Found(1), [1])


def test_the_search_finds_that_nothing_fits() -> None:
    assert tried(0, 1000) == (Found(0, 1, "refused"), [1])


def test_the_search_says_what_stopped_it() -> None:
    assert tried(5, 1000, "too much")[0] == Found(5, 6, "too much")


def test_the_search_never_exceeds_what_fits_and_comes_within_an_eighth() -> None:
    for fits in range(1, 200):
        found, counts = tried(fits, 10_000)
        assert found.above is not None
        assert found.clips <= fits < found.above
        assert found.above - found.clips <= max(found.clips / 8, 1)
        assert len(counts) < 14


# ------------------------------------------------------------------------- data.batch_seconds=auto, as objects


def objects(
    folder: Path, kind: Callable[..., SpeechRecognizer] = SmallDevice, **network: Any
) -> tuple[SpeechRecognizer, SpanishMini, Any]:
    task = SpeechRecognition()
    data = SpanishMini(
        task, train_utterances=40, validation_utterances=8, test_utterances=8, batch_seconds="auto"
    )
    data.load(lambda *_: None)
    task.learn_labels(data.references("train"))
    small = {"conv_dim": [8] * 3, "conv_kernel": [20, 8, 8], "conv_stride": [10, 8, 8], "hidden_size": 16,
             "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
             "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}  # fmt: skip
    module = kind(
        task, network=small | network, optimizer=partial(adamw, lr=1e-2), schedule=partial(linear, warmup=3)
    )
    trainer = build_trainer(folder, seed=1, accelerator="cpu", max_epochs=1)
    return module, data, trainer


def longest(data: SpanishMini) -> float:
    """Return the padded seconds of the longest training clip."""
    return float(-(-len(data.longest_clip("train").audio) // 3200) * 0.2)


def test_the_batch_that_was_found_is_as_large_as_fits_with_a_tenth_kept_free(tmp_path: Path) -> None:
    module, data, trainer = objects(tmp_path)
    clip = longest(data)
    SmallDevice.training_seconds = {0: 5.5 * clip}
    told = settle(module, data, trainer)
    assert data.batch_seconds == pytest.approx(0.9 * 5 * clip)
    assert told == (
        f"auto: {data.batch_seconds:g} s of audio (5 clips of {clip:g} s fitted, 6 ran out of memory, "
        "a tenth is kept free)"
    )


def test_a_single_clip_that_fits_is_a_batch(tmp_path: Path) -> None:
    module, data, trainer = objects(tmp_path)
    SmallDevice.training_seconds = {0: 1.5 * longest(data)}
    assert "1 clip of" in settle(module, data, trainer)
    assert data.batch_seconds == pytest.approx(longest(data))


def test_an_epoch_keeps_its_batches(tmp_path: Path) -> None:
    module, data, trainer = objects(tmp_path)
    told = settle(module, data, trainer)
    assert "1/2 of an epoch" in told
    assert len(data.train_dataloader()) >= 2
    assert data.batch_seconds <= data.hours("train") * 3600 / 2


def test_on_a_cpu_the_growth_stops_at_a_share_of_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data, trainer = objects(tmp_path, conv_dim=[64] * 3)
    monkeypatch.setattr(largest_batch, "available_memory", lambda: 48 * 2**20)
    told = settle(module, data, trainer)
    assert "would take more than 60% of the 0.0 GiB free" in told
    assert data.batch_seconds < data.hours("train") * 3600 / 4


def test_the_search_tries_the_longest_clip_under_the_longest_label(tmp_path: Path) -> None:
    seen: list[AudioBatch] = []

    class Watched(SpeechRecognizer):
        def training_step(self, batch: AudioBatch, batch_idx: int) -> torch.Tensor:
            seen.append(batch)
            return super().training_step(batch, batch_idx)

    module, data, trainer = objects(tmp_path, Watched)
    settle(module, data, trainer)
    indices = data._indices["train"]
    assert {batch.lengths.max().item() for batch in seen} == {data.manifest.num_samples[indices].max()}
    label = max(len(data.task.encode(reference)) for reference in data.references("train"))
    assert {batch.targets.shape[1] for batch in seen} == {label}
    assert all(len(set(batch.lengths.tolist())) == 2 for batch in seen if len(batch) > 1)  # with padding


def test_the_search_leaves_everything_as_it_was(tmp_path: Path) -> None:
    module, data, trainer = objects(
        tmp_path, hidden_dropout=0.5, layerdrop=0.5, mask_time_prob=0.2, mask_time_length=2
    )
    SmallDevice.training_seconds = {0: 3.5 * longest(data)}
    module.network.wav2vec2.encoder.eval()

    def state() -> dict[str, Any]:
        return {
            "weights": {name: each.clone() for name, each in module.state_dict().items()},
            "modes": [each.training for each in module.modules()],
            "gradients": [each.grad for each in module.parameters()],
            "random": (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()),
            "records": list(module.records),
        }

    before = state()
    settle(module, data, trainer)
    after = state()
    assert module.device.type == "cpu"
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert SmallDevice.trained == {}
    assert module._trainer is None


def test_data_without_a_number_says_so(tmp_path: Path) -> None:
    _, data, _ = objects(tmp_path)
    with pytest.raises(RuntimeError, match="settle"):
        data.train_dataloader()


# ------------------------------------------------------------------------------- data.batch_seconds=auto, runs


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_run_with_auto_is_the_run_with_the_number_and_resuming_keeps_it(
    speechexp: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SmallDevice.training_seconds = {0: 9.0}
    ended = speechexp([*DEVICE, "data.batch_seconds=auto", "trainer.max_epochs=1", "hydra.run.dir=auto"])
    assert ended.code == 0, ended.err
    found = record(tmp_path / "auto")["batch_seconds"]
    assert 2 < found <= 9
    assert f"auto: {found:g} s of audio" in ended.out
    assert (
        speechexp(
            [*DEVICE, f"data.batch_seconds={found}", "trainer.max_epochs=1", "hydra.run.dir=number"]
        ).code
        == 0
    )
    torch.testing.assert_close(weights(tmp_path / "auto"), weights(tmp_path / "number"), rtol=0, atol=0)
    epochs = [(tmp_path / each / "metrics.json").read_text() for each in ("auto", "number")]
    assert len({re.search(r'"test/loss": .*', each)[0] for each in epochs}) == 1  # type: ignore[index]

    def again(*_: Any) -> str:
        raise AssertionError("the run searched again")

    monkeypatch.setattr(largest_batch, "settle", again)
    for folder in ("auto", "number"):
        resumed = speechexp([f"resume={tmp_path / folder}", "trainer.max_epochs=2"])
        assert resumed.code == 0, resumed.err
    assert record(tmp_path / "auto")["batch_seconds"] == found
    torch.testing.assert_close(weights(tmp_path / "auto"), weights(tmp_path / "number"), rtol=0, atol=0)


def test_when_not_even_one_clip_fits_the_run_is_refused(
    speechexp: Callable[..., Ended], tmp_path: Path
) -> None:
    SmallDevice.training_seconds = {0: 0.5}
    ended = speechexp([*DEVICE, "data.batch_seconds=auto", "hydra.run.dir=run"])
    assert ended.code == 2
    for words in ("not even one clip", "data.max_seconds", "model.gradient_checkpointing=true"):
        assert words in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------- what is said


def facts(stage: str, clips: int) -> BatchFacts:
    return BatchFacts(stage, "epoch 3, step 7", clips, 12.0, 11.5 * clips, "es-17", 11.9)


@pytest.mark.parametrize(
    ("stage", "clips", "checkpointing", "settings", "words"),
    [
        ("training", 9, False, {"data.batch_seconds": 48.0}, ["data.batch_seconds=48", "gradient_checkpointing=true"]),
        ("training", 9, True, {"data.batch_seconds": 48.0}, ["data.batch_seconds=48."]),
        ("training", 1, False, {"model.gradient_checkpointing": "true"}, ["data.max_seconds"]),
        ("training", 1, True, {}, ["data.max_seconds below 11.9"]),
        ("validation", 9, False, {"data.eval_batch_seconds": 48.0}, ["data.eval_batch_seconds=48"]),
        ("the test", 1, False, {}, ["data.eval_max_seconds below 11.9", "trainer=cpu"]),
        ("prediction", 1, False, {}, ["shorter", "trainer=cpu"]),
    ],
)  # fmt: skip
def test_the_message_names_the_batch_and_what_to_set(
    stage: str, clips: int, checkpointing: bool, settings: dict[str, object], words: list[str]
) -> None:
    error = out_of_memory(MemoryError(), facts(stage, clips), checkpointing, on_gpu=True)
    assert error.settings == settings
    for each in (*words, "epoch 3, step 7", f"{clips} clip", "padded to 12 s", "es-17 (11.9 s)"):
        assert each in str(error)
    assert checkpointing is ("gradient_checkpointing" not in str(error)) or stage != "training"


def test_a_cpu_is_no_help_to_a_cpu() -> None:
    for stage in ("the test", "prediction"):
        assert "trainer=cpu" not in str(out_of_memory(MemoryError(), facts(stage, 1), False, on_gpu=False))


def test_without_a_batch_the_message_says_what_was_refused() -> None:
    assert "CUDA out of memory" in str(out_of_memory(RuntimeError("CUDA out of memory"), None, False, True))


def test_the_batch_under_way_is_known_by_numbers_and_ids_alone() -> None:
    clips = [Clip(name, np.zeros(size, np.int16), "", [1], {}) for name, size in (("a", 8000), ("b", 24000))]
    batch = AudioBatch.collate(clips, 32000, 16000)
    watch, trainer = BatchUnderWay(), SimpleNamespace(current_epoch=2, global_step=6)
    watch.on_train_batch_start(trainer, None, batch, 0)  # type: ignore[arg-type]
    assert watch.facts == BatchFacts("training", "epoch 3, step 7", 2, 2.0, 2.0, "b", 1.5)
    assert all(isinstance(value, (str, int, float)) for value in vars(watch.facts).values())
    watch.on_train_batch_end(trainer, None, None, batch, 0)
    assert watch.facts is None


# ------------------------------------------------------------------------------------ running out in a run


def command_in(out: str) -> list[str]:
    """Return the overrides of the command that was printed to go on with."""
    line = next(line for line in out.splitlines() if "resume=" in line)
    return shlex.split(line)[3:]


def assert_told(ended: Ended, folder: Path, *words: str) -> None:
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert ended.err.count("error:") == 1
    for each in ("Out of memory", *words):
        assert each in ended.err
    assert record(folder)["state"] == "failed"


EPOCHS = 3


@pytest.mark.parametrize("within", [False, True], ids=["an epoch's start", "within an epoch"])
def test_a_training_that_ran_out_goes_on_with_smaller_batches(
    speechexp: Callable[..., Ended], tmp_path: Path, within: bool
) -> None:
    plain = [*DEVICE, f"trainer.max_epochs={EPOCHS}", "data.batch_seconds=8", "hydra.run.dir=run"]
    if within:
        plain.append("trainer.checkpoint_every_minutes=0")
    SmallDevice.training_seconds = {17: 4.5}  # in the second epoch
    ended = speechexp(plain)
    folder = tmp_path / "run"
    assert_told(ended, folder, "in training, epoch 2", "data.batch_seconds=")
    typed = command_in(ended.out)
    assert typed[0] == f"resume={folder}"
    assert typed[1].startswith("data.batch_seconds=")
    seconds = float(typed[1].split("=")[1])
    assert 1 < seconds < 4.5
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["epoch"] == (1 if within else 0)
    SmallDevice.trained.clear()
    SmallDevice.rates.clear()
    ended = speechexp(typed)
    assert ended.code == 0, ended.err
    assert f"data.batch_seconds={seconds:g}, it was 8" in ended.out
    assert ("Epoch 2 begins again" in ended.out) is within
    assert sorted(SmallDevice.trained) == [1, 2]
    for ids in SmallDevice.trained.values():  # every clip, once
        assert len(set(ids)) == len(ids) == 40
    steps = saved["global_step"] + len(SmallDevice.rates)
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == steps
    assert SmallDevice.rates[-1] == 0  # the schedule ends where the run does
    assert SmallDevice.rates[0] > 0
    assert record(folder)["state"] == "done"
    assert record(folder)["batch_seconds"] == seconds


def test_a_validation_that_ran_out_goes_on_with_smaller_batches(
    speechexp: Callable[..., Ended], tmp_path: Path
) -> None:
    arguments = [*DEVICE, "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "hydra.run.dir=run"]
    SmallDevice.evaluation_seconds = 4.0
    ended = speechexp([*arguments, "trainer.checkpoint_every_minutes=0"])
    assert_told(ended, tmp_path / "run", "in validation, after step", "data.eval_batch_seconds=")
    ended = speechexp(command_in(ended.out))
    assert ended.code == 0, ended.err


def test_a_test_that_ran_out_keeps_its_folder(
    speechexp: Callable[..., Ended], tmp_path: Path, trained: Path
) -> None:
    SmallDevice.evaluation_seconds = 4.0
    again = [f"ckpt={trained}/checkpoints/best.ckpt", *DEVICE]
    ended = speechexp(["stage=test", *again, "hydra.run.dir=test"])
    assert_told(ended, tmp_path / "test", "in the test, batch ", "data.eval_batch_seconds=")
    assert "resume=" not in ended.out
    half = re.search(r"data.eval_batch_seconds=[\d.]+\d", ended.err)[0]  # type: ignore[index]
    assert speechexp(["stage=test", *again, half, "hydra.run.dir=again"]).code == 0


def test_a_recording_that_is_too_long_to_transcribe_is_named(
    speechexp: Callable[..., Ended], tmp_path: Path, trained: Path
) -> None:
    import soundfile

    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 16000 * 6), 16000)
    SmallDevice.evaluation_seconds = 4.0
    ended = speechexp(["stage=predict", f"ckpt={trained}/checkpoints/best.ckpt", *DEVICE, "inputs=long.wav",
                       "hydra.run.dir=out"])  # fmt: skip
    assert_told(ended, tmp_path / "out", "in prediction", "long.wav (6 s)", "Cut this file")


# ------------------------------------------------------------------------------------- real refusals


LIMITED = """
import resource, sys
from pathlib import Path
import speechexp.asr, speechexp.trainer, speechexp.corpora.spanish_mini
from torch.utils.tensorboard import SummaryWriter
from speechexp import largest_batch
from speechexp.__main__ import main
from test_memory import longest, objects

module, data, trainer = objects(Path("."), speechexp.asr.SpeechRecognizer, conv_dim=[256] * 3)
data.length_step_seconds = 5.0
largest_batch.MIN_BATCHES = 1


def leave(megabytes):
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20, hard))


leave(500)
print(largest_batch.settle(module, data, trainer))
leave(500)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the address space")
def test_an_allocator_that_really_refuses(tmp_path: Path) -> None:
    arguments = [*SMALL, "model.network.conv_dim=[256,256,256]", "data.batch_seconds=400",
                 "data.length_step_seconds=5", "hydra.run.dir=run"]  # fmt: skip
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        cwd=tmp_path,
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "ran out of memory" in child.stdout, child.stderr
    assert_told(Ended(child.returncode, child.stdout, child.stderr), tmp_path / "run", "in training, epoch 1, step 1",
                "clips padded to 5 s", "data.batch_seconds=")  # fmt: skip


@pytest.mark.gpu
def test_a_gpu_that_really_refuses(tmp_path: Path) -> None:
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / torch.cuda.mem_get_info()[1])
    try:
        module, data, _ = objects(tmp_path, SpeechRecognizer, conv_dim=[512] * 3)
        trainer = build_trainer(tmp_path, seed=1, accelerator="auto", max_epochs=1)
        largest_batch.MIN_BATCHES = 1
        data._indices["train"] *= 200
        told = settle(module, data, trainer)
        assert "ran out of memory" in told
        trainer.fit(module, data)
        assert trainer.global_step == len(data.train_dataloader())
        data.batch_seconds *= 2
        with pytest.raises(torch.OutOfMemoryError):
            trainer.fit(module, data)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
