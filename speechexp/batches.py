"""Batches by duration: clips of like length together, padded to few shapes, a fixed number each epoch."""

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class DurationBatches(Sampler[list[int]]):
    """Draws batches of clips whose padded audio stays within a bound.

    Clips are put into buckets by their length rounded up to a multiple of ``length_step``; a batch comes from
    one bucket, so that only a few shapes ever occur. Each epoch shuffles the clips in a bucket and the
    batches; every clip comes once; the number of batches stays the same. The order depends on the seed and
    the epoch alone, so a run can go on anywhere in it.

    Args:
        lengths: ``(clips,)`` in samples.
        batch_samples: Padded samples in a batch, at most; a longer clip makes a batch of its own.
        length_step: In samples.
        seed: Of the shuffling; None keeps clips sorted by length.
        position: Tells the epoch, and how many batches are done already; a full epoch's number counts as none.
    """

    def __init__(
        self,
        lengths: npt.NDArray[np.int64],
        batch_samples: int,
        length_step: int,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.length_step = length_step
        self.seed = seed
        self._position = position or (lambda: (0, 0))
        steps = np.maximum(-(-np.asarray(lengths, dtype=np.int64) // length_step), 1)
        members: dict[int, list[int]] = defaultdict(list)
        for index in np.argsort(lengths, kind="stable").tolist():
            members[int(steps[index])].append(index)
        # by padded length: the clips, and how many of them a batch holds
        self._buckets = [
            (np.array(members[step]), max(batch_samples // (step * length_step), 1))
            for step in sorted(members)
        ]

    def __len__(self) -> int:
        return sum(-(-len(clips) // size) for clips, size in self._buckets)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, done = self._position()
        return iter(self.epoch(epoch)[done if done < len(self) else 0 :])

    def epoch(self, number: int) -> list[list[int]]:
        """Return all batches of an epoch, each a list of clip indices."""
        generator = None if self.seed is None else np.random.default_rng((self.seed, number))
        batches = []
        for clips, size in self._buckets:
            order = clips if generator is None else generator.permutation(clips)
            batches += [order[start : start + size].tolist() for start in range(0, len(order), size)]
        if generator is None:
            return batches
        return [batches[i] for i in generator.permutation(len(batches))]

    def padded_length(self, num_samples: int) -> int:
        """Return the length that a clip of ``num_samples`` is padded to."""
        return max(-(-num_samples // self.length_step), 1) * self.length_step
