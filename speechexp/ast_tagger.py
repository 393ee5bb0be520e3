"""Audio tagging: the LightningModule around ASTForAudioClassification."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import ASTForAudioClassification

from speechexp import ast_flops, augment
from speechexp.ast_network import Head, Normalisation, build_network, classes_of, network_from_config
from speechexp.augment import Mixup, SpectrogramMasking
from speechexp.batch import AudioBatch
from speechexp.checkpoint import STATE_KEY
from speechexp.errors import UserError
from speechexp.filterbank import FilterBank, measure
from speechexp.module import TaskModule
from speechexp.tagging import AudioTagging
from speechexp.tagging_metrics import FALLBACK_THRESHOLD, best_thresholds
from speechexp.tagging_scores import TagScores
from speechexp.task import Record

_MEASURED_CLIPS = 500  # for mean and standard deviation: more do not change their second digit
_WINDOWS_AT_ONCE = 64  # of an evaluation, so that an hour-long clip does not ask for an hour's memory


class AudioTagger(TaskModule):
    """The Audio Spectrogram Transformer (Gong et al. 2021), its filter banks, its loss and its optimizer.

    A clip longer than the window is taken in windows that overlap as little as they can, and its scores are the means
    of theirs; a shorter one is padded as ``ASTFeatureExtractor`` pads.

    Args:
        task: Says what the classes are.
        pretrained: A hub id or a local directory; None for random weights.
        revision: Of the hub id.
        head: ``own`` keeps a pretrained network's head, whose classes the data must have; ``new`` learns the data's.
        window_seconds: What the network sees at once; None for what it was pretrained with, or 10.24.
        network: Settings of ``ASTConfig`` to override.
        mixup_share: Share of training clips that are mixed with another (see `speechexp.augment.Mixup`).
        mixup_alpha: How evenly.
        mixup_union: Give a mixed clip the classes of both in full.
        mask_frames: The most frames of 10 ms that are masked in a training clip.
        mask_bins: The most mel bins.
        roll: Let training clips begin anywhere in their window, what leaves it at the end coming in at the front.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more time.
        compile: Compile layers with ``torch.compile`` when training starts.
        optimizer: Makes the optimizer of a module.
        schedule: Makes the learning-rate schedule of an optimizer and a number of steps.

    Attributes:
        normalisation: Of the filter banks: a pretrained network's own, or measured on the training data.
        thresholds: From which score on a clip is given each class: those of the best F1 in the last validation.
    """

    task: AudioTagging
    network: ASTForAudioClassification

    def __init__(
        self,
        task: AudioTagging,
        pretrained: str | None = None,
        revision: str | None = None,
        head: Head = "new",
        window_seconds: float | None = None,
        network: Mapping[str, Any] | None = None,
        mixup_share: float = 0.0,
        mixup_alpha: float = 10.0,
        mixup_union: bool = False,
        mask_frames: int = 0,
        mask_bins: int = 0,
        roll: bool = False,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    ) -> None:
        own = pretrained is not None and head == "own"
        if own:
            assert pretrained is not None
            classes, single = classes_of(pretrained, revision)
            task.adopt(classes, f"model.pretrained={pretrained}", single)
        built = build_network(
            None if own else task.choose_classes(),
            task.is_single,
            dict(network or {}),
            pretrained,
            revision,
            head,
            window_seconds,
            task.sample_rate,
        )
        self._scratch = pretrained is None
        super().__init__(
            task, built.network, built.notes, gradient_checkpointing, compile, optimizer, schedule
        )
        self._prepare(built.normalisation)
        self._mixup = Mixup(mixup_share, mixup_alpha, mixup_union and not task.is_single)
        self._masking = SpectrogramMasking(mask_frames, mask_bins)
        self._rolls = roll

    def _prepare(self, normalisation: Normalisation) -> None:
        config = self.network.config
        self.normalisation = normalisation
        self.filterbank = FilterBank(config.num_mel_bins, self.task.sample_rate)
        if self.gradient_checkpointing:
            self.network.gradient_checkpointing_enable({"use_reentrant": False})

    @classmethod
    def rebuilt(cls, task: AudioTagging, state: Mapping[str, Any], notes: list[str]) -> Self:
        """Build a module around the empty network that a checkpoint's state describes."""
        module = cls.__new__(cls)
        TaskModule.__init__(module, task, network_from_config(state["network"]), notes)
        module._scratch = False
        module._prepare(Normalisation())
        return module

    # ------------------------------------------------------------------------------------------- data

    @property
    def window_frames(self) -> int:
        """The frames that the network sees at once."""
        return int(self.network.config.max_length)

    def meet(self, data: Any) -> None:
        """Let lengths be padded to whole windows: that is what the network computes."""
        bank = self.filterbank
        samples = (self.window_frames - 1) * bank.hop_samples + bank.window_samples
        data.window_seconds = samples / self.task.sample_rate

    def learn_from(self, data: Any) -> None:
        """Measure the filter banks' mean and standard deviation, unless the network brought them."""
        if self._scratch:
            clips = data.clips("train")
            chosen = np.unique(np.linspace(0, len(clips) - 1, min(_MEASURED_CLIPS, len(clips))).astype(int))
            mean, std = measure(self.filterbank, (clips[int(number)].audio for number in chosen))
            self.normalisation = Normalisation(mean, std)
            self.notes.append(f"filter banks of mean {mean:.2f}, standard deviation {std:.2f}")

    # ---------------------------------------------------------------------------------------- forward

    def features(self, audio: torch.Tensor, num_samples: Sequence[int]) -> torch.Tensor:
        """Return normalised log-mel filter banks, ``(batch, frames, mel bins)``, at least a window long."""
        longest = max(self.filterbank.num_frames(samples) for samples in num_samples)
        length = max(longest, self.window_frames)
        mean, std = self.normalisation.mean, self.normalisation.std
        return self.filterbank.network_input(audio, num_samples, length, mean, std)

    def window_starts(self, num_samples: int) -> list[int]:
        """Return the first frame of each of a clip's windows: spread evenly, and as few as cover it."""
        frames, window = self.filterbank.num_frames(num_samples), self.window_frames
        count = max(-(-frames // window), 1)
        return [round(place) for place in np.linspace(0, max(frames - window, 0), count)]

    def forward(self, features: torch.Tensor, num_samples: Sequence[int]) -> torch.Tensor:
        """Return the logits of clips, ``(batch, classes)``, whose sigmoid or softmax is the mean over windows.

        Args:
            features: ``(batch, frames, mel bins)``, as `features` gives them.
            num_samples: Of each clip.
        """
        starts = [self.window_starts(samples) for samples in num_samples]
        window = self.window_frames
        if all(len(each) == 1 for each in starts):
            return self._logits(features[:, :window])
        windows = [features[row, first : first + window] for row, each in enumerate(starts) for first in each]
        logits = self._logits(torch.stack(windows))
        counts = [len(each) for each in starts]
        return torch.stack([self._merged(each) for each in torch.split(logits, counts)])

    def _logits(self, windows: torch.Tensor) -> torch.Tensor:
        parts = [windows] if self.training else torch.split(windows, _WINDOWS_AT_ONCE)
        logits = torch.cat([self.network(input_values=part).logits for part in parts])
        return logits.float()

    def _merged(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of the mean score of windows, ``(windows, classes)`` to ``(classes,)``."""
        if self.task.is_single:
            return functional.log_softmax(logits, dim=-1).logsumexp(0)
        return functional.logsigmoid(logits).logsumexp(0) - functional.logsigmoid(-logits).logsumexp(0)

    def _targets(self, batch: AudioBatch) -> torch.Tensor:
        """Return ``(batch, classes)`` float, 1 for each class of a clip."""
        places = torch.arange(batch.targets.shape[1], device=batch.targets.device)
        held = (places < batch.target_lengths[:, None]).float()
        shape = len(batch), len(self.task.classes)
        empty = torch.zeros(shape, dtype=torch.float32, device=batch.audio.device)
        return empty.scatter_add_(1, batch.targets, held)

    def _losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return each clip's loss, ``(batch,)`` in nats: a mean over classes, or that of the one class."""
        if self.task.is_single:
            return functional.cross_entropy(logits, targets, reduction="none")
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)

    # ------------------------------------------------------------------------------------------ steps

    def training_step(self, batch: AudioBatch, batch_idx: int) -> torch.Tensor:
        """Return the mean loss of a batch, mixed and masked."""
        audio, num_samples, targets = self._mixup(batch.audio, batch.num_samples, self._targets(batch))
        frames = [self.filterbank.num_frames(samples) for samples in num_samples]
        features = self._masking(self.features(audio, num_samples), frames)
        if self._rolls:
            features = augment.roll(features, [max(count, self.window_frames) for count in frames])
        return self._losses(self(features, num_samples), targets).mean()

    def reset_evaluation(self) -> None:
        """Forget what an earlier evaluation counted."""
        super().reset_evaluation()
        self.scores = TagScores()

    def _scores(self, batch: AudioBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and scores of a batch, both ``(batch, classes)``."""
        logits = self(self.features(batch.audio, batch.num_samples), batch.num_samples)
        return logits, logits.softmax(-1) if self.task.is_single else logits.sigmoid()

    def score(self, batch: AudioBatch) -> list[Record]:
        """Score a batch: its losses, and its scores for the figures of the whole split.

        Raises:
            UserError: A score is no number: the training has diverged.
        """
        targets = self._targets(batch)
        logits, scores = self._scores(batch)
        losses = self._losses(logits, targets)
        self.count_losses(losses)
        self.scores.update(scores, targets.bool())
        kept, told = self.scores.scores[-1].numpy(), losses.tolist()
        if not (np.isfinite(kept).all() and np.isfinite(told).all()):
            raise UserError(
                "The network's scores are no numbers: its training has diverged. Train with a lower "
                "model.optimizer.lr, and on a GPU with trainer.precision=32-true."
            )
        return [{"_scores": row, "loss": round(loss, 6)} for row, loss in zip(kept, told, strict=True)]

    def predict(self, batch: AudioBatch) -> list[Record]:
        """Return the classes of each clip and its best scores."""
        _, scores = self._scores(batch)
        return [self.task.tell(row, self.thresholds) for row in scores.float().cpu().numpy()]

    def record(self, batch: AudioBatch, row: int, prediction: Record) -> Record:
        """Return the labels, the best scores, and for the figures all scores of a test clip."""
        clip = batch.clips[row]
        names = self.task.names
        return {
            "reference": [names[place] for place in clip.target],
            **self.task.tell(prediction["_scores"], self.thresholds, clip.target),
            **prediction,
            "_target": list(clip.target),
            "_thresholds": self._thresholds,
        }

    def figures(self) -> dict[str, torch.Tensor]:
        """Return the figures of the whole split."""
        figures = {"map": self.scores.compute()}
        if self.task.is_single:
            scores, targets = self.scores.arrays()
            figures["accuracy"] = torch.tensor((scores.argmax(1) == targets.argmax(1)).mean())
        return figures

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the split, and take the thresholds from it."""
        super().on_validation_epoch_end()
        if not self.task.is_single and not self.trainer.sanity_checking:
            self._thresholds = best_thresholds(*self.scores.arrays())[0].tolist()

    @property
    def thresholds(self) -> list[float]:
        """Of each class; one half before anything was validated."""
        return self._thresholds or [FALLBACK_THRESHOLD] * len(self.task.classes)

    _thresholds: list[float] | None = None

    def training_flops(self, batch: AudioBatch) -> int:
        """Return the floating-point operations of a training step, padding included (see `speechexp.ast_flops`)."""
        windows = sum(len(self.window_starts(samples)) for samples in batch.num_samples)
        return ast_flops.training_flops(self.network.config, windows)

    # ------------------------------------------------------------------------------------ checkpoints

    def own_state(self) -> Record:
        """Return how features are normalised, and the thresholds."""
        return {"normalisation": vars(self.normalisation), "thresholds": self._thresholds}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what `own_state` has kept."""
        state = checkpoint[STATE_KEY]
        self.normalisation = Normalisation(**state["normalisation"])
        self._thresholds = state["thresholds"]
