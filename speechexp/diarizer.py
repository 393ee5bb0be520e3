"""The diarization module: pyannote's pipeline, whose segmentation network is trained and whose thresholds are tuned."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pyannote.audio.pipelines import SpeakerDiarization
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from speechexp.batch import AudioBatch
from speechexp.checkpoint import STATE_KEY
from speechexp.console import progress_bar, say_row
from speechexp.diarization import Diarization, require_speech, rows_of, timeline_of
from speechexp.diarization_metrics import WATCHED, FileScore, figures, score_file
from speechexp.errors import UserError
from speechexp.fast_diarization import Diarized, FastDiarization, Heard, Progress, batch_sizes
from speechexp.gated import Page
from speechexp.memory import PeakMemory
from speechexp.module import TaskModule
from speechexp.paths import expand
from speechexp.prepare import default_cache_dir
from speechexp.pyannote_models import (
    embedding_of,
    open_pipeline,
    parameters_of_pipeline,
    segmentation_of,
    set_parameters,
)
from speechexp.pyannote_models import (
    gated_pages as pages_of,
)
from speechexp.pyannote_saving import describe_pipeline, rebuild_pipeline, save_pipeline
from speechexp.segmentation_flops import training_flops
from speechexp.segmentation_loss import SegmentationLoss, network_logits, valid_frames
from speechexp.segmentation_targets import grid_of
from speechexp.segmentation_windows import Windows
from speechexp.task import Record, Task
from speechexp.turns import Reference, cut, read_reference

BatchSize = int | Literal["auto"]
_KEPT_WINDOWS = 100_000  # embeddings of windows, a kilobyte each
_WINDOWS_AT_ONCE = 16  # whose loss is computed in validation
_PARAMETERS = {
    "segmentation_threshold": "segmentation.threshold",
    "min_duration_off": "segmentation.min_duration_off",
    "clustering_threshold": "clustering.threshold",
    "min_cluster_size": "clustering.min_cluster_size",
    "clustering_fa": "clustering.Fa",
    "clustering_fb": "clustering.Fb",
}


class Diarizer(TaskModule):
    """pyannote's speaker diarization pipeline around a segmentation network that can be trained.

    The network says of a window of some seconds who of a few speakers is active in each frame; the embedding network
    tells voices apart; clustering makes speakers of a recording of the speakers of its windows. Training touches the
    segmentation network alone. After it, the thresholds are tuned on the validation recordings.

    Args:
        task: Says what is scored, and how many speakers may be found.
        pretrained: ``local`` for the weights that two Python packages carry; a folder that pyannote's
            ``Pipeline.from_pretrained`` takes; or the hub's id of a pipeline.
        revision: A branch, tag or commit on the hub.
        segmentation_batch: Windows that the segmentation network takes at once; ``auto`` for what suits the device.
        embedding_batch: The same for the embedding network.
        segmentation_threshold: From which activation on a speaker is active. This and the five below: None for the
            pipeline's own value, which is then tuned; a number is kept.
        min_duration_off: Pauses of a speaker, in seconds, that are filled if they are shorter.
        clustering_threshold: From which distance on voices are two.
        min_cluster_size: Windows that a speaker must be heard in.
        clustering_fa: VBx clustering alone.
        clustering_fb: VBx clustering alone.
        tune_trials: Settings of the thresholds that are tried after training; 0 leaves them as they are.
        tune_recordings: The fewest validation recordings with speech that they are tuned on; on fewer, what is best is
            best by chance.
        train_hop: From the start of a training window to that of the next, as a share of a window.
        freeze_sincnet: Leave the network's first filters as they are: a step takes a third of the time less and more.
        cache_dir: Where the weights are kept.
        optimizer: Makes the optimizer of a module.
        schedule: Makes the learning-rate schedule of an optimizer and a number of steps.

    Raises:
        UserError: The pipeline can't be had, or has no such parameter.
    """

    task: Diarization
    adjustable: ClassVar[tuple[str, ...]] = ("segmentation_batch", "embedding_batch", *_PARAMETERS)
    tests_before = True

    def __init__(
        self,
        task: Diarization,
        pretrained: str = "local",
        revision: str | None = None,
        segmentation_batch: BatchSize = "auto",
        embedding_batch: BatchSize = "auto",
        segmentation_threshold: float | None = None,
        min_duration_off: float | None = None,
        clustering_threshold: float | None = None,
        min_cluster_size: int | None = None,
        clustering_fa: float | None = None,
        clustering_fb: float | None = None,
        tune_trials: int = 50,
        tune_recordings: int = 5,
        train_hop: float = 1.0,
        freeze_sincnet: bool = True,
        cache_dir: str | None = None,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    ) -> None:
        cache = expand(cache_dir) if cache_dir else default_cache_dir()
        with progress_bar() as show:
            pipeline = open_pipeline(pretrained, revision, cache, show)
        super().__init__(
            task,
            segmentation_of(pipeline),
            [f"pyannote's pipeline from {pretrained}"],
            optimizer=optimizer,
            schedule=schedule,
        )
        self._tune_trials, self._tune_recordings = tune_trials, tune_recordings
        self._train_hop = train_hop
        self._take(pipeline)
        sincnet = getattr(self.network, "sincnet", None)
        if freeze_sincnet and isinstance(sincnet, nn.Module):
            sincnet.requires_grad_(False)
        self.adjust(
            segmentation_batch=segmentation_batch,
            embedding_batch=embedding_batch,
            segmentation_threshold=segmentation_threshold,
            min_duration_off=min_duration_off,
            clustering_threshold=clustering_threshold,
            min_cluster_size=min_cluster_size,
            clustering_fa=clustering_fa,
            clustering_fb=clustering_fb,
        )

    def _take(self, pipeline: SpeakerDiarization) -> None:
        if not 0 < self._train_hop <= 1:
            raise UserError(
                f"model.train_hop={self._train_hop} must be above 0 and at most 1: the share of a window from "
                "the start of one to that of the next."
            )
        self.pipeline = pipeline
        self.embedding = embedding_of(pipeline)
        self.embedding.eval().requires_grad_(False)
        network: Any = self.network
        network.train().requires_grad_(True)
        rate = self.task.sample_rate
        specifications = network.specifications
        samples = round(specifications.duration * rate)
        grid = grid_of(network, samples)
        self.windows = Windows(grid, samples, rate, len(specifications.classes), self._train_hop)
        self._validation_windows = Windows(grid, samples, rate, len(specifications.classes))
        self.loss = SegmentationLoss.of(specifications)
        self._fixed: set[str] = set()
        self._window_seconds: dict[str, float] = {}  # what the windows that are kept have cost
        self._batches: dict[str, BatchSize] = {"segmentation": "auto", "embedding": "auto"}
        self._fast: FastDiarization | None = None
        self._windows: dict[str, torch.Tensor] = {}
        self._untuned: dict[str, Any] | None = None  # the parameters of before they were tuned
        self._kept: list[tuple[Heard, Reference]] | None = None

    def adjust(self, **settings: Any) -> None:
        """Set what a network that was trained elsewhere leaves open: `adjustable`."""
        self._batches = {
            name: settings.pop(f"{name}_batch", "auto") for name in ("segmentation", "embedding")
        }
        for name, size in self._batches.items():
            if size != "auto" and size < 1:
                raise UserError(f"model.{name}_batch must be at least 1, or auto, but is {size} instead.")
        known = parameters_of_pipeline(self.pipeline)
        there = ", ".join(f"model.{name}" for name, parameter in _PARAMETERS.items() if parameter in known)
        chosen = {name: value for name, value in settings.items() if value is not None}
        for name, value in chosen.items():
            if _PARAMETERS[name] not in known:
                raise UserError(f"model.{name}={value}: this pipeline has no such parameter. It has {there}.")
            try:
                set_parameters(self.pipeline, {_PARAMETERS[name]: value})
            except UserError as error:
                raise UserError(f"model.{name}: {error}") from None
        self._fixed = {_PARAMETERS[name] for name in chosen}
        if self._untuned is not None:
            self._untuned |= {_PARAMETERS[name]: value for name, value in chosen.items()}

    @classmethod
    def rebuilt(cls, task: Diarization, state: Mapping[str, Any], notes: list[str]) -> Self:
        """Build a module around the empty networks that a checkpoint's state describes."""
        module = cls.__new__(cls)
        pipeline = rebuild_pipeline(state["network"])
        TaskModule.__init__(module, task, segmentation_of(pipeline), notes)
        module._tune_trials, module._tune_recordings, module._train_hop = 0, 0, 1.0
        module._take(pipeline)
        return module

    @classmethod
    def gated_pages(cls, settings: Mapping[str, Any]) -> list[Page]:
        """Return the pages on the hub whose conditions must have been accepted."""
        return [Page("model", name) for name in pages_of(settings.get("pretrained") or "local")]

    # ------------------------------------------------------------------------------------------- data

    def meet(self, data: Any) -> None:
        """Let training recordings be cut into the network's windows."""
        data.window_seconds = self.windows.samples / self.task.sample_rate
        data.stretching = self.windows

    def learn_from(self, data: Any) -> None:
        """Check that there is something to train on, and to tell the best epoch by.

        Raises:
            UserError: There is not.
        """
        data.stretches()
        require_speech(data, "validation")

    # ------------------------------------------------------------------------------------------ steps

    def training_step(self, batch: AudioBatch, batch_idx: int) -> torch.Tensor:
        """Return the mean loss of a batch of windows."""
        return self._losses(batch.audio, batch.targets, batch.lengths).mean()

    def _losses(self, audio: torch.Tensor, targets: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the loss of each window, ``(batch,)``; frames behind a window's end do not count."""
        valid = valid_frames(lengths, self.windows.grid, self.task.sample_rate)
        losses: torch.Tensor = self.loss(network_logits(self.network, audio), targets, valid)
        return losses

    def reset_evaluation(self) -> None:
        """Forget what an earlier evaluation counted."""
        super().reset_evaluation()
        self._scores: list[FileScore] = []
        self._seconds: dict[str, float] = {}
        self._heard_seconds = 0.0
        self._elapsed = 0.0

    def _diarization(self) -> FastDiarization:
        """Return the pipeline in batches, on this module's device."""
        if self._fast is None:
            self.pipeline.to(self.device)
            segmentation, embedding = batch_sizes(self.device)
            sizes = self._batches
            self._fast = FastDiarization(
                self.pipeline,
                segmentation if sizes["segmentation"] == "auto" else sizes["segmentation"],
                embedding if sizes["embedding"] == "auto" else sizes["embedding"],
            )
        return self._fast

    def _listen(
        self, audio: torch.Tensor, key: str | None = None, progress: Progress | None = None
    ) -> tuple[Heard, Diarized]:
        """Diarize a recording, ``(samples,)``.

        The embedding network does not change, so what it says of a recording that comes again is kept; its cost counts
        each time.
        """
        begun = time.perf_counter()
        fast = self._diarization()
        known = key in self._windows
        heard = fast.listen(audio.float(), progress, self._windows.get(key or ""))
        windows_seconds = self._window_seconds[key or ""] if known else heard.costs["embedding"]
        done = _within(fast.decide(heard, *self.task.bounds), heard.seconds)
        self._elapsed += time.perf_counter() - begun
        self._heard_seconds += len(audio) / self.task.sample_rate
        room = sum(map(len, self._windows.values())) < _KEPT_WINDOWS
        if key is not None and not known and heard.windows is not None and room:
            self._windows[key], self._window_seconds[key] = heard.windows, windows_seconds
        for name, seconds in done.costs.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        if known:
            self._elapsed += windows_seconds
            self._seconds["embedding"] += windows_seconds
        return heard, done

    def score(self, batch: AudioBatch) -> list[Record]:
        """Diarize the recordings of a batch and score them."""
        predictions = []
        for row, clip in enumerate(batch.clips):
            audio = batch.audio[row, : batch.num_samples[row]]
            reference = read_reference(clip.reference)
            testing = self._trainer is not None and self.trainer.testing
            # Ids are unique within a split alone.
            heard, done = self._listen(audio, f"{'test' if testing else 'validation'}|{clip.id}")
            seconds = len(audio) / self.task.sample_rate
            score = score_file(reference, done.turns, seconds)
            self._scores.append(score)
            loss = self._count_windows(audio, clip.reference)
            if self._kept is not None:
                # A slice of the batch would keep all of it on the device.
                kept = heard.audio if heard.audio is None else heard.audio.cpu()
                self._kept.append((replace(heard, audio=kept), reference))
            prediction: Record = {"_done": done, "_score": score, "_reference": reference, "loss": loss}
            if testing:
                prediction |= self._otherwise(heard, reference, seconds)
            predictions.append(prediction)
        return predictions

    def _otherwise(self, heard: Heard, reference: Reference, seconds: float) -> Record:
        """Score a recording that was heard once more: told how many speak, and with the thresholds of before."""
        fast = self._diarization()
        known = score_file(reference, (), seconds)
        if reference.speakers:
            told = fast.decide(heard, num_speakers=len(reference.speakers))
            known = score_file(reference, told.turns, seconds)
        if self._untuned is None:
            return {"_known": known}
        tuned = parameters_of_pipeline(self.pipeline)
        set_parameters(self.pipeline, self._untuned)
        try:
            before = score_file(reference, fast.decide(heard, *self.task.bounds).turns, seconds)
        finally:
            set_parameters(self.pipeline, tuned)
        return {"_known": known, "_fine_tuned": before}

    def _count_windows(self, audio: torch.Tensor, text: str) -> float | None:
        """Count the losses of a recording's windows; return their mean, None where nothing is scored."""
        windows = self._validation_windows
        losses = []
        places = windows.starts(text, len(audio))
        size = _WINDOWS_AT_ONCE
        for start in range(0, len(places), size):
            some = places[start : start + size]
            batch = torch.zeros(len(some), windows.samples, device=audio.device)
            for row, (first, count) in enumerate(some):
                batch[row, :count] = audio[first : first + count]
            targets = torch.tensor([windows.target(text, *place) for place in some], device=audio.device)
            lengths = torch.tensor([count for _, count in some], device=audio.device)
            losses.append(self._losses(batch, targets, lengths))
        if not losses:
            return None
        each = torch.cat(losses)
        self.count_losses(each)
        return round(float(each.mean()), 6)

    def predict(self, batch: AudioBatch) -> list[Record]:
        """Return who speaks when in each recording."""
        found = []
        for row, samples in enumerate(batch.num_samples):
            with progress_bar() as show:
                _, done = self._listen(batch.audio[row, :samples], progress=show)
            found.append({"prediction": rows_of(done.turns), "exclusive": rows_of(done.exclusive)})
        return found

    def record(self, batch: AudioBatch, row: int, prediction: Record) -> Record:
        """Return the turns of a recording, those of the reference, and the scores."""
        done, score, reference = prediction["_done"], prediction["_score"], prediction["_reference"]
        return {
            "reference": rows_of(reference.turns),
            "scored": None if reference.scored is None else [list(each) for each in reference.scored],
            "prediction": rows_of(done.turns),
            "exclusive": rows_of(done.exclusive),
            "mapping": dict(score.mapping),
            **_told(score),
            "loss": prediction["loss"],
            **{name: value for name, value in prediction.items() if name.startswith("_")},
        }

    def example_figure(self, batch: AudioBatch, row: int, prediction: Record) -> Any:
        """Draw the timeline of a validation recording."""
        seconds = batch.num_samples[row] / self.task.sample_rate
        record = {
            "id": batch.clips[row].id,
            "duration_seconds": seconds,
            **self.record(batch, row, prediction),
        }
        return timeline_of(record)

    def on_validation_epoch_end(self) -> None:
        """Log the figures, but for those that thresholds are tuned on: they are of an earlier epoch, and in its log."""
        if self._kept is None:
            super().on_validation_epoch_end()

    def figures(self) -> dict[str, torch.Tensor]:
        """Return the DER of the whole split."""
        return {"der": torch.tensor(figures(self._scores)["der"], dtype=torch.float64)}

    def on_test_epoch_start(self) -> None:
        """Begin to measure memory."""
        self.reset_evaluation()
        self._memory = PeakMemory()
        self._memory.begin()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def costs(self) -> dict[str, float]:
        """Return the real-time factor of the last evaluation and its parts, and the most memory it held."""
        if not self._heard_seconds:
            return {}
        costs = {
            f"{name}_real_time_factor": seconds / self._heard_seconds
            for name, seconds in self._seconds.items()
        }
        costs["real_time_factor"] = self._elapsed / self._heard_seconds
        costs["peak_memory_gb"] = self._memory.peak() / 1e9
        if self.device.type == "cuda":
            costs["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        return costs

    def training_flops(self, batch: AudioBatch) -> int:
        """Return the floating-point operations of a training step (see `speechexp.segmentation_flops`)."""
        return training_flops(self.network, len(batch), batch.audio.shape[1]) or 0

    # ----------------------------------------------------------------------------------------- tuning

    def after_training(self, trainer: Any, data: Any, ckpt: Path, seed: int) -> dict[str, float]:
        """Tune the thresholds on the validation recordings and write them into the checkpoint.

        Returns:
            The validation's DER before and after.
        """
        from speechexp.pipeline_space import pipeline_space
        from speechexp.tuning import cautious, search

        spoken = sum(bool(read_reference(text).turns) for text in data.references("validation"))
        if self._tune_trials < 1:
            return {}
        if spoken < self._tune_recordings:
            say_row(
                "tuned",
                f"not at all: {spoken} validation recording{'s have' if spoken != 1 else ' has'} speech, and on fewer "
                f"than {self._tune_recordings} (model.tune_recordings) what is best is best by chance",
            )
            return {}
        self._kept = []
        trainer.validate(self, data, ckpt_path=str(ckpt), verbose=False, weights_only=True)
        kept, self._kept = self._kept, None
        own = self._untuned or parameters_of_pipeline(self.pipeline)
        set_parameters(self.pipeline, own)
        space = {
            name: each for name, each in pipeline_space(self.pipeline).items() if name not in self._fixed
        }
        if not space or not sum(score.components[WATCHED].speech for score in self._scores):
            return {}
        self.to(trainer.strategy.root_device)  # which the trainer leaves after each evaluation
        fast = self._diarization()
        tried: list[tuple[dict[str, Any], npt.NDArray[np.float64]]] = []

        def der(parameters: dict[str, Any]) -> float:
            set_parameters(self.pipeline, parameters)
            parts = []
            for heard, reference in kept:
                try:
                    turns = fast.decide(heard, *self.task.bounds).turns
                except UserError:  # so many speakers that they can't be named
                    return math.inf
                found = score_file(reference, turns, heard.seconds).components[WATCHED]
                parts.append((found.error, found.speech))
            tried.append((parameters, np.array(parts)))
            errors, speech = tried[-1][1].sum(axis=0)
            return float(errors / speech)

        start = {name: own[name] for name in space}
        with progress_bar() as show:
            found = search(
                space,
                der,
                [start],
                self._tune_trials,
                seed,
                lambda done, total, *_: show("tuning", done, total),
            )
        chosen, after = cautious(tried, space)
        self._untuned = own
        set_parameters(self.pipeline, {**own, **chosen})
        _write_pipeline(ckpt, {"network": self.network_state(), **self.own_state()})
        before = found.trials[0].value
        changed = [
            f"{name} {own[name]:.3g} → {chosen[name]:.3g}" for name in space if own[name] != chosen[name]
        ]
        told = ", ".join(changed) or "the thresholds stay: none of the others is better beyond chance"
        say_row(
            "tuned",
            f"val DER {before:.4f} → {after:.4f} in {len(tried)} trials (best {found.value:.4f}): {told}",
        )
        return {"val/der": after, "val/der_before_tuning": before, "val/der_best_trial": found.value}

    @classmethod
    def export(cls, task: Task, ckpt: Path, folder: Path) -> Path:
        """Write a checkpoint's pipeline as a folder that pyannote's ``Pipeline.from_pretrained`` takes."""
        module = cls.from_checkpoint(task, ckpt)
        save_pipeline(module.pipeline, folder / "pipeline")
        return folder / "pipeline"

    # ------------------------------------------------------------------------------------ checkpoints

    def network_state(self) -> dict[str, Any]:
        """Return what rebuilds the pipeline, its parameters included."""
        return describe_pipeline(self.pipeline)

    def own_state(self) -> dict[str, Any]:
        """Return the parameters of before they were tuned, None if they were not."""
        return {"untuned": self._untuned}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the pipeline's parameters."""
        state = checkpoint[STATE_KEY]
        set_parameters(self.pipeline, state["network"]["parameters"])
        self._untuned = state["untuned"]


def _within(done: Diarized, seconds: float) -> Diarized:
    """Leave out what is heard in the silence that fills up the last window, as pyannote does not."""
    return replace(done, turns=cut(done.turns, 0.0, seconds), exclusive=cut(done.exclusive, 0.0, seconds))


def _told(score: FileScore) -> Record:
    """Return what a recording's record holds of its score: the parts of the DER as shares of the reference's speech."""
    parts = score.components[WATCHED]
    rates = {
        name: round(getattr(parts, name) / parts.speech, 6) if parts.speech > 0 else None
        for name in ("missed", "false_alarm", "confusion")
    }
    return {
        "der": None if score.der is None else round(score.der, 6),
        **rates,
        "speech_seconds": round(parts.speech, 3),
        "speakers": len(score.jaccard),
        "speakers_heard": score.hypothesis_speakers,
    }


def _write_pipeline(ckpt: Path, state: dict[str, Any]) -> None:
    """Put the pipeline's parameters into a checkpoint that was written before they were tuned."""
    from speechexp.checkpointing import WholeCheckpoints

    checkpoint = torch.load(ckpt, map_location="cpu", weights_only=True)
    checkpoint[STATE_KEY] |= state
    WholeCheckpoints().save_checkpoint(checkpoint, ckpt)
