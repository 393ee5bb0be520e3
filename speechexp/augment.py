"""Augmentation of sounds: two clips mixed, parts of a spectrogram masked, its beginning moved.

What is random is drawn on the host from NumPy's generator, which a run seeds at each step; the device is asked for
nothing. A setting of zero switches its part off and draws nothing.
"""

from collections.abc import Sequence

import numpy as np
import torch

from speechexp.batch import upload
from speechexp.errors import UserError


class Mixup:
    """Mixes clips of a batch, and their targets (Zhang et al. 2018; as for AST, Gong et al. 2021).

    Waveforms are added as loud as they are: ``weight * clip + (1 - weight) * other``. A quiet clip may so be drowned by
    a loud one and still have its share of the target. AST takes the mean off each waveform first; the filter bank takes
    it off each frame, so here nothing is.

    Args:
        share: Of the clips that are mixed.
        alpha: ``weight`` is drawn from Beta(alpha, alpha): the higher, the nearer to one half. AST takes 10.
        union: Give a mixed clip all classes of its two in full, since it holds the sounds of both, and not each with
            its weight.

    Raises:
        UserError: A value can't be.
    """

    def __init__(self, share: float, alpha: float, union: bool = False) -> None:
        if not 0 <= share <= 1:
            raise UserError(f"model.mixup_share={share} must be a share of the clips: from 0 (none) to 1.")
        if not 0 <= alpha < np.inf:
            raise UserError(f"model.mixup_alpha={alpha} must be 0 (none is mixed) or above, such as 10.")
        self.share = share
        self.alpha = alpha
        self.union = union

    def __call__(
        self, audio: torch.Tensor, num_samples: Sequence[int], targets: torch.Tensor
    ) -> tuple[torch.Tensor, list[int], torch.Tensor]:
        """Return the mixed batch.

        Args:
            audio: ``(batch, samples)``, zero behind each clip's end.
            num_samples: Of each clip.
            targets: ``(batch, classes)`` float.

        Returns:
            The same three; a mixed clip is as long as the longer of its two.
        """
        clips = len(num_samples)
        if self.share == 0 or self.alpha == 0 or clips < 2:
            return audio, list(num_samples), targets
        mixed = np.random.random(clips) < self.share
        partners = (np.arange(clips) + np.random.randint(1, clips, clips)) % clips
        weights = np.where(mixed, np.random.beta(self.alpha, self.alpha, clips), 1).astype(np.float32)
        own = upload(weights[:, None], audio.device)
        other = upload(partners, audio.device)
        lengths = np.where(mixed, np.maximum(num_samples, np.take(num_samples, partners)), num_samples)
        theirs = targets.index_select(0, other)
        if self.union:
            both = torch.maximum(targets, theirs * upload(mixed.astype(np.float32)[:, None], audio.device))
        else:
            both = own * targets + (1 - own) * theirs
        return (
            own * audio + (1 - own) * audio.index_select(0, other),
            [int(length) for length in lengths],
            both,
        )


class SpectrogramMasking:
    """Sets a span of frames and a band of mel bins of each clip to zero, the mean (SpecAugment, Park et al. 2019).

    How wide each is, is drawn uniformly from 0 to the most, where it begins, uniformly from where it has room. A span
    takes at most half of its clip (Park et al.'s bound p, section 2), so that something is left of short ones.

    Args:
        time_frames: The most frames.
        mel_bins: The most bins.

    Raises:
        UserError: A value can't be.
    """

    def __init__(self, time_frames: int, mel_bins: int) -> None:
        for name, most in (("mask_frames", time_frames), ("mask_bins", mel_bins)):
            if isinstance(most, bool) or not isinstance(most, int) or most < 0:
                raise UserError(f"model.{name}={most} must be 0 (none are masked) or a whole number above.")
        self.time_frames = time_frames
        self.mel_bins = mel_bins

    def __call__(self, features: torch.Tensor, num_frames: Sequence[int]) -> torch.Tensor:
        """Return masked features.

        Args:
            features: ``(batch, frames, bins)``, normalised.
            num_frames: Of each clip: what is behind them is left as it is.
        """
        clips, frames, bins = features.shape
        if clips == 0 or (self.time_frames == 0 and self.mel_bins == 0):
            return features
        own = np.minimum(num_frames, frames)
        starts, ends = np.zeros((2, clips, 2), dtype=np.int64)
        rooms = (own, own // 2, self.time_frames), (np.full(clips, bins), np.full(clips, bins), self.mel_bins)
        for which, (room, at_most, most) in enumerate(rooms):
            if most > 0:
                width = np.random.randint(0, np.minimum(most, at_most) + 1)
                starts[:, which] = np.random.randint(0, room - width + 1)
                ends[:, which] = starts[:, which] + width
        bounds = upload(np.stack([starts[:, 0], ends[:, 0], starts[:, 1], ends[:, 1], own]), features.device)
        first, last, lowest, highest, length = bounds[:, :, None]
        frame = torch.arange(frames, device=features.device)
        mel = torch.arange(bins, device=features.device)
        span = ((frame >= first) & (frame < last))[:, :, None]
        band = ((mel >= lowest) & (mel < highest))[:, None] & (frame < length)[:, :, None]
        return features.masked_fill(span | band, 0)


def roll(features: torch.Tensor, num_frames: Sequence[int]) -> torch.Tensor:
    """Let each spectrogram begin anywhere: what leaves it at the end comes in at the front.

    Args:
        features: ``(batch, frames, bins)``.
        num_frames: How many of each spectrogram's frames move; what is behind them stays.
    """
    begins = np.random.randint(0, num_frames)
    return torch.stack(
        [
            torch.cat([each[:length].roll(int(begin), 0), each[length:]])
            for each, length, begin in zip(features, num_frames, begins, strict=True)
        ]
    )
