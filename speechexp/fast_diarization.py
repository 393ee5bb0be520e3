"""pyannote's speaker diarization, in batches and bounded memory: first what the networks say, then what follows."""

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.audio.utils.signal import binarize
from pyannote.core import Annotation, SlidingWindowFeature

from speechexp.centroid_linkage import bounded_linkage
from speechexp.chunk_embeddings import ChunkEmbedder, used_masks
from speechexp.chunks import Chunks, stacked
from speechexp.errors import UserError
from speechexp.speaker_frames import NOBODY, annotation, cluster_activity, count_speakers, loudest
from speechexp.turns import Turn

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Progress = Callable[[str, int, int], None]

_MOST_LINKED = 10_000  # embeddings: scipy's linkage takes 8 n² bytes, 0.8 GB
_INT8_CLUSTERS = 127


@dataclass
class Heard:
    """All that the networks said of a recording, from which `FastDiarization.decide` works.

    Attributes:
        seconds: Of audio.
        chunks: Where the chunks lie.
        scores: Segmentation, ``(chunks, frames, speakers)``: float32 in [0, 1], or bool of a powerset network.
        costs: Wall seconds of "segmentation" and "embedding" so far.
        audio: ``(samples,)``, the recording itself, as long as an embedding may still be asked for.
        windows: Embeddings of windows on a grid, if the embedding network has one.
        embeddings: Of each chunk's speakers, ``(chunks, speakers, dimension)``, once computed.
        embedded_at: The segmentation threshold that `embeddings` hold for; None for any.
    """

    seconds: float
    chunks: Chunks
    scores: Floats | Bools
    costs: dict[str, float]
    audio: torch.Tensor | None = field(default=None, repr=False)
    windows: torch.Tensor | None = field(default=None, repr=False)
    embeddings: Floats | None = field(default=None, repr=False)
    embedded_at: float | None = None


@dataclass(frozen=True)
class Diarized:
    """Who spoke when in a recording.

    Attributes:
        turns: Sorted, speakers named ``SPEAKER_00``, … as pyannote names them.
        exclusive: The same with never two at once: where several speak, the most certain one.
        costs: Wall seconds of "segmentation", "embedding", "clustering" and "reconstruction".
    """

    turns: tuple[Turn, ...]
    exclusive: tuple[Turn, ...]
    costs: dict[str, float]


class FastDiarization:
    """Computes what a pyannote pipeline computes, with the same turns.

    Networks, settings and clustering are the pipeline's own at the time of each call, the networks' device too. They
    must be in evaluation mode.

    Args:
        pipeline: With any clustering but the oracle's.
        segmentation_batch: Chunks in the segmentation network at once.
        embedding_batch: Chunks in the embedding network at once.
    """

    def __init__(self, pipeline: SpeakerDiarization, segmentation_batch: int, embedding_batch: int) -> None:
        if min(segmentation_batch, embedding_batch) < 1:
            raise ValueError(
                f"`segmentation_batch` and `embedding_batch` must be at least 1, but are {segmentation_batch} "
                f"and {embedding_batch} instead."
            )
        if pipeline.klustering == "OracleClustering":
            raise ValueError("`pipeline` must not have OracleClustering, which needs the reference.")
        self.pipeline = pipeline
        self._segmentation_batch = segmentation_batch
        self._embedder = ChunkEmbedder(pipeline._embedding, embedding_batch)

    def __call__(
        self,
        audio: torch.Tensor,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        progress: Progress | None = None,
    ) -> Diarized:
        """Return who spoke when: `listen`, then `decide`."""
        return self.decide(self.listen(audio, progress), num_speakers, min_speakers, max_speakers, progress)

    @property
    def powerset(self) -> bool:
        """Whether the segmentation network decides by itself who speaks, without a threshold."""
        return bool(self.pipeline._segmentation.model.specifications.powerset)

    @torch.inference_mode()
    def listen(
        self, audio: torch.Tensor, progress: Progress | None = None, windows: torch.Tensor | None = None
    ) -> Heard:
        """Run the networks as far as they don't depend on the pipeline's thresholds.

        Args:
            audio: ``(samples,)`` float32 at the networks' rate.
            progress: Is told the step and how much of how much is done.
            windows: Those of an earlier `Heard` of this audio, if the embedding network is the same.

        Raises:
            ValueError: The audio is not one-dimensional, or a network is in training mode.
        """
        if audio.ndim != 1 or not len(audio):
            raise ValueError(f"`audio` must be (samples,), but is {tuple(audio.shape)} instead.")
        inference = self.pipeline._segmentation
        rate = inference.model.audio.sample_rate
        chunks = Chunks(len(audio), rate, inference.duration, inference.step)
        started = time.perf_counter()
        with _full_precision():
            scores = self._segment(audio, chunks, _tick(progress, "segmentation"))
        heard = Heard(len(audio) / rate, chunks, scores, {"segmentation": 0.0, "embedding": 0.0}, audio)
        heard.costs["segmentation"] = time.perf_counter() - started
        if self._embedder.on_grid(chunks):
            started = time.perf_counter()
            with _full_precision():
                if windows is None:
                    windows = self._embedder.windows(audio, chunks, _tick(progress, "embedding"))
                heard.windows = windows
            heard.audio = None
            heard.costs["embedding"] = time.perf_counter() - started
        elif self.powerset and scores.any():
            self._embed(heard, self._active(heard), progress)
            heard.audio = None
        return heard

    @torch.inference_mode()
    def decide(
        self,
        heard: Heard,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        progress: Progress | None = None,
    ) -> Diarized:
        """Return who spoke when, by the pipeline's present parameters.

        Embeddings that are missing in `heard`, or that hold for another threshold, are computed and kept there.

        Args:
            heard: From `listen`.
            num_speakers: If it is known.
            min_speakers: At least as many, if `num_speakers` is None.
            max_speakers: At most as many, if `num_speakers` is None.
            progress: Is told the step and how much of how much is done.

        Raises:
            UserError: The clustering needs the number of speakers and has not got it, or finds too many.
        """
        pipeline = self.pipeline
        number, fewest, most = pipeline.set_num_speakers(num_speakers, min_speakers, max_speakers)
        if pipeline._expects_num_speakers and number is None:
            raise UserError(f"{pipeline.klustering} needs the number of speakers: give `num_speakers`.")
        active = self._active(heard)
        frames = pipeline._segmentation.model.receptive_field
        starts = heard.chunks.frame_starts(frames)
        count = count_speakers(active, starts)
        if not count.any():
            return Diarized((), (), {**heard.costs, "clustering": 0.0, "reconstruction": 0.0})
        embeddings = self._embed(heard, active, progress)

        started = time.perf_counter()
        clusters = self._cluster(embeddings, active, heard.chunks, number, fewest, most)
        clusters[~active.any(axis=1)] = NOBODY
        clustered = time.perf_counter()
        count = np.minimum(count, most).astype(np.int64)
        activity = cluster_activity(heard.scores, clusters, starts)
        off = pipeline.segmentation.min_duration_off
        everyone = annotation(loudest(activity, count), frames, off)
        exclusive = annotation(loudest(activity, np.minimum(count, 1)), frames, off)
        names = dict(zip(everyone.labels(), pipeline.classes(), strict=False))
        turns, alone = _turns(everyone, names), _turns(exclusive, names)
        costs = {
            **heard.costs,
            "clustering": clustered - started,
            "reconstruction": time.perf_counter() - clustered,
        }
        return Diarized(turns, alone, costs)

    def _segment(
        self, audio: torch.Tensor, chunks: Chunks, tick: Callable[[int, int], None]
    ) -> Floats | Bools:
        inference = self.pipeline._segmentation
        network = inference.model
        if network.training:
            raise ValueError("`pipeline`'s segmentation network is in training mode: call `eval` on it.")
        device = next(network.parameters()).device
        conversion = inference.conversion.to(device)
        at, found = chunks.heard_at, []
        for start in range(0, len(at), self._segmentation_batch):
            pieces = stacked(audio, at[start : start + self._segmentation_batch], chunks.size)
            scores = conversion(network(pieces.to(device)))
            found.append((scores > 0.5 if self.powerset else scores.float().nan_to_num()).cpu().numpy())
            tick(start + len(pieces), len(at))
        return np.concatenate(found)

    def _active(self, heard: Heard) -> Bools:
        """Return who speaks in which frames, ``(chunks, frames, speakers)``."""
        if self.powerset:
            return np.asarray(heard.scores, dtype=bool)
        threshold = self.pipeline.segmentation.threshold
        active: Bools = heard.scores > threshold
        # A score that equals the threshold leaves things as they are.
        for number in np.flatnonzero((heard.scores == threshold).any(axis=(1, 2))):
            column = binarize(heard.scores[number].T, onset=threshold, initial_state=False)
            active[number] = column.T
        return active

    def _embed(self, heard: Heard, active: Bools, progress: Progress | None) -> Floats:
        threshold = None if self.powerset else float(self.pipeline.segmentation.threshold)
        if heard.embeddings is not None and heard.embedded_at == threshold:
            return heard.embeddings
        started = time.perf_counter()
        fewest = None
        if self.pipeline.embedding_exclude_overlap:
            fewest = self._embedder.fewest_frames(heard.chunks, active.shape[1])
        with _full_precision():
            tick = _tick(progress if heard.windows is None else None, "embedding")
            heard.embeddings = self._embedder.embed(
                heard.audio, heard.chunks, used_masks(active, fewest), heard.windows, tick
            )
        heard.embedded_at = threshold
        heard.costs["embedding"] += time.perf_counter() - started
        return heard.embeddings

    def _cluster(
        self, embeddings: Floats, active: Bools, chunks: Chunks, number: int | None, fewest: int, most: float
    ) -> npt.NDArray[np.int64]:
        """Return the cluster of each chunk's speakers, ``(chunks, speakers)``."""
        if self.pipeline.klustering == "VBxClustering":  # the others see to it themselves
            usable, *_ = self.pipeline.clustering.filter_embeddings(
                embeddings, segmentations=SlidingWindowFeature(active, chunks.window)
            )
            most_possible = max(len(usable), 1)
            number = None if number is None else min(number, most_possible)
            fewest = min(fewest, most_possible)
        # It prints and warns of what is no fault: fewer clusters than asked for, nobody who speaks long enough.
        with (
            bounded_linkage(_MOST_LINKED),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            clusters, scores, _ = self.pipeline.clustering(
                embeddings=embeddings,
                segmentations=SlidingWindowFeature(active, chunks.window),
                num_clusters=number,
                min_clusters=fewest,
                max_clusters=most,
            )
        if clusters.dtype == np.int8 and scores.shape[2] > _INT8_CLUSTERS + 1:
            raise UserError(
                f"The clustering found {scores.shape[2]} speakers in {chunks.samples / chunks.rate:.0f} s; pyannote's "
                f"can name {_INT8_CLUSTERS + 1}. Raise clustering.threshold, or give `max_speakers`."
            )
        return np.array(clusters, dtype=np.int64)


def batch_sizes(device: torch.device) -> tuple[int, int]:
    """Return batch sizes for `FastDiarization`: of segmentation and of embedding.

    On a CPU larger batches gain nothing; on a GPU these take about 3 GB with pyannote's networks.
    """
    return (8, 8) if device.type == "cpu" else (256, 64)


def _turns(found: Annotation, names: dict[Any, str]) -> tuple[Turn, ...]:
    tracks = found.itertracks(yield_label=True)
    return tuple(sorted(Turn(segment.start, segment.end, names[label]) for segment, _, label in tracks))


def _tick(progress: Progress | None, step: str) -> Callable[[int, int], None]:
    def tick(done: int, total: int) -> None:
        if progress is not None:
            progress(step, done, total)

    return tick


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Compute in 32 bits, as pyannote does, and leave the training's precision as it was."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    with contextlib.ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = before
