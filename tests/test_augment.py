"""Mixup and masking: what they make of a batch, what they leave, and that the device is not asked."""

from typing import Any

import numpy as np
import pytest
import torch

from speechexp.augment import Mixup, SpectrogramMasking
from speechexp.errors import UserError

CLIPS, SAMPLES = 64, 50
LENGTHS = [20 + number % 31 for number in range(CLIPS)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    np.random.seed(1)
    torch.manual_seed(1)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise that is zero behind each clip's end, and for each clip a class of its own."""
    audio = torch.rand(CLIPS, SAMPLES) + 0.1
    audio[torch.arange(SAMPLES) >= torch.tensor(LENGTHS)[:, None]] = 0
    return audio, torch.eye(CLIPS)


def drawn() -> Any:
    return np.random.get_state()[2], np.random.get_state()[1].tolist()


# ----------------------------------------------------------------------------------------------------- mixup


def test_a_mixed_clip_is_two_clips_by_the_weights_of_its_target() -> None:
    audio, targets = batch()
    mixed, lengths, labels = Mixup(1.0, 10.0)(audio, LENGTHS, targets)

    assert torch.allclose(labels.sum(1), torch.ones(CLIPS))
    assert ((labels > 0).sum(1) == 2).all()  # never with itself
    assert torch.allclose(mixed, labels @ audio, atol=1e-6)
    assert lengths == [max(LENGTHS[other] for other in row.nonzero()[:, 0]) for row in labels]
    assert (labels.diagonal() > 0).all()


def test_a_share_of_the_clips_is_mixed_and_the_others_stay_bit_by_bit() -> None:
    audio, targets = batch()
    counts = []
    for _ in range(50):
        mixed, lengths, labels = Mixup(0.25, 10.0)(audio, LENGTHS, targets)
        kept = labels.diagonal() == 1
        assert torch.equal(mixed[kept], audio[kept])
        assert torch.equal(labels[kept], targets[kept])
        assert all(length == LENGTHS[i] for i, length in enumerate(lengths) if kept[i])
        counts.append(int((~kept).sum()))
    assert np.mean(counts) / CLIPS == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("alpha", [0.5, 10.0])
def test_weights_are_drawn_from_a_beta_distribution(alpha: float) -> None:
    audio, targets = batch()
    weights = torch.cat([Mixup(1.0, alpha)(audio, LENGTHS, targets)[2].diagonal() for _ in range(60)])

    assert weights.mean().item() == pytest.approx(0.5, abs=0.02)
    assert weights.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_every_other_clip_may_be_a_partner() -> None:
    audio, targets = batch()
    seen = sum((Mixup(1.0, 10.0)(audio[:4], LENGTHS[:4], targets[:4, :4])[2] > 0).float() for _ in range(60))

    assert (seen > 0).all()


def test_several_classes_keep_their_weights() -> None:
    audio, _ = batch()
    _, _, labels = Mixup(1.0, 10.0)(audio[:2], LENGTHS[:2], torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0]]))
    own, other = labels[0, 0].item(), labels[0, 2].item()

    assert own + other == pytest.approx(1)
    assert labels[0].tolist() == pytest.approx([own, 1, other, 0])


@pytest.mark.parametrize(("share", "alpha", "clips"), [(0.0, 10.0, 8), (1.0, 0.0, 8), (1.0, 10.0, 1)])
def test_switched_off_or_alone_nothing_changes_and_nothing_is_drawn(
    share: float, alpha: float, clips: int
) -> None:
    audio, targets = batch()
    before = drawn()
    mixed, lengths, labels = Mixup(share, alpha)(audio[:clips], LENGTHS[:clips], targets[:clips])

    assert torch.equal(mixed, audio[:clips]) and torch.equal(labels, targets[:clips])
    assert lengths == LENGTHS[:clips]
    assert drawn() == before


@pytest.mark.parametrize(
    ("share", "alpha"), [(-0.1, 1), (1.1, 1), (0.5, -1), (float("nan"), 1), (0.5, np.inf)]
)
def test_values_of_mixup_that_can_not_be_are_refused(share: float, alpha: float) -> None:
    with pytest.raises(UserError, match=r"model\.mixup_(share|alpha)=.* must be"):
        Mixup(share, alpha)


# ----------------------------------------------------------------------------------------------------- masking


def masked(time_frames: int, mel_bins: int, frames: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where ones became zero, and the features."""
    features = torch.ones(len(frames), 100, 40)
    found = SpectrogramMasking(time_frames, mel_bins)(features, frames)
    assert ((found == 0) | (found == 1)).all()
    return found == 0, found


def test_one_span_of_frames_and_one_band_of_bins_are_masked() -> None:
    where, _ = masked(30, 12, [100] * 200)
    spans, bands = where.all(2), where.all(1)

    assert torch.equal(where, spans[:, :, None] | bands[:, None])
    for marks, most in ((spans, 30), (bands, 12)):
        widths = marks.sum(1)
        assert widths.min() == 0 and widths.max() == most
        assert widths.double().mean().item() == pytest.approx(most / 2, rel=0.15)
        assert (marks.int().diff(dim=1).abs().sum(1) <= 2).all()  # each in one piece
        assert marks[:, 0].any() and marks[:, -1].any()  # anywhere, the ends too
    assert len(set(map(tuple, spans.tolist()))) > 150  # each clip its own


def test_only_a_clips_own_frames_are_masked_and_never_more_than_half_of_them() -> None:
    frames = [1 + number % 60 for number in range(240)]
    where, _ = masked(80, 12, frames)

    for row, length in zip(where, frames, strict=True):
        assert not row[length:].any()
        assert row[:length].all(1).sum() <= length // 2
    assert where.any()


@pytest.mark.parametrize(("time_frames", "mel_bins"), [(30, 0), (0, 12)])
def test_either_is_switched_off_alone(time_frames: int, mel_bins: int) -> None:
    where, _ = masked(time_frames, mel_bins, [100] * 50)

    assert where.any()
    assert bool(where.all(2).any()) == (time_frames > 0)
    assert bool(where.all(1).any()) == (mel_bins > 0)


def test_both_switched_off_draw_nothing() -> None:
    features, before = torch.randn(3, 100, 40), drawn()

    assert SpectrogramMasking(0, 0)(features, [100] * 3) is features
    assert drawn() == before


def test_a_band_may_be_as_wide_as_there_are_bins() -> None:
    where, _ = masked(0, 500, [100] * 300)

    assert where.all(1).sum(1).max() == 40


@pytest.mark.parametrize(("time_frames", "mel_bins"), [(-1, 0), (0, -1), (0.5, 0), (0, True)])
def test_values_of_masking_that_can_not_be_are_refused(time_frames: Any, mel_bins: Any) -> None:
    with pytest.raises(UserError, match=r"must be 0 \(none are masked\) or a whole"):
        SpectrogramMasking(time_frames, mel_bins)


# ----------------------------------------------------------------------------------------------------- the step


def test_the_same_seed_gives_the_same_batch() -> None:
    audio, targets = batch()
    found = []
    for _ in range(2):
        np.random.seed(7)
        mixed, _, _ = Mixup(0.5, 10.0)(audio, LENGTHS, targets)
        found.append((mixed, SpectrogramMasking(20, 8)(torch.ones(4, 100, 40), [100] * 4)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_nothing_is_read_from_the_device() -> None:
    audio, targets = (tensor.to("meta") for tensor in batch())
    mixed, _, labels = Mixup(0.5, 10.0)(audio, LENGTHS, targets)
    features = SpectrogramMasking(20, 8)(torch.empty(4, 100, 40, device="meta"), [100, 7, 50, 100])

    assert mixed.device.type == labels.device.type == features.device.type == "meta"
