"""The window of an Audio Spectrogram Transformer: its patches, and their positions when its length changes."""

from torch import cat, nn
from torch.nn import functional
from transformers import ASTConfig, ASTForAudioClassification

from speechexp.errors import UserError

FRAMES_PER_SECOND = 100  # of the filter bank, one each 10 ms
MAX_SECONDS = 60.0  # attention's cost grows with the square of the window
MAX_STRETCH = 2  # times the pretrained table of positions


def grid(config: ASTConfig, frames: int | None = None) -> tuple[int, int]:
    """Return how many patches a window has along frequency and along time.

    Args:
        config: Of the network.
        frames: Of the window; None for its ``max_length``.
    """
    in_frequency = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    length = config.max_length if frames is None else frames
    return in_frequency, (length - config.patch_size) // config.time_stride + 1


def frames_of(config: ASTConfig, window_seconds: float, pretrained: str | None) -> int:
    """Return the filter bank's frames in a window.

    Args:
        config: Of the network, as it was pretrained.
        window_seconds: The window.
        pretrained: ``model.pretrained``; None for random weights.

    Raises:
        UserError: There can't be a window of that length.
    """
    least = config.patch_size / FRAMES_PER_SECOND
    if pretrained is None:
        most, reason = MAX_SECONDS, "the memory of attention grows with the square"
    else:
        trained = config.max_length / FRAMES_PER_SECOND
        most, reason = MAX_STRETCH * trained, f"twice what model.pretrained={pretrained} has positions for"
    number = isinstance(window_seconds, (int, float)) and not isinstance(window_seconds, bool)
    if not number or not least <= window_seconds <= most:  # also of nan
        raise UserError(
            f"model.window_seconds={window_seconds} must be from {least:g} (one patch) to {most:g} ({reason}). "
            "Longer clips are taken in several windows."
        )
    return round(FRAMES_PER_SECOND * window_seconds)


def resize_positions(model: ASTForAudioClassification, frames: int) -> str:
    """Give a network a window of another length, in place.

    Its table has a row for each of its two tokens, and one for each patch, frequency by frequency. Along time:

    - A shorter window takes the middle of the table: neighbouring patches stay as far apart in positions as they were
      in training, which they are in time as well. Interpolated, they would seem twice as far apart in half the window.
    - A longer one has no such part to take: the table is stretched, linearly between neighbours.

    Gong et al. 2021 do the same with the positions of an image network (section 2.2, and their code). A stretched
    network should be trained on.

    Args:
        model: Its configuration's ``max_length`` becomes ``frames``.
        frames: Of the filter bank; at least one patch.

    Returns:
        What was done, for the user.
    """
    config = model.config
    embeddings = model.audio_spectrogram_transformer.embeddings
    before, seconds = config.max_length / FRAMES_PER_SECOND, frames / FRAMES_PER_SECOND
    (in_frequency, old), (_, new) = grid(config), grid(config, frames)
    table = embeddings.position_embeddings.detach()
    patches = table[:, 2:].reshape(1, in_frequency, old, -1)
    if new <= old:
        start, done = (old - new) // 2, "the middle of its positions"
        patches = patches[:, :, start : start + new]
    else:
        done = "its positions interpolated"
        planes = functional.interpolate(
            patches.permute(0, 3, 1, 2), (in_frequency, new), mode="bilinear", align_corners=False
        )
        patches = planes.permute(0, 2, 3, 1)
    embeddings.position_embeddings = nn.Parameter(cat([table[:, :2], patches.flatten(1, 2)], dim=1))
    config.max_length = frames
    return f"a window of {seconds:g} s with {done} for {before:g} s"
