"""Batches by duration: clips of like length together, padded to few shapes, a fixed number each epoch."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from speechexp.errors import UserError


class DurationBatches(Sampler[list[int]]):
    """Draws batches of clips whose padded audio stays within a bound.

    Clips are put into buckets by their length rounded up to a multiple of ``length_step``; a batch comes from
    one bucket, so that only a few shapes ever occur. Each epoch shuffles the clips in a bucket and the
    batches; every clip comes once; the number of batches stays the same. The order depends on the seed and
    the epoch alone, so a run can go on anywhere in it.

    Several processes share the batches: at each step of training they get batches of like length, so that none
    waits long, and each process gets the same number, for which a few batches are halved. Without a seed, where
    processes need not keep step, no batch is halved and some processes have one more than others.

    With weights an epoch draws clips as often as they ask, some of them not at all; each bucket gives as many as it
    holds, so that shapes and the number of batches stay.

    Only lengths are held, in arrays: three million clips take under 100 MB.

    Args:
        lengths: ``(clips,)`` in samples.
        batch_samples: Padded samples in a batch, at most; a longer clip makes a batch of its own.
        length_step: In samples.
        seed: Of the shuffling; None keeps clips sorted by length.
        position: Tells the epoch, and how many batches are done already; a full epoch's number counts as none.
        rank: This process.
        world_size: How many processes there are.
        weights: ``(clips,)``, how often each clip is drawn in comparison with others of its bucket; None draws each
            once.

    Raises:
        UserError: The clips can't be shared evenly.
    """

    def __init__(
        self,
        lengths: npt.NDArray[np.int64],
        batch_samples: int,
        length_step: int,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] | None = None,
        rank: int = 0,
        world_size: int = 1,
        weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.length_step = length_step
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._position = position or (lambda: (0, 0))
        lengths = np.asarray(lengths, dtype=np.int64)
        self._clips = np.argsort(lengths, kind="stable")
        self._weights = None if weights is None else np.asarray(weights, np.float64)[self._clips]
        steps = np.maximum(-(-lengths[self._clips] // length_step), 1)
        padded, starts, counts = np.unique(steps, return_index=True, return_counts=True)
        # Buckets and batches are stretches of `_clips`.
        self._buckets = list(zip(starts.tolist(), (starts + counts).tolist(), strict=True))
        stretches = [np.zeros((0, 2), np.int64)]
        for step, start, count in zip(padded.tolist(), starts.tolist(), counts.tolist(), strict=True):
            size = max(batch_samples // (step * length_step), 1)
            begins = np.arange(start, start + count, size)
            stretches.append(np.stack([begins, np.minimum(begins + size, start + count)], axis=1))
        self._batches = np.concatenate(stretches)
        missing = -len(self._batches) % world_size if seed is not None else 0
        if len(self._batches) + missing > len(lengths):
            raise UserError(
                f"{len(lengths)} training clips in {len(self._batches)} batches can't be shared evenly by {world_size} "
                "processes. Set a larger data.batch_seconds, or use fewer processes."
            )
        self._batches = _halved(self._batches, missing)

    def __len__(self) -> int:
        return len(range(self.rank, len(self._batches), self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        epoch, done = self._position()
        return self.epoch(epoch, done if done < len(self) else 0)

    def epoch(self, number: int, done: int = 0) -> Iterator[list[int]]:
        """Yield this process's batches of an epoch from the ``done``-th on, each a list of clip indices."""
        clips, chosen = self._clips, np.arange(self.rank, len(self._batches), self.world_size)
        if self.seed is not None:
            generator = np.random.default_rng((self.seed, number))
            clips = clips.copy()
            for start, stop in self._buckets:
                if self._weights is not None:
                    drawn = _systematic(self._weights[start:stop], generator)
                    clips[start:stop] = clips[start:stop][drawn]
                clips[start:stop] = generator.permutation(clips[start:stop])
            chosen = chosen[generator.permutation(len(chosen))]
        for start, stop in self._batches[chosen[done:]]:
            yield clips[start:stop].tolist()

    def padded_length(self, num_samples: int) -> int:
        """Return the length that a clip of ``num_samples`` is padded to."""
        return max(-(-num_samples // self.length_step), 1) * self.length_step


def _systematic(weights: npt.NDArray[np.float64], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw as many clips as there are, each about as often as its weight asks: never off by one or more.

    Systematic sampling (Madow and Madow 1944) in a random order: single draws would leave out many more clips.
    """
    order = generator.permutation(len(weights))
    ends = np.cumsum(weights[order])
    places = (np.arange(len(weights)) + generator.random()) * (ends[-1] / len(weights))
    return np.asarray(order[np.minimum(np.searchsorted(ends, places, side="right"), len(weights) - 1)])


def _halved(batches: npt.NDArray[np.int64], missing: int) -> npt.NDArray[np.int64]:
    """Halve the batches with the most clips until there are ``missing`` more; ``(batches, 2)``, start and stop."""
    while missing > 0:
        sizes = batches[:, 1] - batches[:, 0]
        count = min(missing, int((sizes > 1).sum()))
        largest = np.argsort(-sizes, kind="stable")[:count]
        middles = batches[largest].sum(axis=1) // 2
        rest = np.stack([middles, batches[largest, 1]], axis=1)
        batches[largest, 1] = middles
        batches = np.concatenate([batches, rest])
        batches = batches[np.argsort(batches[:, 0], kind="stable")]
        missing -= count
    return batches
