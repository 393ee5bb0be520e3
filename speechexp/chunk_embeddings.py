"""An embedding of each speaker in each chunk, as pyannote's pipeline has them, without computing a thing twice."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from speechexp.chunks import Chunks, stacked
from speechexp.voice_encoder import GRID_SAMPLES, WINDOW_SAMPLES, VoiceEncoder

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Tick = Callable[[int, int], None]

_STRETCH = 512  # windows given to a network at once, which makes its own batches of them


class ChunkEmbedder:
    """Embeds the speakers of chunks.

    pyannote calls the network once for each chunk and speaker, speaking or not. Here those who don't speak share one
    embedding, and what a network computes before it looks at a speaker's mask is computed once:

    - for a whole recording, if it is our VoiceEncoder and chunks begin on its grid of windows;
    - for each chunk, if it has ``forward_frames`` and ``forward_embedding``, as pyannote's WeSpeakerResNet34;
    - otherwise the network is called as pyannote calls it, in batches.

    Args:
        embedding: What pyannote's ``PretrainedSpeakerEmbedding`` has made.
        batch: Chunks in the network at once.
    """

    def __init__(self, embedding: Any, batch: int) -> None:
        self._embedding = embedding
        self._batch = batch
        self._network: Any = getattr(embedding, "model_", None)

    def on_grid(self, chunks: Chunks) -> bool:
        """Whether chunks share what was computed of a recording once, whatever the masks are."""
        if not isinstance(self._network, VoiceEncoder):
            return False
        return all(start % GRID_SAMPLES == 0 for start in chunks.embedded_at)

    def windows(self, audio: torch.Tensor, chunks: Chunks, tick: Tick) -> torch.Tensor:
        """Return the embeddings of all windows on the grid, ``(windows, dimension)``, on the CPU."""
        network, found = self._network, []
        total = network.num_windows(chunks.embedded_at[-1] + chunks.size)
        for some in _batches(total, _STRETCH):
            size = (some.stop - some.start - 1) * GRID_SAMPLES + WINDOW_SAMPLES
            stretch = stacked(audio, [some.start * GRID_SAMPLES], size)[0, 0]
            found.append(network.window_embeddings(stretch.to(self._device)).float().cpu())
            tick(some.stop, total)
        return torch.cat(found)

    def embed(
        self,
        audio: torch.Tensor | None,
        chunks: Chunks,
        masks: Bools,
        windows: torch.Tensor | None,
        tick: Tick,
    ) -> Floats:
        """Return an embedding of each chunk's speakers.

        Args:
            audio: ``(samples,)``; None with windows.
            chunks: Where the chunks lie.
            masks: Who speaks in which frames, ``(chunks, frames, speakers)``, from `used_masks`.
            windows: What `windows` has returned, if `on_grid`.
            tick: Is told how many chunks of how many are done.

        Returns:
            ``(chunks, speakers, dimension)``.
        """
        speaking: Bools = np.any(masks, axis=1)  # (chunks, speakers)
        todo = np.flatnonzero(speaking.any(axis=1))
        silent = self._silent(audio, chunks, masks.shape[1], windows)
        found = np.broadcast_to(silent, (*speaking.shape, len(silent))).copy()
        for some in _batches(len(todo), self._batch):
            numbers = todo[some]
            if self._pair:
                found[numbers] = self._together(audio, chunks, numbers, masks[numbers], windows)
            else:
                at, who = np.nonzero(speaking[numbers])
                for few in _batches(len(at), self._batch):
                    mask = masks[numbers[at[few]], :, who[few]]
                    found[numbers[at[few]], who[few]] = self._apart(audio, chunks, numbers[at[few]], mask)
            tick(some.stop, len(todo))
        return found

    def fewest_frames(self, chunks: Chunks, frames: int) -> int:
        """Return how many of a chunk's frames a speaker must exceed for the network to embed them."""
        fewest_samples: int = self._embedding.min_num_samples
        return math.ceil(frames * fewest_samples / (chunks.duration * chunks.rate))

    @property
    def _device(self) -> torch.device:
        # a pyannote network within another Lightning module doesn't know by `device` that it was moved
        return torch.device(next(self._network.parameters()).device)

    @property
    def _pair(self) -> bool:
        return hasattr(self._network, "forward_embedding")

    def _silent(
        self, audio: torch.Tensor | None, chunks: Chunks, frames: int, windows: torch.Tensor | None
    ) -> Floats:
        # Who doesn't speak is in no cluster, but VBx counts how far they lie from the clusters.
        first = np.array([0])
        if self._pair:
            found = self._together(audio, chunks, first, np.zeros((1, frames, 1), dtype=bool), windows)[0]
        else:
            found = self._apart(audio, chunks, first, np.zeros((1, frames), dtype=bool))
        return np.asarray(found[0])

    def _together(
        self,
        audio: torch.Tensor | None,
        chunks: Chunks,
        numbers: npt.NDArray[np.int64],
        masks: Bools,
        windows: torch.Tensor | None,
    ) -> Floats:
        network, starts = self._network, chunks.embedded_at
        at = [starts[number] for number in numbers]
        if windows is None:
            assert audio is not None
            frames = network.forward_frames(stacked(audio, at, chunks.size).to(self._device))
        else:
            places = torch.tensor(at)[:, None] // GRID_SAMPLES
            places = places + torch.arange(network.num_windows(chunks.size))
            frames = windows[places].transpose(1, 2).to(self._device)
        weights = torch.from_numpy(masks).transpose(1, 2).float().to(self._device)
        found = network.forward_embedding(frames, weights=weights)
        return np.asarray(found.float().cpu().numpy())

    def _apart(
        self, audio: torch.Tensor | None, chunks: Chunks, numbers: npt.NDArray[np.int64], masks: Bools
    ) -> Floats:
        assert audio is not None
        starts = chunks.embedded_at
        pieces = stacked(audio, [starts[number] for number in numbers], chunks.size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._embedding(pieces, masks=torch.from_numpy(masks).float())
        return np.asarray(found, dtype=np.float32)


def used_masks(active: Bools, fewest_frames: int | None) -> Bools:
    """Return the frames that each speaker's embedding is computed from.

    Args:
        active: Who speaks in which frames, ``(chunks, frames, speakers)``.
        fewest_frames: Frames in which others speak are left out for those whose remaining ones exceed this; None
            leaves out none.
    """
    if fewest_frames is None:
        return active
    alone = active & (active.sum(axis=2, keepdims=True) < 2)
    enough: Bools = alone.sum(axis=1, keepdims=True) > fewest_frames
    return np.where(enough, alone, active)


def _batches(number: int, size: int) -> Iterator[slice]:
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))
