"""Loading: from a prepared data set, or from clips in memory, to padded batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset

from speechexp.batch import AudioBatch, Clip
from speechexp.batches import DurationBatches
from speechexp.prepare import Labels, Prepared

_RELEASE_EVERY = 128  # clips; each touches a few pages of the manifest's columns


class Clips(Protocol):
    """Clips that are read by number; they reach loading processes by pickle."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...


class PreparedClips(Dataset[Clip]):
    """The clips of a split.

    Args:
        prepared: The cache entry that is read from.
        indices: ``(clips,)`` int64, their places in it.
        labels: The cleaned labels of the whole entry.
        encode: Gives the label ids of a reference.
    """

    def __init__(
        self,
        prepared: Prepared,
        indices: npt.NDArray[np.int64],
        labels: Labels,
        encode: Callable[[str], Sequence[int]],
    ) -> None:
        self._prepared = prepared
        self._indices = indices
        self._labels = labels
        self._encode = encode
        self._reads = 0

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> Clip:
        index = int(self._indices[number])
        manifest = self._prepared.manifest
        self._reads += 1
        if self._reads % _RELEASE_EVERY == 0:
            manifest.pages.release()
            self._labels.pages.release()
        reference = str(self._labels.texts[index].as_py())
        return Clip(
            id=manifest.ids[index],
            audio=self._prepared.samples(index),
            reference=reference,
            target=self._encode(reference),
            attributes=manifest.attributes[index],
        )


class Stretching(Protocol):
    """How recordings that are too long for a network are cut into clips to train on."""

    def starts(self, reference: str, num_samples: int) -> list[tuple[int, int]]:
        """Return the first sample of each stretch of a recording, and how many samples it has."""

    def target(self, reference: str, first: int, count: int) -> Sequence[int]:
        """Return the label ids of a stretch."""


class PreparedStretches(Dataset[Clip]):
    """Stretches of recordings.

    Args:
        prepared: The cache entry that is read from.
        indices: ``(recordings,)`` int64, their places in it.
        labels: The cleaned labels of the whole entry.
        stretching: Cuts them.

    Attributes:
        lengths: ``(stretches,)`` int64, samples of each.
    """

    def __init__(
        self,
        prepared: Prepared,
        indices: npt.NDArray[np.int64],
        labels: Labels,
        stretching: Stretching,
    ) -> None:
        self._prepared = prepared
        self._labels = labels
        self._stretching = stretching
        places = [
            (index, first, count)
            for index in indices.tolist()
            for first, count in stretching.starts(
                str(labels.texts[index].as_py()), int(prepared.manifest.num_samples[index])
            )
        ]
        self._places = np.array(places, np.int64).reshape(-1, 3)
        self.lengths: npt.NDArray[np.int64] = self._places[:, 2]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Clip:
        index, first, count = self._places[number].tolist()
        manifest = self._prepared.manifest
        reference = str(self._labels.texts[index].as_py())
        return Clip(
            id=f"{manifest.ids[index]}@{first}",
            audio=self._prepared.samples(index, first, count),
            reference="",
            target=self._stretching.target(reference, first, count),
            attributes={},
        )


@dataclass(frozen=True)
class Collate:
    """Pads clips to the length of the longest one's bucket."""

    padded_length: Callable[[int], int]
    sample_rate: int

    def __call__(self, clips: list[Clip]) -> AudioBatch:
        """Return a batch."""
        longest = max(len(clip.audio) for clip in clips)
        return AudioBatch.collate(clips, self.padded_length(longest), self.sample_rate)


def batch_loader(
    clips: Clips, batches: DurationBatches, sample_rate: int, num_workers: int, pin_memory: bool
) -> DataLoader[Clip]:
    """Return a loader of batches.

    Args:
        clips: Read by the numbers that ``batches`` gives.
        batches: Draws them.
        sample_rate: In Hz.
        num_workers: Processes that load ahead; 0 loads in this one.
        pin_memory: Put batches into page-locked memory, from which copies to a GPU overlap with computing.
    """
    return DataLoader(
        clips,  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=Collate(batches.padded_length, sample_rate),
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers > 0 else None,
    )
