"""A speaker embedding for pyannote's pipeline: an LSTM over windows of mels, which the speakers of a chunk share.

The network is that of Wan et al. 2018 (Generalized End-to-End Loss for Speaker Verification), in the size that the
project Resemblyzer published weights for under Apache-2.0; its parameters have the names that those weights have.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyannote.audio.core.model import Model
from pyannote.audio.core.task import Problem, Resolution, Specifications
from torch.nn import functional

SAMPLE_RATE = 16_000
MELS, HIDDEN, LAYERS, DIMENSION = 40, 256, 3, 256
FFT_SAMPLES, HOP_SAMPLES = 400, 160
WINDOW_FRAMES = 160
WINDOW_SAMPLES = (WINDOW_FRAMES - 1) * HOP_SAMPLES + FFT_SAMPLES
GRID_FRAMES = 25
GRID_SAMPLES = GRID_FRAMES * HOP_SAMPLES  # a window begins every 0.25 s
MIN_SAMPLES = 3_200  # less speech than 0.2 s tells little of a voice
_LEVEL = 10 ** (-30 / 20)  # root mean square that quieter windows are raised to, of full scale
_GREATEST_GAIN = 1e3  # digital silence stays silence
_STEEPNESS = 8  # a window that a mask covers half counts for 1/256 of one that it covers wholly
_ENERGY_SAMPLES = math.gcd(WINDOW_SAMPLES, GRID_SAMPLES)
_WINDOWS_ON_CPU, _WINDOWS_ON_DEVICE = 64, 2_048  # in work at a time


class VoiceEncoder(Model):  # type: ignore[misc]
    """Embeds voices from windows of 1.6 s on a fixed grid, each weighted by how much of it a speaker's mask covers.

    A window's level is raised to -30 dB of full scale if it is lower, as it was for the speech the weights come from.
    Its 40 mel powers every 10 ms go through the LSTM, whose last state is projected, rectified and normalised. So a
    window depends on nothing outside it: the speakers of a chunk share theirs, and so do chunks that overlap, where
    they lie a multiple of `GRID_SAMPLES` apart.

    Args:
        sample_rate: Of the audio, in Hz: 16000.
        num_channels: 1.
        task: As of every pyannote model.

    Raises:
        ValueError: Another sampling rate.
    """

    mel_filters: torch.Tensor
    hann: torch.Tensor

    def __init__(self, sample_rate: int = SAMPLE_RATE, num_channels: int = 1, task: Any = None) -> None:
        if sample_rate != SAMPLE_RATE:
            raise ValueError(f"`sample_rate` must be {SAMPLE_RATE}, but is {sample_rate} instead.")
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.lstm = torch.nn.LSTM(MELS, HIDDEN, LAYERS, batch_first=True)
        self.linear = torch.nn.Linear(HIDDEN, DIMENSION)
        self.register_buffer("mel_filters", torch.from_numpy(slaney_filters()).float(), persistent=False)
        self.register_buffer("hann", torch.hann_window(FFT_SAMPLES), persistent=False)
        self.specifications = Specifications(
            problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0
        )

    @property
    def dimension(self) -> int:
        """Of an embedding."""
        return DIMENSION

    def mels(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the mel powers of frames of 25 ms, 10 ms apart, only those that lie wholly in the audio.

        A periodic Hann window, the squared magnitude of its spectrum, and `slaney_filters`; no logarithm.

        Args:
            audio: ``(..., samples)`` in [-1, 1).

        Returns:
            ``(..., frames, 40)`` float32.
        """
        with torch.autocast(audio.device.type, enabled=False):
            frames = audio.float().unfold(-1, FFT_SAMPLES, HOP_SAMPLES) * self.hann
            powers: torch.Tensor = torch.fft.rfft(frames).abs().square()
            return powers @ self.mel_filters

    def num_windows(self, num_samples: int) -> int:
        """Return how many windows lie in ``num_samples`` of audio; what is shorter than a window has one."""
        return 1 + max(num_samples - WINDOW_SAMPLES, 0) // GRID_SAMPLES

    def window_embeddings(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of windows, of which the n-th begins at sample ``n * GRID_SAMPLES``.

        Args:
            audio: ``(samples,)``; zeros are put behind what is shorter than a window.

        Returns:
            ``(windows, 256)``, each of norm 1, or 0 where the network gives nothing.
        """
        if len(audio) < WINDOW_SAMPLES:
            audio = functional.pad(audio, (0, WINDOW_SAMPLES - len(audio)))
        together = _WINDOWS_ON_CPU if audio.device.type == "cpu" else _WINDOWS_ON_DEVICE
        windows = self.num_windows(len(audio))
        found = []
        for first in range(0, windows, together):
            last = min(first + together, windows) - 1
            stretch = audio[first * GRID_SAMPLES : last * GRID_SAMPLES + WINDOW_SAMPLES]
            found.append(self._embed(stretch[None])[0])
        return torch.cat(found)

    def _embed(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the embeddings ``(batch, windows, 256)`` of the windows of ``(batch, samples)`` of audio."""
        powers = self.mels(audio).unfold(1, WINDOW_FRAMES, GRID_FRAMES).transpose(2, 3)
        energies = audio.float().square().unfold(1, _ENERGY_SAMPLES, _ENERGY_SAMPLES).sum(dim=2)
        energies = energies.unfold(1, WINDOW_SAMPLES // _ENERGY_SAMPLES, GRID_SAMPLES // _ENERGY_SAMPLES)
        level = (energies.sum(dim=2) / WINDOW_SAMPLES).sqrt()
        gain = (_LEVEL / level.clamp_min(_LEVEL / _GREATEST_GAIN)).clamp_min(1.0)
        _, (state, _) = self.lstm((powers * gain.square()[..., None, None]).flatten(0, 1))
        found = functional.normalize(functional.relu(self.linear(state[-1])).float(), dim=-1)
        return found.view(len(audio), -1, DIMENSION)

    def forward_frames(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of each chunk's windows, which all its speakers share.

        Args:
            waveforms: ``(batch, 1, samples)``.

        Returns:
            ``(batch, 256, windows)``.

        Raises:
            ValueError: They are shorter than `MIN_SAMPLES`.
        """
        audio = waveforms[:, 0]
        if audio.shape[1] < MIN_SAMPLES:
            raise ValueError(
                f"`waveforms` must have at least {MIN_SAMPLES} samples, but has {audio.shape[1]} instead."
            )
        if audio.shape[1] < WINDOW_SAMPLES:
            audio = functional.pad(audio, (0, WINDOW_SAMPLES - audio.shape[1]))
        # pyannote gives a chunk once for each of its speakers, one after the other
        other = torch.ones(len(audio), dtype=torch.bool, device=audio.device)
        other[1:] = (audio[1:] != audio[:-1]).any(dim=1)
        return self._embed(audio[other])[other.cumsum(0) - 1].transpose(1, 2)

    def forward_embedding(
        self, frames: torch.Tensor, weights: torch.Tensor | None = None, num_samples: int | None = None
    ) -> torch.Tensor:
        """Return speakers' embeddings from those of windows.

        Args:
            frames: ``(batch, 256, windows)``, from `forward_frames`.
            weights: ``(batch, mask_frames)`` or ``(batch, speakers, mask_frames)``: how much of each frame is the
                speaker's, over whole chunks; None for all of it.
            num_samples: Of a chunk; None for the multiple of `GRID_SAMPLES` that has so many windows.

        Returns:
            ``(batch, 256)`` or ``(batch, speakers, 256)`` of norm 1; NaN where a mask covers no window.
        """
        if weights is None:
            return functional.normalize(frames.mean(dim=-1), dim=-1)
        masks = weights.float() if weights.ndim == 3 else weights.float()[:, None]
        windows = frames.shape[-1]
        if num_samples is None:
            num_samples = (math.ceil(WINDOW_SAMPLES / GRID_SAMPLES) + windows - 1) * GRID_SAMPLES
        covered = masks @ _overlap(masks.shape[-1], windows, num_samples, masks.device)
        best = covered.amax(dim=-1, keepdim=True)
        counts = (covered / best).pow(_STEEPNESS)  # 0 / 0 is NaN
        embeddings = functional.normalize(counts @ frames.transpose(1, 2), dim=-1)
        return embeddings if weights.ndim == 3 else embeddings[:, 0]

    def forward(self, waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return speakers' embeddings: `forward_frames`, then `forward_embedding`.

        Args:
            waveforms: ``(batch, 1, samples)``.
            weights: See `forward_embedding`.

        Returns:
            ``(batch, 256)`` or ``(batch, speakers, 256)``.
        """
        return self.forward_embedding(self.forward_frames(waveforms), weights, waveforms.shape[-1])


def _overlap(mask_frames: int, windows: int, num_samples: int, device: torch.device) -> torch.Tensor:
    """Return how many samples each frame of a mask shares with each window, ``(mask_frames, windows)``."""
    edges = torch.arange(mask_frames + 1, device=device) * (num_samples / mask_frames)
    starts = torch.arange(windows, device=device) * GRID_SAMPLES
    first = torch.maximum(edges[:-1, None], starts)
    last = torch.minimum(edges[1:, None], starts + WINDOW_SAMPLES)
    return (last - first).clamp_min(0)


def slaney_filters() -> npt.NDArray[np.float64]:
    """Return triangular filters, ``(201, 40)``, evenly spaced on Slaney's mel scale from 0 to 8 kHz.

    The scale of Slaney's Auditory Toolbox (1998) is linear up to 1 kHz, 15 mel, and logarithmic above, 27 mel to each
    factor 6.4. A filter's area over frequency is 1, as librosa has it by default.
    """
    knee, hertz_per_mel = 15.0, 200 / 3
    top = knee + 27 * math.log(SAMPLE_RATE / 2 / 1000) / math.log(6.4)
    mels = np.linspace(0, top, MELS + 2)
    edges = np.where(mels < knee, mels * hertz_per_mel, 1000 * 6.4 ** ((mels - knee) / 27))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1)[:, None]
    triangles = np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre))
    filters: npt.NDArray[np.float64] = np.maximum(triangles, 0) * 2 / (high - low)
    return filters
