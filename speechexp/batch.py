"""A batch of audio, as every task's network receives it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

INT16_SCALE = 32768.0
_NO_AUDIO = np.zeros(0, np.int16)


@dataclass(frozen=True)
class Clip:
    """One utterance out of the prepared cache.

    Attributes:
        id: Unique in its data set.
        audio: ``(samples,)`` int16 at the task's rate.
        reference: What is scored against, already normalised; empty if there is none.
        target: Label ids.
        attributes: Columns to break figures down by (gender, voice, …).
    """

    id: str
    audio: npt.NDArray[np.int16]
    reference: str
    target: Sequence[int]
    attributes: Mapping[str, str]


@dataclass
class AudioBatch:
    """Clips padded to one length.

    Symbols: B clips, S samples of the padded length, T labels of the longest target.

    Attributes:
        audio: ``(B, S)`` float32 in [-1, 1), zero behind each clip's end.
        lengths: ``(B,)`` int64, samples.
        targets: ``(B, T)`` int64 label ids, zero behind each target's end.
        target_lengths: ``(B,)`` int64.
        num_samples: `lengths`, known without asking the device.
        clips: What is known of each clip beyond its audio, which is left out of them.
        audio_seconds: True audio in the batch, padding not counted.
    """

    audio: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    target_lengths: torch.Tensor
    num_samples: Sequence[int]
    clips: Sequence[Clip]
    audio_seconds: float

    def __post_init__(self) -> None:
        if self.audio.ndim != 2 or self.audio.shape[0] != len(self.lengths):
            raise ValueError(
                f"`audio` must be (batch, samples) with a row for each of {len(self.lengths)} lengths, "
                f"but is {tuple(self.audio.shape)} instead."
            )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_labels(self) -> list[int]:
        """The length of each target, as `target_lengths` has it, known without asking the device."""
        return [len(clip.target) for clip in self.clips]

    @property
    def padding_share(self) -> float:
        """The share of the padded audio that is padding."""
        return 1.0 - sum(self.num_samples) / self.audio.numel()

    @classmethod
    def collate(cls, clips: Sequence[Clip], padded_length: int, sample_rate: int) -> "AudioBatch":
        """Pad clips to ``padded_length`` samples."""
        audio = np.zeros((len(clips), padded_length), dtype=np.float32)
        num_labels = [len(clip.target) for clip in clips]
        targets = np.zeros((len(clips), max(num_labels, default=0)), dtype=np.int64)
        for i, clip in enumerate(clips):
            np.multiply(clip.audio, np.float32(1 / INT16_SCALE), out=audio[i, : len(clip.audio)])
            targets[i, : len(clip.target)] = clip.target
        num_samples = [len(clip.audio) for clip in clips]
        return cls(
            audio=torch.from_numpy(audio),
            lengths=torch.tensor(num_samples),
            targets=torch.from_numpy(targets),
            target_lengths=torch.tensor(num_labels),
            num_samples=num_samples,
            # A loading process would send their audio twice.
            clips=[replace(clip, audio=_NO_AUDIO) for clip in clips],
            audio_seconds=sum(num_samples) / sample_rate,
        )

    def _each_tensor(self, change: Any) -> "AudioBatch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {k: change(v) if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        return AudioBatch(**changed)

    def to(self, device: torch.device | str) -> "AudioBatch":
        """Return the batch with its tensors on a device; a copy to a GPU is not waited for."""
        to_host = torch.device(device).type == "cpu"  # whose reader would not know when it is there
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=not to_host))

    def pin_memory(self) -> "AudioBatch":
        """Return the batch in page-locked memory, from which copies to a GPU overlap with computing."""
        return self._each_tensor(lambda tensor: tensor.pin_memory())


def upload(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy what was drawn on the host to a device; only from page-locked memory is that no wait."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
