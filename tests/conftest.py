"""What tests share: a small spoken corpus, a network that trains in a second, the command line in-process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from speechexp.__main__ import main

# A network that a step takes a few milliseconds, with everything random that a step can have.
TOY = [
    "model.network.conv_dim=[8,8,8]",
    "model.network.hidden_size=16",
    "model.network.num_hidden_layers=1",
    "model.network.num_attention_heads=2",
    "model.network.intermediate_size=16",
    "model.network.num_conv_pos_embeddings=8",
    "model.network.num_conv_pos_embedding_groups=2",
]
SMALL = [
    "data.train_utterances=40",
    "data.validation_utterances=8",
    "data.test_utterances=8",
    *TOY,
    "trainer=cpu",
    "trainer.log_every_n_steps=5",
]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHEXP_CACHE", str(cache_dir))


@dataclass
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def speechexp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[Sequence[str]], Ended]:
    """Run a command line in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def run(arguments: Sequence[str]) -> Ended:
        capfd.readouterr()
        code = main(list(arguments))
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def trained(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    before = os.environ.get("SPEECHEXP_CACHE")
    os.environ["SPEECHEXP_CACHE"] = str(cache_dir)
    try:
        assert main([*SMALL, "trainer.max_epochs=2", f"hydra.run.dir={folder}"]) == 0
    finally:
        if before is None:
            del os.environ["SPEECHEXP_CACHE"]
        else:
            os.environ["SPEECHEXP_CACHE"] = before
    return folder
