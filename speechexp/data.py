"""Data: cleaning, the prepared cache and batches, whatever the source."""

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from speechexp.batch import AudioBatch, Clip
from speechexp.batches import DurationBatches
from speechexp.errors import UserError
from speechexp.manifest import SPLITS, Drop, Manifest, Row
from speechexp.paths import expand
from speechexp.prepare import Prepared, default_cache_dir, prepare
from speechexp.task import SpeechRecognition
from speechexp.text import frames_needed

Progress = Callable[[str, int, int | None], None]


class ClipDataset(Dataset[Clip]):
    """Clips by index; several at once come as one padded batch."""

    def __init__(
        self, clips: Sequence[Clip] | Callable[[int], Clip], count: int, pad: Callable[[int], int], rate: int
    ):
        self._clip = clips if callable(clips) else clips.__getitem__
        self._count = count
        self._pad = pad
        self._sample_rate = rate

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Clip:
        return self._clip(index)

    def collate(self, clips: list[Clip]) -> AudioBatch:
        """Pad clips to the length of the longest one's bucket."""
        return AudioBatch.collate(clips, self._pad(max(len(clip.audio) for clip in clips)), self._sample_rate)


class AudioData(pl.LightningDataModule):
    """A data set: its source (a subclass each), its cleaning, its batches.

    Training clips outside [`min_seconds`, `max_seconds`] are dropped. Validation and test keep every clip that
    can be scored, so that a figure does not change with a training setting.

    Args:
        task: Says what labels mean.
        min_seconds: Shortest training clip.
        max_seconds: Longest training clip.
        eval_max_seconds: Longest validation or test clip.
        silence_peak: A clip is silent unless its absolute peak (full scale 1.0) exceeds this.
        batch_seconds: Padded audio in a training batch, at most; ``auto`` for what memory holds, which
            `speechexp.largest_batch` then puts here as a number.
        eval_batch_seconds: The same for validation, test and prediction.
        length_step_seconds: Lengths are padded to multiples of this.
        num_workers: Processes that load batches.
        cache_dir: Where prepared data is kept.
        seed: Of the order of batches.
    """

    task: SpeechRecognition

    def __init__(
        self,
        task: SpeechRecognition,
        min_seconds: float = 0.4,
        max_seconds: float = 20.0,
        eval_max_seconds: float = 60.0,
        silence_peak: float = 1e-4,
        batch_seconds: float | Literal["auto"] = 48.0,
        eval_batch_seconds: float = 96.0,
        length_step_seconds: float | Literal["auto"] = "auto",
        num_workers: int | Literal["auto"] = "auto",
        cache_dir: str | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__()
        for name, seconds in (
            ("batch_seconds", batch_seconds),
            ("eval_batch_seconds", eval_batch_seconds),
            ("length_step_seconds", length_step_seconds),
        ):
            if seconds != "auto" and seconds * task.sample_rate < 1:
                raise UserError(f"data.{name} must be longer than a sample, but is {seconds} instead.")
        self.task = task
        self.min_seconds = min_seconds
        self.max_seconds = max_seconds
        self.eval_max_seconds = eval_max_seconds
        self.silence_peak = silence_peak
        self.batch_seconds: float | Literal["auto"] = batch_seconds
        self.eval_batch_seconds = eval_batch_seconds
        self.length_step_seconds = length_step_seconds
        self.num_workers = num_workers
        self.cache_dir = expand(cache_dir) if cache_dir else default_cache_dir()
        self.seed = seed
        self.drops: list[Drop] = []
        self._indices: dict[str, list[int]] = {}
        self._references: dict[int, str] = {}
        self._prepared: Prepared | None = None

    # ------------------------------------------------------------------------------------- the source

    @abstractmethod
    def describe(self) -> str:
        """Say in a few words where the audio comes from."""

    @abstractmethod
    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Make the source ready; return what decides its content, and its number of rows where known.

        Raises:
            UserError: The source is not there, or not as it should be.
        """

    @abstractmethod
    def rows(self) -> Iterable[Row]:
        """Give every row of the opened source, split by split."""

    def split_hint(self) -> str:
        """Say how an empty split comes to clips, where the source has settings for that."""
        return ""

    # -------------------------------------------------------------------------------------- preparing

    def load(self, progress: Progress) -> None:
        """Prepare the audio, unless that is done, and clean it.

        Args:
            progress: Told of what is under way: its name, how much is done, and of how much.

        Raises:
            UserError: The source can't be used, or nothing is left of it.
        """
        source, total = self.open_source(progress)
        self._prepared = prepare(
            source,
            self.rows,
            total,
            self.task.sample_rate,
            self.cache_dir,
            lambda done, of: progress("decoding", done, of),
        )
        self._clean()

    @property
    def prepared(self) -> Prepared:
        """The cache entry that is read from."""
        if self._prepared is None:
            raise RuntimeError("the data is not loaded yet: call load first.")
        return self._prepared

    @property
    def manifest(self) -> Manifest:
        """Every clip that could be decoded, dropped or not."""
        return self.prepared.manifest

    def _clean(self) -> None:
        manifest, rate = self.manifest, self.task.sample_rate
        self.drops = list(self.prepared.unreadable)
        self._indices = {split: [] for split in SPLITS}
        for index, (clip_id, split) in enumerate(zip(manifest.ids, manifest.splits, strict=True)):
            seconds = int(manifest.num_samples[index]) / rate
            reference = self.task.clean_reference(manifest.references[index])
            longest = self.max_seconds if split == "train" else self.eval_max_seconds
            shortest = self.min_seconds if split == "train" else 0.1
            if manifest.peaks[index] <= self.silence_peak:
                reason, detail = "silent", f"peak {manifest.peaks[index]:.2g}"
            elif seconds < shortest:
                reason, detail = "too short", f"{seconds:.2f} s"
            elif seconds > longest:
                reason, detail = "too long", f"{seconds:.1f} s"
            elif reference is None:
                reason, detail = "no text", f"transcript {manifest.references[index]!r}"
            else:
                self._references[index] = reference
                self._indices[split].append(index)
                continue
            self.drops.append(Drop(clip_id, split, reason, detail))

    def drop_infeasible(self, frames_of: Callable[[int], int]) -> None:
        """Drop training clips whose label does not fit into the network's frames: CTC has no path for them.

        Args:
            frames_of: Gives the network's number of frames for a number of samples.
        """
        kept = []
        for index in self._indices["train"]:
            needed = frames_needed(self.task.encode(self._references[index]))
            frames = frames_of(int(self.manifest.num_samples[index]))
            if needed <= frames:
                kept.append(index)
            else:
                detail = f"label needs {needed} frames, the network gives {frames}"
                self.drops.append(Drop(self.manifest.ids[index], "train", "label too long", detail))
        self._indices["train"] = kept

    def require(self, *splits: str) -> None:
        """Raise unless each split holds a clip.

        Raises:
            UserError: A split is empty; says what was dropped from it and why.
        """
        for split in splits:
            if self._indices[split]:
                continue
            reasons = Counter(drop.reason for drop in self.drops if drop.split == split)
            if not reasons:
                raise UserError(f"There is no {split} clip in {self.describe()}.{self.split_hint()}")
            dropped = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            example = next(drop for drop in self.drops if drop.split == split)
            raise UserError(
                f"No {split} clip of {self.describe()} is left after cleaning: {dropped} "
                f"(for example {example.id}: {example.detail}). See data.min_seconds={self.min_seconds}, "
                f"data.max_seconds={self.max_seconds}, data.silence_peak={self.silence_peak}, "
                f"task.normaliser={self.task.normaliser}."
            )

    # ---------------------------------------------------------------------------------------- looking

    def references(self, split: str) -> list[str]:
        """Return the cleaned references of a split."""
        return [self._references[index] for index in self._indices[split]]

    def count(self, split: str) -> int:
        """Return how many clips of a split are left."""
        return len(self._indices[split])

    def hours(self, split: str) -> float:
        """Return how much audio of a split is left."""
        return float(self.manifest.num_samples[self._indices[split]].sum()) / self.task.sample_rate / 3600

    def ids_by_length(self, split: str) -> list[str]:
        """Return the ids of a split's clips, shortest first."""
        lengths = self.manifest.num_samples
        return [self.manifest.ids[i] for i in sorted(self._indices[split], key=lambda i: (lengths[i], i))]

    def longest_clip(self, split: str) -> Clip:
        """Return a split's longest clip under the split's longest label: what asks for the most memory."""
        index = max(self._indices[split], key=lambda i: int(self.manifest.num_samples[i]))
        label = max(self.references(split), key=len)
        return replace(self.clip(index), target=self.task.encode(label))

    def clip(self, index: int) -> Clip:
        """Read a clip by its place in the manifest."""
        manifest = self.manifest
        start = int(manifest.offsets[index])
        reference = self._references[index]
        return Clip(
            id=manifest.ids[index],
            audio=self.prepared.audio[start : start + int(manifest.num_samples[index])],
            reference=reference,
            target=self.task.encode(reference),
            attributes=manifest.attributes[index],
        )

    # ---------------------------------------------------------------------------------------- batches

    def train_dataloader(self) -> DataLoader[Clip]:
        """Shuffled batches; an iterator starts at the trainer's place in the epoch, so a run can resume."""
        if self.batch_seconds == "auto":
            raise RuntimeError(
                "batch_seconds=auto is no number yet: call speechexp.largest_batch.settle first."
            )
        return self._split_loader("train", self.batch_seconds, self.seed, self._position)

    def val_dataloader(self) -> DataLoader[Clip]:
        """The validation clips, sorted by length."""
        return self._split_loader("validation", self.eval_batch_seconds)

    def test_dataloader(self) -> DataLoader[Clip]:
        """The test clips, sorted by length."""
        return self._split_loader("test", self.eval_batch_seconds)

    def clips_dataloader(self, clips: Sequence[Clip]) -> DataLoader[Clip]:
        """Clips from anywhere, in the test's kind of batches."""
        lengths = np.array([len(clip.audio) for clip in clips])
        return self._loader(lengths, clips.__getitem__, self.eval_batch_seconds, num_workers=0)

    def _split_loader(
        self,
        split: str,
        batch_seconds: float,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] | None = None,
    ) -> DataLoader[Clip]:
        indices = self._indices[split]
        lengths = self.manifest.num_samples[indices]
        return self._loader(
            lengths, lambda i: self.clip(indices[i]), batch_seconds, self._workers(), seed, position
        )

    def _loader(
        self,
        lengths: npt.NDArray[np.int64],
        clip: Callable[[int], Clip],
        batch_seconds: float,
        num_workers: int,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] | None = None,
    ) -> DataLoader[Clip]:
        rate = self.task.sample_rate
        batches = DurationBatches(
            lengths, round(batch_seconds * rate), int(self._step_seconds() * rate), seed, position
        )
        dataset = ClipDataset(clip, len(lengths), batches.padded_length, rate)
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=dataset.collate,
            num_workers=num_workers,
            pin_memory=self._device_type() == "cuda",
            persistent_workers=num_workers > 0,
        )

    def _position(self) -> tuple[int, int]:
        """Return the epoch to go on in, and how many of its batches are done.

        Lightning restores its own counters before it asks for batches. A checkpoint of an epoch's end counts
        the epoch as processed, and its batches as well.
        """
        if self.trainer is None:
            return 0, 0
        fit_loop: Any = self.trainer.fit_loop
        done = fit_loop.epoch_loop.batch_progress.current.processed
        return fit_loop.epoch_progress.current.processed, done

    def _device_type(self) -> str:
        return self.trainer.strategy.root_device.type if self.trainer is not None else "cpu"

    def _step_seconds(self) -> float:
        if self.length_step_seconds != "auto":
            return self.length_step_seconds
        return 0.2 if self._device_type() == "cpu" else 2.0

    def _workers(self) -> int:
        if self.num_workers != "auto":
            return self.num_workers
        # Reading is a copy out of a memory map: on a CPU a process of its own would only take a core away.
        return 0 if self._device_type() == "cpu" else min(4, max((os.cpu_count() or 1) - 1, 0))
