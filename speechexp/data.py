"""Data: cleaning, the prepared cache and batches, whatever the source."""

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from speechexp.batch import Clip
from speechexp.batches import DurationBatches
from speechexp.errors import UserError
from speechexp.loading import Clips, PreparedClips, PreparedStretches, Stretching, batch_loader
from speechexp.manifest import SPLITS, Drop, Manifest, Row
from speechexp.paths import expand
from speechexp.prepare import Labels, Prepared, Progress, default_cache_dir, prepare, prepare_labels
from speechexp.task import Task
from speechexp.text import Texts

if TYPE_CHECKING:
    from speechexp.gated import Page


class AudioData(pl.LightningDataModule):
    """A data set: its source (a subclass each), its cleaning, its batches.

    Training clips outside [`min_seconds`, `max_seconds`] are dropped. Validation and test keep every clip that
    can be scored, so that a figure does not change with a training setting.

    Args:
        task: Says what labels mean.
        min_seconds: Shortest training clip.
        max_seconds: Longest training clip.
        eval_max_seconds: Longest validation or test clip.
        silence_peak: A clip is silent unless its absolute peak (full scale 1.0) exceeds this; None keeps silence.
        batch_seconds: Padded audio in a training batch, at most; ``auto`` for what memory holds, which
            `speechexp.largest_batch` then puts here as a number.
        eval_batch_seconds: The same for validation, test and prediction.
        length_step_seconds: Lengths are padded to multiples of this; ``auto`` for what suits network and device.
        balance_classes: Draw training clips of rare classes more often, others less (see `DurationBatches`).
        num_workers: Processes that load batches.
        cache_dir: Where prepared data is kept.
        seed: Of the order of batches.

    Attributes:
        window_seconds: What a network sees at once, which lengths are padded to multiples of; it says so itself.
        stretching: Cuts training recordings into stretches, where a network wants them so.
    """

    task: Task

    def __init__(
        self,
        task: Task,
        min_seconds: float = 0.4,
        max_seconds: float = 20.0,
        eval_max_seconds: float = 60.0,
        silence_peak: float | None = 1e-4,
        batch_seconds: float | Literal["auto"] = 48.0,
        eval_batch_seconds: float = 96.0,
        length_step_seconds: float | Literal["auto"] = "auto",
        balance_classes: bool = False,
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
        if balance_classes and not task.has_classes:
            raise UserError(
                f"data.balance_classes=true is for tasks with classes, but task={task.name} has none."
            )
        self.task = task
        self.min_seconds = min_seconds
        self.max_seconds = max_seconds
        self.eval_max_seconds = eval_max_seconds
        self.silence_peak = silence_peak
        self.batch_seconds: float | Literal["auto"] = batch_seconds
        self.eval_batch_seconds = eval_batch_seconds
        self.length_step_seconds = length_step_seconds
        self.window_seconds: float | None = None
        self.stretching: Stretching | None = None
        self.balance_classes = balance_classes
        self.num_workers = num_workers
        self.cache_dir = expand(cache_dir) if cache_dir else default_cache_dir()
        self.seed = seed
        self.drops: list[Drop] = []
        self._indices: dict[str, npt.NDArray[np.int64]] = {}
        self._prepared: Prepared | None = None
        self._weights: npt.NDArray[np.float64] | None = None
        self._stretches: PreparedStretches | None = None

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
    def rows(self, start: int = 0) -> Iterable[Row]:
        """Give the rows of the opened source from the ``start``-th on, split by split, always in one order."""

    def gated_pages(self) -> "list[Page]":
        """Return the pages on the hub whose conditions must have been accepted."""
        return []

    def split_hint(self) -> str:
        """Say how an empty split comes to clips, where the source has settings for that."""
        return ""

    # -------------------------------------------------------------------------------------- preparing

    def load(self, progress: Progress, check: bool = False) -> None:
        """Prepare the audio and its labels, unless that is done, and clean them.

        Args:
            progress: Told of what is under way: its name, how much is done, and of how much.
            check: Compare what is prepared already with its checksums.

        Raises:
            UserError: The source can't be used, or the cache can't be written.
        """
        source, total = self.open_source(progress)
        rate = self.task.sample_rate
        self._prepared = prepare(source, self.rows, total, rate, self.cache_dir, progress, check)
        self._labels: Labels = prepare_labels(
            self._prepared, self.task.cleaning, self.task.clean_references, self.task.symbols_of, progress
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
        train = manifest.splits == SPLITS.index("train")
        seconds = manifest.num_samples / rate
        wrong = {
            "silent": manifest.peaks <= (-1.0 if self.silence_peak is None else self.silence_peak),
            "too short": seconds < np.where(train, self.min_seconds, 0.1),
            "too long": seconds > np.where(train, self.max_seconds, self.eval_max_seconds),
            self.task.unlabelled: self._labels.texts.is_null().to_numpy(),
        }
        details: dict[str, Callable[[int], str]] = {
            "silent": lambda index: f"peak {manifest.peaks[index]:.2g}",
            "too short": lambda index: f"{seconds[index]:.2f} s",
            "too long": lambda index: f"{seconds[index]:.1f} s",
            self.task.unlabelled: lambda index: f"its label is {manifest.references[index]!r}",
        }
        kept = np.ones(len(manifest), bool)
        self.drops = list(self.prepared.unreadable)
        for reason, is_wrong in wrong.items():
            self._drop(np.flatnonzero(kept & is_wrong), reason, details[reason])
            kept &= ~is_wrong
        self._indices = {
            split: np.flatnonzero(kept & (manifest.splits == number)) for number, split in enumerate(SPLITS)
        }

    def _drop(self, indices: npt.NDArray[np.int64], reason: str, detail: Callable[[int], str]) -> None:
        for index in indices.tolist():
            split = SPLITS[self.manifest.splits[index]]
            self.drops.append(Drop(self.manifest.ids[index], split, reason, detail(index)))

    def drop_infeasible(self, frames_of: Callable[[int], int]) -> None:
        """Drop training clips whose label does not fit into the network's frames: CTC has no path for them.

        Args:
            frames_of: Gives the network's number of frames for a number of samples.
        """
        indices = self._indices["train"]
        lengths, places = np.unique(self.manifest.num_samples[indices], return_inverse=True)
        frames = np.array([frames_of(length) for length in lengths.tolist()], np.int64)[places]
        needed = self._labels.sizes.copy()
        needed[indices] = self.task.sizes_of(self, "train", needed[indices])
        fits = needed[indices] <= frames
        given = dict(zip(indices.tolist(), frames.tolist(), strict=True)) if not fits.all() else {}
        self._drop(
            indices[~fits],
            "label too long",
            lambda index: f"label needs {needed[index]} frames, the network gives {given[index]}",
        )
        self._indices["train"] = indices[fits]

    def require(self, *splits: str) -> None:
        """Raise unless each split holds a clip.

        Raises:
            UserError: A split is empty; says what was dropped from it and why.
        """
        for split in splits:
            if len(self._indices[split]):
                continue
            reasons = Counter(drop.reason for drop in self.drops if drop.split == split)
            if not reasons:
                raise UserError(f"There is no {split} clip in {self.describe()}.{self.split_hint()}")
            dropped = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            example = next(drop for drop in self.drops if drop.split == split)
            raise UserError(
                f"No {split} clip of {self.describe()} is left after cleaning: {dropped} "
                f"(for example {example.id}: {example.detail}). See data.min_seconds={self.min_seconds}, "
                f"data.max_seconds={self.max_seconds}, data.silence_peak={self.silence_peak}"
                f"{self.task.cleaning_settings}."
            )

    # ---------------------------------------------------------------------------------------- looking

    def references(self, split: str) -> Texts:
        """Return the cleaned references of a split."""
        return Texts(self._labels.texts, self._indices[split])

    def symbols(self, split: str) -> set[str]:
        """Return what a split's references are made of, clips that are too long, too short or silent included."""
        return self._labels.symbols[split]

    def count_symbols(self, split: str) -> Counter[str]:
        """Count the references of a split, dropped clips left out, that hold each symbol."""
        counts: Counter[str] = Counter()
        for each in self._labels.texts.take(self._indices[split]).value_counts().to_pylist():
            for symbol in self.task.symbols_of(each["values"]):
                counts[symbol] += each["counts"]
        return counts

    def largest(self, split: str) -> int:
        """Return the largest size of a split's references, those of clips that were dropped included."""
        return int(self._labels.sizes[self.manifest.splits == SPLITS.index(split)].max(initial=0))

    def count(self, split: str) -> int:
        """Return how many clips of a split are left."""
        return len(self._indices[split])

    def hours(self, split: str) -> float:
        """Return how much audio of a split is left."""
        return float(self.manifest.num_samples[self._indices[split]].sum()) / self.task.sample_rate / 3600

    def ids(self, split: str) -> list[str]:
        """Return the ids of a split's clips, in the source's order."""
        return [self.manifest.ids[index] for index in self._indices[split]]

    def ids_by_length(self, split: str) -> list[str]:
        """Return the ids of a split's clips, shortest first."""
        indices = self._indices[split]
        by_length = np.argsort(self.manifest.num_samples[indices], kind="stable")
        return [self.manifest.ids[index] for index in indices[by_length]]

    def clips(self, split: str) -> PreparedClips:
        """Return the clips of a split, to be read by number."""
        return PreparedClips(self.prepared, self._indices[split], self._labels, self.task.encode)

    def stretches(self) -> PreparedStretches:
        """Return the stretches of the training recordings."""
        if self.stretching is None:
            raise RuntimeError("nothing is cut into stretches: set `stretching` first.")
        if self._stretches is None:
            self._stretches = PreparedStretches(
                self.prepared, self._indices["train"], self._labels, self.stretching
            )
            if not len(self._stretches):
                raise UserError(
                    f"Nothing of the training recordings of {self.describe()} is scored, so there is nothing to train "
                    "on. See their UEM files."
                )
        return self._stretches

    def longest_clip(self, split: str) -> Clip:
        """Return a split's longest clip under the split's longest label: what asks for the most memory."""
        if split == "train" and self.stretching is not None:
            return self.stretches()[int(self.stretches().lengths.argmax())]
        indices = self._indices[split]
        longest = int(self.manifest.num_samples[indices].argmax())
        label = self.references(split)[int(self._labels.sizes[indices].argmax())]
        return replace(self.clips(split)[longest], target=self.task.encode(label))

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
        return self._loader(clips, lengths, self.eval_batch_seconds, num_workers=0)

    def _split_loader(
        self,
        split: str,
        batch_seconds: float,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] | None = None,
    ) -> DataLoader[Clip]:
        if split == "train" and self.stretching is not None:
            stretches = self.stretches()
            return self._loader(
                stretches,
                stretches.lengths,
                batch_seconds,
                self._workers(),
                seed,
                position,
                step_seconds=self.window_seconds,  # targets are of a whole window
            )
        lengths = self.manifest.num_samples[self._indices[split]]
        weights = None
        if split == "train" and self.balance_classes:
            if self._weights is None or len(self._weights) != len(lengths):
                self._weights = self.task.balancing_weights(self.references(split))
            weights = self._weights
        return self._loader(
            self.clips(split), lengths, batch_seconds, self._workers(), seed, position, weights
        )

    def _loader(
        self,
        clips: Clips,
        lengths: npt.NDArray[np.int64],
        batch_seconds: float,
        num_workers: int,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] | None = None,
        weights: npt.NDArray[np.float64] | None = None,
        step_seconds: float | None = None,
    ) -> DataLoader[Clip]:
        rate = self.task.sample_rate
        batches = DurationBatches(
            lengths,
            batch_samples=round(batch_seconds * rate),
            length_step=round((step_seconds or self._step_seconds()) * rate),
            seed=seed,
            position=position,
            weights=weights,
            rank=self.trainer.global_rank if self.trainer is not None else 0,
            world_size=self.trainer.world_size if self.trainer is not None else 1,
        )
        return batch_loader(clips, batches, rate, num_workers, pin_memory=self._device_type() == "cuda")

    def _position(self) -> tuple[int, int]:
        """Return the epoch to go on in, and how many of its batches are done.

        Lightning restores its own counters before it asks for batches. A checkpoint of an epoch's end still
        counts that epoch's batches, of which `trainer.limit_train_batches` may leave some out.
        """
        if self.trainer is None:
            return 0, 0
        fit_loop: Any = self.trainer.fit_loop
        batches = fit_loop.epoch_loop.batch_progress
        done = 0 if batches.is_last_batch else batches.current.processed
        return fit_loop.epoch_progress.current.processed, done

    def _device_type(self) -> str:
        return self.trainer.strategy.root_device.type if self.trainer is not None else "cpu"

    def _step_seconds(self) -> float:
        if self.length_step_seconds != "auto":
            return self.length_step_seconds
        if self.window_seconds is not None:
            return self.window_seconds
        return 0.2 if self._device_type() == "cpu" else 2.0

    def _workers(self) -> int:
        if self.num_workers != "auto":
            return self.num_workers
        # Reading is a copy out of the kernel's cache: on a CPU a process of its own would only take a core away.
        return 0 if self._device_type() == "cpu" else min(4, max((os.cpu_count() or 1) - 1, 0))
