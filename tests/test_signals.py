"""A run that is told to stop saves first, says how to go on, and can."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SMALL

LONG = [*SMALL, "trainer.max_epochs=400", "hydra.run.dir=run"]


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "speechexp", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def state(folder: Path) -> str:
    return json.loads((folder / "run" / "run.json").read_text())["state"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_saves_says_how_to_resume_and_resuming_works(number, code, tmp_path, trained):
    process = start(tmp_path, *LONG)
    wait_for((tmp_path / "run" / "epochs.jsonl").is_file, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert state(tmp_path) == "interrupted"
    command = re.search(r"python -m speechexp (resume=\S+)", out)[1]
    done = len((tmp_path / "run" / "epochs.jsonl").read_text().splitlines())
    resumed = start(tmp_path, *shlex.split(command), f"trainer.max_epochs={done + 2}")
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert state(tmp_path) == "done"
    epochs = [
        json.loads(line)["epoch"] for line in (tmp_path / "run" / "epochs.jsonl").read_text().splitlines()
    ]
    assert epochs == list(range(1, done + 3))


def test_a_signal_before_training_leaves_no_traceback(tmp_path):
    process = start(tmp_path, "hydra.run.dir=run", f"data.cache_dir={tmp_path}/fresh")
    wait_for(
        lambda: list((tmp_path / "fresh").glob("*")) if (tmp_path / "fresh").is_dir() else False, process
    )
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not list((tmp_path / "fresh").glob("spanish_mini-*/README.md"))


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_epoch(tmp_path, trained):
    process = start(tmp_path, *LONG)
    wait_for((tmp_path / "run" / "checkpoints" / "last.ckpt").is_file, process)
    process.kill()
    process.communicate()
    assert state(tmp_path) == "running"
    done = len((tmp_path / "run" / "epochs.jsonl").read_text().splitlines())
    resumed = start(tmp_path, "resume=run", f"trainer.max_epochs={done + 1}")
    _, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert state(tmp_path) == "done"


def test_resuming_with_another_setting_is_refused(speechexp, trained):
    ended = speechexp([f"resume={trained}", "model.optimizer.lr=1e-4"])
    assert ended.code == 2
    assert "model.optimizer.lr" in ended.err
    assert json.loads((trained / "run.json").read_text())["state"] == "done"


def test_the_console_script_runs_from_any_directory(tmp_path):
    script = Path(sys.executable).parent / "speechexp"
    ended = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert ended.stdout.startswith("speechexp ")
