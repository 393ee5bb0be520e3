"""Log-mel filter banks of a batch, on the device that its audio is on, as the Audio Spectrogram Transformer has them.

The values are Kaldi's (its ``compute-fbank-feats`` with a Hann window and no dither), which is what
``transformers.ASTFeatureExtractor`` computes clip by clip.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from speechexp.batch import INT16_SCALE, upload
from speechexp.errors import UserError

FLOOR = 2.0**-23  # of a mel energy, before its logarithm
_WINDOW_SECONDS, _HOP_SECONDS = 0.025, 0.010
_LOWEST_HERTZ = 20.0
_PRE_EMPHASIS = float(np.float32(0.97))
_MELS_TOGETHER = (
    16  # most of the mel matrix is zero: these neighbours share a product with the bins they need
)
_FRAMES_ON_CPU = 512  # what is in work at a time then stays in a core's cache
_FRAMES_ON_DEVICE = 1 << 15  # 64 MB for each float32 copy of the frames


class FilterBank(torch.nn.Module):
    """Log-mel filter banks of a batch: windows of 25 ms, 10 ms apart, only those that lie wholly in the audio.

    In each frame the mean is taken off, then 0.97 of the sample before; a symmetric Hann window, a power spectrum over
    the next power of two, triangular filters that are evenly spaced in mel between 20 Hz and half the sampling rate
    (HTK's scale, ``1127 ln(1 + f / 700)``), and the logarithm of what is at least `FLOOR`.

    It computes in 32 bits under any autocast and any cast of the module, asks the device for nothing, and has nothing
    that a checkpoint would hold.

    Args:
        num_mel_bins: Filters.
        sample_rate: Of the audio, in Hz.

    Raises:
        UserError: No filter bank is made like that.
    """

    window: torch.Tensor

    def __init__(self, num_mel_bins: int = 128, sample_rate: int = 16_000) -> None:
        super().__init__()
        if num_mel_bins < 1:
            raise UserError(f"num_mel_bins={num_mel_bins} must be at least 1; AST has num_mel_bins=128.")
        if sample_rate < 1000:
            raise UserError(
                f"sample_rate={sample_rate} must be at least 1000 (Hz); AST has sample_rate=16000."
            )
        self.num_mel_bins, self.sample_rate = num_mel_bins, sample_rate
        self.window_samples = int(sample_rate * _WINDOW_SECONDS)
        self.hop_samples = int(sample_rate * _HOP_SECONDS)
        self.fft_samples = 1 << (self.window_samples - 1).bit_length()
        # The window begins with a zero, so a frame's first sample counts for nothing, nor what stands before it; the
        # window goes on from its second value, and zeros up to the FFT's length.
        window = np.zeros(self.fft_samples)
        window[: self.window_samples - 1] = np.hanning(self.window_samples)[1:]
        self.register_buffer("window", torch.from_numpy(window).float(), persistent=False)
        self._bins: list[
            tuple[int, int]
        ] = []  # which numbers of a spectrum each part of the mel matrix takes
        mel = _mel_matrix(num_mel_bins, self.fft_samples, sample_rate)
        for number, first in enumerate(range(0, num_mel_bins, _MELS_TOGETHER)):
            part = mel[:, first : first + _MELS_TOGETHER]
            used = np.flatnonzero(part.any(axis=1))
            low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
            self._bins.append((2 * low, 2 * high))
            weights = part[low:high].repeat(2, axis=0)  # real and imaginary parts stand side by side
            self.register_buffer(f"mel_{number}", torch.from_numpy(weights).float(), persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move the tables with the module, but let no cast of it round them."""
        super()._apply(lambda table: table.to(fn(table).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames of ``num_samples`` of audio; 0 if they do not fill a window."""
        return max(1 + (num_samples - self.window_samples) // self.hop_samples, 0)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the log-mel filter banks.

        Args:
            audio: ``(batch, samples)`` in [-1, 1).

        Returns:
            ``(batch, frames, num_mel_bins)`` float32.
        """
        frames = self.num_frames(audio.shape[1])
        return self._fill(audio, [frames] * len(audio), frames, mean=0.0, scale=1.0)

    def network_input(
        self, audio: torch.Tensor, num_samples: Sequence[int], length: int, mean: float, std: float
    ) -> torch.Tensor:
        """Return what AST reads: filter banks as ``(x - mean) / (2 std)``, each clip cut or padded to one length.

        As for ``transformers.ASTFeatureExtractor``, what lies behind a clip's own frames counts as 0 before that.

        Args:
            audio: ``(batch, samples)`` in [-1, 1).
            num_samples: Of each clip; what lies behind them in ``audio`` is not looked at.
            length: Frames.
            mean: Of the training data's filter banks, see `measure`.
            std: Their standard deviation.

        Returns:
            ``(batch, length, num_mel_bins)`` float32.
        """
        frames = [min(self.num_frames(samples), length) for samples in num_samples]
        return self._fill(audio, frames, length, mean, 1 / (2 * std))

    def _fill(
        self, audio: torch.Tensor, num_frames: Sequence[int], length: int, mean: float, scale: float
    ) -> torch.Tensor:
        """Return each clip's frames and zeros, less mean, times scale: ``(batch, length, num_mel_bins)``."""
        padding = (0 - mean) * scale
        found = torch.empty(len(audio), length, self.num_mel_bins, dtype=torch.float32, device=audio.device)
        longest = max(num_frames, default=0)
        if not longest:
            return found.fill_(padding)
        if torch.is_grad_enabled() and audio.requires_grad:
            limit = len(audio) * longest  # the graph holds all of it anyhow
        else:
            limit = _FRAMES_ON_CPU if audio.device.type == "cpu" else _FRAMES_ON_DEVICE
        span = math.ceil(longest / math.ceil(longest / limit))
        rows = max(limit // span, 1)
        with _full_precision(audio.device):
            for row in range(0, len(audio), rows):
                own = num_frames[row : row + rows]
                found[row : row + rows, max(own) :] = padding
                for first in range(0, max(own), span):
                    end = min(first + span, max(own))
                    block = found[row : row + rows, first:end]
                    self._compute(audio[row : row + rows], first, block)
                    block.sub_(mean).mul_(scale)
                    if min(own) < end:
                        # several clips: none is cut into blocks, and `first` is 0
                        block.masked_fill_(_behind(own, end, audio.device), padding)
        return found

    def _compute(self, audio: torch.Tensor, first: int, found: torch.Tensor) -> None:
        """Write the frames from ``first`` on into ``(batch, frames, num_mel_bins)``."""
        hop, taps, frames = self.hop_samples, self.fft_samples, found.shape[1]
        audio = audio[:, first * hop : (first + frames - 1) * hop + taps + 1].float()
        means = (
            audio[:, : (frames - 1) * hop + self.window_samples]
            .unfold(1, self.window_samples, hop)
            .mean(dim=-1)
        )
        short = (frames - 1) * hop + taps + 1 - audio.shape[1]
        if short > 0:
            audio = functional.pad(audio, (0, short))  # only zeros of the window lie there
        # Taking a frame's mean off and pre-emphasis change places: so the latter is done once for each sample, and not
        # in each frame that it is in.
        emphasised = torch.sub(audio[:, 1:], audio[:, :-1], alpha=_PRE_EMPHASIS)
        shift = means * (1 - _PRE_EMPHASIS)
        windowed = (emphasised.unfold(1, taps, hop) - shift[..., None]).mul_(self.window)
        power = torch.view_as_real(torch.fft.rfft(windowed)).square_().flatten(2)  # (batch, frames, 2 · bins)
        for number, (low, high) in enumerate(self._bins):
            mels = slice(number * _MELS_TOGETHER, (number + 1) * _MELS_TOGETHER)
            found[..., mels] = power[..., low:high] @ getattr(self, f"mel_{number}")
        found.clamp_min_(FLOOR).log_()


def _mel_matrix(num_mel_bins: int, fft_samples: int, sample_rate: int) -> npt.NDArray[np.float64]:
    """Return triangular filters in mel, ``(fft_samples // 2 + 1, num_mel_bins)``, as Kaldi makes them.

    O'Shaughnessy 1987 has the scale. A filter's peak is 1 whatever its width; half the sampling rate is in none.
    """
    hertz = np.linspace(0, sample_rate / 2, fft_samples // 2 + 1)
    mels = 1127 * np.log1p(hertz / 700)
    lowest = 1127 * np.log1p(_LOWEST_HERTZ / 700)
    step = (mels[-1] - lowest) / (num_mel_bins + 1)
    # 1 at a filter's centre, 0 at its neighbours' centres
    triangles = 1 - np.abs((mels[:, None] - lowest) / step - np.arange(1, num_mel_bins + 1))
    triangles[-1] = 0
    filters: npt.NDArray[np.float64] = np.maximum(triangles, 0)
    return filters


def _behind(num_frames: Sequence[int], frames: int, device: torch.device) -> torch.Tensor:
    """Return which of the first ``frames`` frames clips do not have, ``(batch, frames, 1)``."""
    own = upload(np.asarray(num_frames), device)
    return torch.arange(frames, device=device)[None, :, None] >= own[:, None, None]


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Have matrix products in 32 bits, neither autocast nor with a GPU's shorter numbers (TF32)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        # meta tensors know no autocast of their own
        with torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def measure(filterbank: FilterBank, clips: Iterable[npt.NDArray[Any]]) -> tuple[float, float]:
    """Return the mean and the standard deviation of clips' log-mel values, for `FilterBank.network_input`.

    Args:
        filterbank: Computes them, where its tables are.
        clips: ``(samples,)`` int16 each, one at a time; those too short for a frame count for nothing.

    Raises:
        UserError: There is nothing to divide by.
    """
    count, total, squares = 0, 0.0, 0.0
    with torch.inference_mode():
        for clip in clips:
            audio = torch.tensor(clip, device=filterbank.window.device)
            values = filterbank(audio[None] / INT16_SCALE).double()
            count += values.numel()
            total += float(values.sum())
            squares += float(values.square().sum())
    mean = total / max(count, 1)
    std = math.sqrt(max(squares / max(count, 1) - mean**2, 0.0))
    if std < 1e-3:
        raise UserError(
            f"The filter banks of the training clips have a standard deviation of {std:g} over {count:,} values, where "
            "sounds have some 4: look whether the clips are silent, or shorter than 25 ms."
        )
    return mean, std
