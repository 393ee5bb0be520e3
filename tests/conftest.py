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


@pytest.fixture(scope="session")
def tiny_audioset_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of AudioSet's 527 classes as ``save_pretrained`` leaves it, with random weights."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    from speechexp.corpora.sound_classes import SOUND_CLASSES

    folder = tmp_path_factory.mktemp("audioset")
    names = [each.name for each in SOUND_CLASSES]
    names += [f"Sound {number}" for number in range(527 - len(names))]
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_mel_bins=32,
        max_length=128,
        time_stride=16,
        frequency_stride=16,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=32, max_length=128, mean=-8.0, std=4.0).save_pretrained(folder)
    return folder


# An Audio Spectrogram Transformer that a step takes a few milliseconds.
TINY_AST = [
    "task=audio_tagging",
    "data.train_clips=60",
    "data.validation_clips=20",
    "data.test_clips=20",
    "model.window_seconds=1.6",
    "model.network.num_mel_bins=32",
    "model.network.hidden_size=16",
    "model.network.num_hidden_layers=1",
    "model.network.num_attention_heads=2",
    "model.network.intermediate_size=16",
    "trainer=cpu",
    "trainer.log_every_n_steps=5",
]


@pytest.fixture(scope="session")
def tagged(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tagging run of two epochs, with everything random that a step can have."""
    folder = tmp_path_factory.mktemp("runs") / "tagged"
    augmented = ["model.mixup_share=0.5", "model.mask_frames=20", "model.mask_bins=8", "model.roll=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHEXP_CACHE", str(cache_dir))
        patch.chdir(folder.parent)
        assert main([*TINY_AST, *augmented, "trainer.max_epochs=2", f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diarization pipeline as pyannote's hub has them, with random weights."""
    from helpers_diarization import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("pyannote") / "tiny")


# With `model.pretrained`, a diarization run of a few seconds.
TINY_DIARIZATION = [
    "task=diarization_es",
    "data.train_conversations=3",
    "data.validation_conversations=2",
    "data.test_conversations=1",
    "data.conversation_seconds=20",
    "data.batch_seconds=25",
    "model.tune_recordings=1",
    "model.tune_trials=4",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
]


@pytest.fixture(scope="session")
def tiny_diarization(tiny_pipeline_folder: Path) -> list[str]:
    """The settings of a diarization run of a few seconds."""
    return [*TINY_DIARIZATION, f"model.pretrained={tiny_pipeline_folder}"]


@pytest.fixture(scope="session")
def diarized(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory, tiny_diarization: list[str]) -> Path:
    """The folder of a diarization run of two epochs, tested on a generated and on a real recording."""
    folder = tmp_path_factory.mktemp("runs") / "diarized"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHEXP_CACHE", str(cache_dir))
        patch.chdir(folder.parent)
        assert main([*tiny_diarization, f"hydra.run.dir={folder}"]) == 0
    return folder
