"""Bad input gets one readable message and exit code 2, before any training."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainer.max_epoch=5"], ["trainer.max_epoch", "trainer.max_epochs"]),
        (["model=wav2vec2_tinny"], ["wav2vec2_tinny", "wav2vec2_tiny"]),
        (["modle=wav2vec2_tiny"], ["modle", "model"]),
        (["data=fleur_es"], ["fleur_es", "fleurs_es"]),
        (["experiment=fleurs_xlsr"], ["fleurs_xlsr53"]),
        (["stage=tets"], ["stage=tets", "fit, test, predict"]),
        (["+model.netwrk=3"], ["model.netwrk", "network"]),
        (["model.optimizer.lr=fast"], ["model.optimizer.lr", "a number", "'fast'"]),
        (["+model.optimizer.momentum=0.9"], ["model.optimizer.momentum", "speechexp.optim.adamw"]),
        (["model._target_=speechexp.asr.SpeechRecogniser"], ["SpeechRecogniser", "SpeechRecognizer"]),
        (["task.normaliser=spanis"], ["task.normaliser", "spanish, unidecode, plain"]),
        (["trainer.precision=fp16"], ["trainer.precision", "16-mixed"]),
        (["data.batch_seconds=atuo"], ["data.batch_seconds", "a number or one of auto"]),
        (["seed=one"], ["seed", "whole number"]),
        (["+x=1"], ["'x'"]),
        (["inputs=a,b"], ["\"inputs='a,b'\"", "-m"]),
        (["inputs=[ñ.wav,b.wav]"], ["\"inputs=['ñ.wav','b.wav']\""]),
        (["data=fleurs_es", "data.train_utterances=9"], ["data.train_utterances"]),
        (["trainer.max_epochs=-1"], ["trainer.max_steps"]),
        (["stage=test", "ckpt=."], ["is a folder", "best.ckpt"]),
        (["seed=-1"], ["seed", "from 0"]),
        (["trainer.max_epochs=0"], ["trainer.max_epochs", "at least 1"]),
        (["trainer.devices=2"], ["trainer.devices=2"]),
        (["data=audio_folder"], ["data.path", "data.path="]),
        (["data=audio_folder", "data.path=/no/such/folder"], ["data.path", "/no/such/folder"]),
        (["data=fleurs_es", "data.config=fr_fr"], ["data.config=fr_fr", "task.normaliser=plain"]),
        (["stage=test"], ["ckpt=FILE"]),
        (["stage=test", "ckpt=nothing.ckpt"], ["ckpt=nothing.ckpt"]),
        (["stage=predict", "ckpt=pyproject.toml"], ["ckpt"]),
        (["ckpt=x"], ["resume="]),
        (["inputs=x"], ["stage=predict"]),
        (["resume=."], ["resume=.", "run.json"]),
        (["resume=true"], ["no unfinished run"]),
        (["max_epochs"], ["name=value"]),
        (["hydra.run.dir=a=b"], ["hydra.run.dir", "Quote"]),
        (["trainer.max_epochs=1", "trainer=cuda"], ["trainer=cuda", "trainer=auto"]),
        (["trainer=rocm"], ["trainer=rocm", "ROCM"]),
        (["-m", "model.optimizer.lr=1e-3,slow"], ["model.optimizer.lr", "'slow'"]),
        (["-m", "model=wav2vec2_tiny,wav2vec2_huge"], ["wav2vec2_huge", "wav2vec2_base"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_message_and_exit_code_2(arguments, expected, speechexp, tmp_path):
    ended = speechexp(arguments)
    assert ended.code == 2
    assert ended.err.count("error:") == 1
    assert "Traceback" not in ended.err
    for words in expected:
        assert words in ended.err
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").glob("*/*/*"))


def test_a_configuration_error_is_answered_before_torch_is_imported(tmp_path):
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "speechexp", "trainer.max_epoch=5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "import time" in ended.stderr
    for heavy in ("torch", "transformers", "pytorch_lightning", "datasets", "scipy"):
        assert f"| {heavy}\n" not in ended.stderr, f"{heavy} was imported"
    assert time.monotonic() - started < 30


def test_an_output_folder_that_cant_be_written(speechexp, tmp_path):
    (tmp_path / "file").write_text("")
    ended = speechexp(["hydra.run.dir=file/run"])
    assert ended.code == 2
    assert "hydra.run.dir" in ended.err


def test_a_second_run_into_the_same_folder_is_refused_and_nothing_is_written_over(speechexp, trained):
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    ended = speechexp([f"hydra.run.dir={trained}"])
    assert ended.code == 2
    assert f"resume={trained}" in ended.err
    assert {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()} == before


def test_a_folder_with_something_else_in_it_is_refused(speechexp, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("precious")
    ended = speechexp(["hydra.run.dir=mine"])
    assert ended.code == 2
    assert "mine" in ended.err
    assert (tmp_path / "mine" / "config.yaml").read_text() == "precious"


def test_two_runs_at_once_into_one_folder(speechexp, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        ended = speechexp(["hydra.run.dir=run"])
    assert ended.code == 2
    assert "Another process" in ended.err


WORDS = ["uno", "dos", "tres", "cuatro", "cinco", "seis"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of six clips, which each test then spoils."""
    path = tmp_path / "clips"
    path.mkdir()
    lines = ["file_name,transcription"]
    for i in range(6):
        soundfile.write(path / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, 16000), 16000)
        lines.append(f"{i}.wav,hola {WORDS[i]}")
    (path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return path


def rewrite(folder: Path, old: str, new: str) -> None:
    file = folder / "metadata.csv"
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: (f / "metadata.csv").unlink(), ["metadata.csv", "file_name"]),
        (lambda f: rewrite(f, "transcription", "text"), ["data.text_column", "text"]),
        (lambda f: (f / "3.wav").unlink(), ["1 of 6", "3.wav"]),
        (lambda f: rewrite(f, "3.wav", "../3.wav"), ["../3.wav", "inside"]),
        (lambda f: rewrite(f, "3.wav", "/etc/passwd"), ["/etc/passwd", "inside"]),
        (lambda f: [w.write_bytes(b"") for w in f.glob("*.wav")], ["unreadable", "zero length"]),
        (lambda f: [w.write_bytes(b"not audio at all" * 9) for w in f.glob("*.wav")], ["unreadable"]),
        (lambda f: [w.write_bytes(w.read_bytes()[:999]) for w in f.glob("*.wav")], ["truncated"]),
        (lambda f: [soundfile.write(w, np.zeros(16000), 16000) for w in f.glob("*.wav")], ["silent"]),
        (lambda f: [rewrite(f, f"hola {word}", "¡!") for word in WORDS], ["no text"]),
        (lambda f: (f / "metadata.csv").write_text("file_name,transcription\n"), ["names no clip"]),
        (lambda f: (f / "metadata.csv").write_bytes(b"\xff\xfe\x00"), ["metadata.csv can't be read"]),
    ],
    ids=["no metadata", "no text column", "missing file", "outside", "absolute", "empty file", "not audio",
         "truncated", "silent", "only punctuation", "no rows", "not text"],
)  # fmt: skip
def test_a_folder_that_cant_be_used(spoil, expected, folder, speechexp, tmp_path):
    spoil(folder)
    ended = speechexp(["data=audio_folder", f"data.path={folder}", "trainer=cpu", "trainer.max_epochs=1",
                       "data.test_share=0.3", "data.validation_share=0.3"])  # fmt: skip
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    for words in expected:
        assert words in ended.err
    assert not list((tmp_path / "outputs").glob("*/*/*"))
