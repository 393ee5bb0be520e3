"""pyannote's pipeline in batches: the same turns as pyannote's own, from what was heard once, in bounded memory."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyannote.audio
import pytest
import soundfile
import torch
from pyannote.audio.core.model import Model
from pyannote.audio.core.plda import PLDA
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding import WeSpeakerResNet34
from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, ResNet
from pyannote.audio.models.segmentation import PyanNet
from pyannote.audio.pipelines import SpeakerDiarization
from scipy.cluster.hierarchy import linkage

from speechexp.centroid_linkage import centroid_linkage
from speechexp.chunks import Chunks
from speechexp.errors import UserError
from speechexp.fast_diarization import Diarized, FastDiarization, batch_sizes
from speechexp.speaker_frames import cluster_activity, loudest
from speechexp.voice_encoder import VoiceEncoder

RATE = 16_000
DIMENSION = 16
CLUSTERINGS: dict[str, dict[str, Any]] = {
    "AgglomerativeClustering": {"method": "centroid", "min_cluster_size": 3, "threshold": 0.25},
    "VBxClustering": {"threshold": 0.5, "Fa": 0.3, "Fb": 1.0},
    "KMeansClustering": {},
}


class Level(Model):
    """An embedding network of the plain sort: whole chunks and a mask go in, a vector comes out."""

    dimension = 8

    def __init__(self) -> None:
        super().__init__()
        self.bands = torch.nn.Conv1d(1, self.dimension, 400, stride=160)

    def forward(self, waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        powers = self.bands(waveforms).square()
        if weights is None:
            return powers.mean(dim=-1)
        at = torch.nn.functional.interpolate(weights[:, None], size=powers.shape[-1])
        return (powers * at).sum(dim=-1) / at.sum(dim=-1) + 1e-6


class Coarse(torch.nn.Module):
    """Scores of five values."""

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(scores) * 4).round() / 4


@pytest.fixture(scope="module")
def talk() -> torch.Tensor:
    """Return 8 s of two people's talk, which no step divides."""
    folder = Path(pyannote.audio.__file__).parent / "sample"
    audio, rate = soundfile.read(
        folder / "sample.wav", dtype="float32", start=6 * RATE, frames=8 * RATE + 777
    )
    assert rate == RATE
    return torch.from_numpy(audio)


def network(talk: torch.Tensor, powerset: bool) -> PyanNet:
    """Return a segmentation network for chunks of 2 s with random weights whose speakers come and go."""
    torch.manual_seed(3)
    found = PyanNet(lstm={"hidden_size": 8, "num_layers": 1}, linear={"hidden_size": 8, "num_layers": 1})
    found.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION if powerset else Problem.MULTI_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=2.0,
        classes=["a", "b", "c"],
        powerset_max_classes=2 if powerset else None,
        permutation_invariant=True,
    )
    found.build()
    found.eval()
    seen: list[torch.Tensor] = []
    hook = found.classifier.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.inference_mode():
        found(talk[: 8 * RATE].view(-1, 1, 2 * RATE))
    hook.remove()
    with torch.no_grad():
        mean, spread = seen[0].mean(dim=(0, 1)), seen[0].std(dim=(0, 1))
        found.classifier.weight *= (4 / spread)[:, None]
        found.classifier.bias.copy_((found.classifier.bias - mean) * 4 / spread - (0.0 if powerset else 2.0))
    return found


def pipeline(
    talk: torch.Tensor,
    folder: Path,
    clustering: str = "AgglomerativeClustering",
    powerset: bool = False,
    embedding: Model | None = None,
    **settings: Any,
) -> SpeakerDiarization:
    """Return a pipeline as pyannote makes it."""
    segmentation = network(talk, powerset)
    if embedding is None:
        torch.manual_seed(5)
        embedding = WeSpeakerResNet34()
        embedding.resnet = ResNet(BasicBlock, [1, 1, 1, 1], 4, 80, DIMENSION, "TSTP", False)
    size = embedding.dimension
    np.savez(folder / "xvec_transform.npz", mean1=np.zeros(size), mean2=np.zeros(size), lda=np.eye(size))
    np.savez(folder / "plda.npz", mu=np.zeros(size), tr=np.eye(size), psi=np.linspace(9, 1, size))
    plda = PLDA(folder / "xvec_transform.npz", folder / "plda.npz")
    found = SpeakerDiarization(
        segmentation=segmentation,
        embedding=embedding,
        plda=plda,
        clustering=clustering,
        embedding_batch_size=16,
        **{"segmentation_step": 0.2, **settings},
    )
    chosen: dict[str, Any] = {"segmentation": {"min_duration_off": 0.0}}
    if not powerset:
        chosen["segmentation"]["threshold"] = 0.5
    if CLUSTERINGS[clustering]:
        chosen["clustering"] = CLUSTERINGS[clustering]
    return found.instantiate(chosen)


def theirs(pipeline: SpeakerDiarization, audio: torch.Tensor, **bounds: int) -> list[list[Any]]:
    found = pipeline({"waveform": audio[None], "sample_rate": RATE}, **bounds)
    both = (found.speaker_diarization, found.exclusive_speaker_diarization)
    return [sorted((s.start, s.end, name) for s, _, name in one.itertracks(yield_label=True)) for one in both]


def ours(found: Diarized) -> list[list[Any]]:
    return [[(turn.start, turn.end, turn.speaker) for turn in one] for one in (found.turns, found.exclusive)]


def speakers(found: list[list[Any]]) -> int:
    return len({name for _, _, name in found[0]})


@pytest.mark.parametrize(
    ("clustering", "settings", "bounds"),
    [
        ("AgglomerativeClustering", {"segmentation_step": 0.1}, {}),
        ("AgglomerativeClustering", {"powerset": True}, {}),
        ("AgglomerativeClustering", {"embedding_exclude_overlap": True}, {"num_speakers": 3}),
        (
            "AgglomerativeClustering",
            {"powerset": True, "embedding_exclude_overlap": True},
            {"max_speakers": 2},
        ),
        ("AgglomerativeClustering", {"segmentation_step": 0.33}, {"num_speakers": 1}),
        ("VBxClustering", {}, {}),
        ("VBxClustering", {"powerset": True, "embedding_exclude_overlap": True}, {}),
        ("VBxClustering", {"powerset": True}, {"min_speakers": 4}),
        ("KMeansClustering", {}, {"num_speakers": 3}),
    ],
)
def test_the_turns_are_pyannotes(
    talk: torch.Tensor, tmp_path: Path, clustering: str, settings: dict[str, Any], bounds: dict[str, int]
) -> None:
    plain = pipeline(talk, tmp_path, clustering, **settings)
    expected = theirs(plain, talk, **bounds)
    assert len(expected[0]) > 10
    if bounds != {"num_speakers": 1}:
        assert speakers(expected) > 1 and expected[0] != expected[1]
    assert ours(FastDiarization(plain, 7, 5)(talk, **bounds)) == expected


def test_gaps_are_filled_as_pyannote_fills_them(talk: torch.Tensor, tmp_path: Path) -> None:
    plain = pipeline(talk, tmp_path)
    before = theirs(plain, talk)
    plain.instantiate({"segmentation": {"min_duration_off": 0.2}})
    assert theirs(plain, talk) != before
    assert ours(FastDiarization(plain, 7, 5)(talk)) == theirs(plain, talk)


def test_batches_change_nothing(talk: torch.Tensor, tmp_path: Path) -> None:
    plain = pipeline(talk, tmp_path)
    assert ours(FastDiarization(plain, 1, 1)(talk)) == ours(FastDiarization(plain, 100, 100)(talk))


def test_a_network_that_takes_chunks_and_masks_alone_serves_too(talk: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(7)
    # who doesn't speak has a NaN embedding in this one
    plain = pipeline(talk, tmp_path, embedding=Level())
    assert ours(FastDiarization(plain, 8, 5)(talk)) == theirs(plain, talk)


def test_windows_on_a_grid_are_shared(talk: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(7)
    plain = pipeline(talk, tmp_path, embedding=VoiceEncoder(), segmentation_step=0.25)
    fast = FastDiarization(plain, 8, 5)
    heard = fast.listen(talk)
    assert heard.audio is None and heard.windows is not None
    assert ours(fast.decide(heard)) == theirs(plain, talk)


@pytest.mark.parametrize("powerset", [False, True])
def test_what_was_heard_serves_other_parameters(talk: torch.Tensor, tmp_path: Path, powerset: bool) -> None:
    plain = pipeline(talk, tmp_path, powerset=powerset)
    fast = FastDiarization(plain, 8, 8)
    heard = fast.listen(talk)
    first = fast.decide(heard)
    plain.instantiate({"clustering": {**CLUSTERINGS["AgglomerativeClustering"], "threshold": 0.1}})
    if not powerset:
        plain.segmentation.threshold = 0.7
    again = fast.decide(heard)
    assert ours(again) == theirs(plain, talk) != ours(first)
    assert again.costs["segmentation"] == first.costs["segmentation"]
    assert (again.costs["embedding"] == first.costs["embedding"]) is powerset
    assert ours(fast.decide(heard, num_speakers=2)) == theirs(plain, talk, num_speakers=2)
    assert fast.decide(heard, num_speakers=2).costs["embedding"] == again.costs["embedding"]


@pytest.mark.parametrize("clustering", ["AgglomerativeClustering", "VBxClustering"])
@pytest.mark.parametrize("seconds", [0.3, 2.0, 2.5])
def test_short_audio(talk: torch.Tensor, tmp_path: Path, clustering: str, seconds: float) -> None:
    plain = pipeline(talk, tmp_path, clustering)
    short = talk[RATE : RATE + round(seconds * RATE)]
    assert ours(FastDiarization(plain, 8, 8)(short)) == theirs(plain, short)


def test_nobody_speaks(talk: torch.Tensor, tmp_path: Path) -> None:
    plain = pipeline(talk, tmp_path, powerset=True)
    with torch.no_grad():
        plain._segmentation.model.classifier.bias[0] = 1e4
    found = FastDiarization(plain, 8, 8)(torch.zeros(5 * RATE))
    assert found.turns == () == found.exclusive
    assert found.costs["embedding"] == 0


def test_a_score_at_the_threshold_leaves_things_as_they_are(talk: torch.Tensor, tmp_path: Path) -> None:
    plain = pipeline(talk, tmp_path)
    # scores of few values, so that many equal the threshold
    plain._segmentation.model.activation = Coarse()
    fast = FastDiarization(plain, 8, 8)
    assert (fast.listen(talk).scores == 0.5).mean() > 0.01
    assert ours(fast(talk)) == theirs(plain, talk)


def test_progress_reaches_the_end(talk: torch.Tensor, tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    fast = FastDiarization(pipeline(talk, tmp_path), 8, 8)
    fast(talk, progress=lambda step, done, total: seen.setdefault(step, []).append((done, total)))
    assert list(seen) == ["segmentation", "embedding"]
    assert all(len(steps) > 1 and steps == sorted(steps) for steps in seen.values())
    assert all(steps[-1][0] == steps[-1][1] for steps in seen.values())


def test_training_goes_on_with_its_precision_and_what_it_must_not_change_is_refused(
    talk: torch.Tensor, tmp_path: Path
) -> None:
    plain = pipeline(talk, tmp_path, "KMeansClustering")
    fast = FastDiarization(plain, *batch_sizes(torch.device("cpu")))
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            heard = fast.listen(talk)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    np.testing.assert_array_equal(heard.scores, fast.listen(talk).scores)
    with pytest.raises(UserError, match="num_speakers"):
        fast.decide(heard)
    plain._segmentation.model.train()
    with pytest.raises(ValueError, match="training mode"):
        fast.listen(talk)


def test_the_memory_of_reconstruction_is_that_of_its_result() -> None:
    chunks = Chunks(samples=1800 * RATE, rate=RATE, duration=5.0, step=0.5)
    rng = np.random.default_rng(1)
    scores = rng.random((chunks.count, 293, 3), dtype=np.float32)
    clusters = rng.integers(0, 12, (chunks.count, 3))
    starts = np.append(np.arange(chunks.count) * 29, (chunks.count - 1) * 29 + 293)
    tracemalloc.start()
    activity = cluster_activity(scores, clusters, starts)
    speaks = loudest(activity, np.full(starts[-1], 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert speaks.sum(axis=1).tolist() == [2] * int(starts[-1])
    assert peak < 4 * activity.nbytes < chunks.count * 293 * 12 * 8 / 4


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_linkage_without_distances_is_scipys(spread: float) -> None:
    rng = np.random.default_rng(2)
    points = rng.standard_normal((5, 24))[rng.integers(0, 5, 900)] + spread * rng.standard_normal((900, 24))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    np.testing.assert_allclose(centroid_linkage(points), linkage(points, "centroid"), rtol=1e-9)
