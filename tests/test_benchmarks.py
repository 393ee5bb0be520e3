"""The benchmarks run from the repository root, and write the figures that they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SMALLEST = ["--epochs", "1", "--clips", "24", "--validation-clips", "4", "--threads", "1"]


def benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, f"scripts/{name}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def figures(file: Path, name: str, *arguments: str) -> dict:
    ended = benchmark(name, *arguments, "--out", str(file))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(file.read_text())
    assert {"torch", "transformers", "pytorch-lightning", "python"} <= set(found["versions"])
    assert found["machine"]["cores"] >= 1
    assert found["date"]
    assert f"scripts/{name}.py" in found["command"]
    return found


def test_startup_times_what_a_user_waits_for(tmp_path):
    sizes = [f"data.{split}_utterances=8" for split in ("train", "validation", "test")]
    found = figures(tmp_path / "startup.json", "bench_startup", "--runs", "1", *sizes)
    for name in ("config_error", "help", "cfg_job", "first_step", "phase_data", "phase_data_empty_cache"):
        assert found[f"{name}_seconds_min"] <= found[f"{name}_seconds"] <= found[f"{name}_seconds_max"], name
    # the step comes after the data, in the same process; a config error before either
    assert found["first_step_seconds"] > found["phase_imports_seconds"] + found["phase_data_seconds"]
    assert found["config_error_seconds"] < found["first_step_seconds"]


def test_scoring_compares_sides_that_agree(tmp_path):
    found = figures(tmp_path / "scoring.json", "bench_scoring", "--clips", "30", "--repeats", "2")
    assert 0.02 < found["wer"] < 0.3
    assert 0 < found["cer"] < found["wer"]
    together = found["theirs_decode_and_score_seconds"] / found["ours_decode_and_score_seconds"]
    assert found["ratio"] == together
    assert found["ours_transcribe_seconds"] > 0


def test_tagging_compares_sides_that_agree(tmp_path):
    smallest = ["--bank-clips", "4", "--clips", "2", "--batch", "2", "--layers", "1", "--repeats", "2"]
    found = figures(tmp_path / "tagging.json", "bench_tagging", *smallest)
    for part in ("10s", "mixed", "inference"):
        assert found[f"{part}_ratio"] == found[f"{part}_theirs_seconds"] / found[f"{part}_ours_seconds"]
        assert 0 < found[f"{part}_ours_seconds_min"] <= found[f"{part}_ours_seconds"]
        assert found[f"{part}_furthest"] < 1e-3
    assert found["threads"] == 1


def test_diarization_compares_sides_with_the_same_turns(tmp_path):
    smallest = ["--pretrained", "random", "--seconds", "6", "--repeats", "1", "--no-memory"]
    found = figures(tmp_path / "diarization.json", "bench_diarization", *smallest)
    assert found["ratio"] == found["ours_all_seconds"] / found["theirs_all_seconds"]
    assert found["turns"] > 0
    for side in ("ours", "theirs"):
        assert found[f"{side}_real_time_factor"] == found[f"{side}_all_seconds"] / 6


def test_training_gives_both_sides_the_same_clips_and_tells_their_times(tmp_path):
    pytest.importorskip("accelerate")
    found = figures(tmp_path / "training.json", "bench_training", *SMALLEST)
    assert found["train_clips"] == 24
    assert found["validation_clips"] == 4
    assert found["theirs_steps"] == 6  # batches of 4
    for side in ("ours", "theirs"):
        assert found[f"{side}_threads"] == 1
        assert 0 < found[f"{side}_training_seconds"] < found[f"{side}_whole_seconds"]
        assert found[f"{side}_peak_bytes"] > 2**28
        assert found[f"{side}_val_wer"] > 0
        assert found[f"{side}_audio_seconds_per_second"] > 0
    assert found["wall_ratio"] == found["ours_training_seconds"] / found["theirs_training_seconds"]
    assert found["wall_ratio_whole"] == found["ours_whole_seconds"] / found["theirs_whole_seconds"]


def test_training_refuses_to_compare_other_weights():
    pytest.importorskip("accelerate")
    ended = benchmark("bench_training", *SMALLEST, "model.pretrained=null", "seed=2")
    assert ended.returncode == 2
    assert "did not begin with the weights" in ended.stderr
