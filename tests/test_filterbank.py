"""Filter banks are ASTFeatureExtractor's, for whole batches and on any device."""

import math

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor

from speechexp.errors import UserError
from speechexp.filterbank import FLOOR, FilterBank, measure

RATE = 16_000
MEAN, STD = -4.2677393, 4.5689974  # AudioSet's
LENGTHS = [0.1, 0.0251, 1.0, 10.24, 10.3, 30.0]  # seconds; AST's window is 10.255 s


def sounds(seconds: float) -> dict[str, np.ndarray]:
    """Return clips of 16 bits, ``(samples,)`` float32 in [-1, 1)."""
    rng = np.random.default_rng(round(seconds * 1000))
    time = np.arange(round(seconds * RATE)) / RATE
    noise = rng.standard_normal(len(time))
    made = {
        "vowels": 0.2 * np.sign(np.sin(2 * np.pi * 140 * time)) * np.abs(np.sin(9 * time)) + 0.01 * noise,
        "loud": 0.7 * noise,  # clipped
        "quiet": 1e-4 * noise,
        "offset": 0.3 + 1e-4 * noise,
        "silence": 0 * noise,
        "begins": np.where(time > time[-1] / 2, 0.1 * noise, 0),
    }
    return {
        name: (np.clip(np.round(clip * 32768), -32768, 32767) / 32768).astype(np.float32)
        for name, clip in made.items()
    }


def extracted(clip: np.ndarray, **settings) -> torch.Tensor:
    extractor = ASTFeatureExtractor(**settings)
    return extractor(clip, sampling_rate=RATE, return_tensors="pt")["input_values"][0]


def batch(clips: list[np.ndarray]) -> torch.Tensor:
    longest = max(len(clip) for clip in clips)
    return torch.from_numpy(np.stack([np.pad(clip, (0, longest - len(clip))) for clip in clips]))


def double_precision(clip: np.ndarray, mels: torch.Tensor) -> torch.Tensor:
    """Return a clip's log-mel values frame by frame in 64 bits."""
    frames = torch.from_numpy(clip.astype(np.float64)).unfold(0, 400, 160)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    windowed = (frames - 0.97 * before) * torch.hann_window(400, periodic=False, dtype=torch.float64)
    return (torch.fft.rfft(windowed, 512).abs().square() @ mels).clamp_min(FLOOR).log()


def mel_matrix() -> torch.Tensor:
    from torchaudio.compliance.kaldi import get_mel_banks

    banks, _ = get_mel_banks(128, 512, 16000.0, 20.0, 0.0, 100.0, -500.0, 1.0)
    return torch.nn.functional.pad(banks, (0, 1)).T.double()


@pytest.mark.parametrize("seconds", LENGTHS)
def test_the_network_is_given_what_the_extractor_gives(seconds):
    clips = sounds(seconds)
    audio = batch(list(clips.values()))
    given = FilterBank().network_input(audio, [audio.shape[1]] * len(clips), 1024, MEAN, STD)
    assert given.shape == (len(clips), 1024, 128)
    for name, clip, ours in zip(clips, clips.values(), given, strict=True):
        torch.testing.assert_close(
            ours, extracted(clip), rtol=0, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("seconds", [0.1, 10.3])
def test_log_mel_values_are_the_extractors_before_it_normalises(seconds):
    filterbank, clips = FilterBank(), sounds(seconds)
    found = filterbank(batch(list(clips.values())))
    for name, clip, ours in zip(clips, clips.values(), found, strict=True):
        theirs = extracted(clip, do_normalize=False, max_length=filterbank.num_frames(len(clip)))
        # Where little is left of a bin, both are rounded: a few values of millions by up to 2e-3.
        differs = (ours - theirs).abs()
        assert differs.max() < 3e-3, name
        assert differs.flatten().quantile(0.999) < 1e-4 if differs.numel() < 1e5 else differs.mean() < 1e-5, (
            name
        )


@pytest.mark.parametrize(
    "longest", [0.6, 4.0, 12.0]
)  # a block on the CPU holds several clips, or one, or a part
def test_padding_of_a_clip_in_a_batch_counts_as_the_extractors_padding(longest):
    clips = [sounds(seconds)["offset"] for seconds in (0.5, 0.03, longest, 0.4)] + [sounds(0.02)["loud"]]
    given = FilterBank().network_input(batch(clips), [len(clip) for clip in clips], 1024, MEAN, STD)
    for clip, ours in zip(clips[:-1], given, strict=False):
        torch.testing.assert_close(ours, extracted(clip), rtol=0, atol=1e-4)
    # the extractor refuses a clip that fills no window: here it is all padding
    torch.testing.assert_close(given[-1], torch.full((1024, 128), -MEAN / (2 * STD)))


def test_a_pure_tone_is_as_near_to_the_truth_as_the_extractor():
    """A loud tone leaves some bins with little but rounding, where two ways to compute differ."""
    time = np.arange(RATE) / RATE
    tone = (np.round(32000 * np.sin(2 * np.pi * 440 * time)) / 32768).astype(np.float32)
    truth = double_precision(tone, mel_matrix())
    ours = (FilterBank()(torch.from_numpy(tone)[None])[0] - truth).abs().max()
    theirs = (extracted(tone, do_normalize=False, max_length=98) - truth).abs().max()
    assert ours < max(1.5 * theirs, 1e-3)


@pytest.mark.parametrize(("mels", "rate"), [(40, 16_000), (128, 8_000), (80, 44_100)])
def test_other_filters_and_rates_are_the_extractors_too(mels, rate):
    clip = sounds(1.0)["vowels"]
    filterbank = FilterBank(num_mel_bins=mels, sample_rate=rate)
    extractor = ASTFeatureExtractor(
        num_mel_bins=mels, sampling_rate=rate, do_normalize=False, max_length=filterbank.num_frames(len(clip))
    )
    theirs = extractor(clip, sampling_rate=rate, return_tensors="pt")["input_values"]
    torch.testing.assert_close(filterbank(torch.from_numpy(clip)[None]), theirs, rtol=0, atol=2e-3)


def test_frames_are_counted_without_computing_them():
    filterbank = FilterBank()
    for samples in (0, 1, 399, 400, 559, 560, 163_840):
        frames = filterbank.num_frames(samples)
        assert frames == max(0, 1 + (samples - 400) // 160)
        assert filterbank(torch.zeros(2, samples)).shape == (2, frames, 128)
    assert filterbank(torch.zeros(0, 16_000)).shape == (0, 98, 128)


def test_a_clips_values_do_not_depend_on_its_batch():
    filterbank, clip = FilterBank(), torch.from_numpy(sounds(10.3)["vowels"])
    alone = filterbank(clip[None])[0]
    others = torch.rand(40, len(clip)) - 0.5
    others[17] = clip
    torch.testing.assert_close(filterbank(others)[17], alone, rtol=0, atol=2e-4)
    short = clip[:4000]
    among = torch.stack([short] * 50)
    torch.testing.assert_close(filterbank(among)[31], filterbank(short[None])[0], rtol=0, atol=2e-4)


def test_neither_autocast_nor_a_cast_nor_short_matrix_products_change_the_values(monkeypatch):
    audio = torch.from_numpy(sounds(1.0)["vowels"])[None]
    filterbank = FilterBank()
    plain = filterbank(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(filterbank(audio), plain)
    assert torch.equal(FilterBank().half()(audio), plain)
    assert torch.equal(FilterBank().double()(audio), plain)
    before = torch.get_float32_matmul_precision()
    seen = set()
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor,
        "__matmul__",
        lambda a, b: seen.add(torch.get_float32_matmul_precision()) or product(a, b),
    )
    try:
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU
        assert torch.equal(filterbank(audio), plain)
        assert seen == {"highest"}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_value_is_read_back_from_the_device():
    filterbank = FilterBank().to("meta")  # whose tensors have no values
    assert filterbank(torch.zeros(3, 20_000, device="meta")).shape == (3, 123, 128)
    given = filterbank.network_input(
        torch.zeros(3, 20_000, device="meta"), [20_000, 300, 8000], 1024, MEAN, STD
    )
    assert given.device.type == "meta"
    assert given.shape == (3, 1024, 128)


def test_checkpoints_hold_nothing_of_it():
    assert not FilterBank().state_dict()
    assert not list(FilterBank().parameters())


def test_gradients_reach_the_audio_and_are_finite_in_silence():
    torch.manual_seed(0)
    filterbank = FilterBank()
    audio = 0.1 * torch.randn(2, 2000)
    audio[1] = 0
    audio.requires_grad_()
    filterbank.network_input(audio, [2000, 2000], 20, MEAN, STD).sum().backward()
    gradient = audio.grad
    assert gradient.isfinite().all()
    assert (gradient[0, 1:1840].abs() > 0).all()  # sample 0 is under the window's zero
    assert (gradient[1] == 0).all()  # at the floor

    values = audio.detach()[:1, :800]
    weights, direction = torch.randn(1, 3, 128), torch.randn(1, 800)
    values.requires_grad_()
    (filterbank(values) * weights).sum().backward()
    step = 1e-4
    ends = [(filterbank(values.detach() + s * step * direction) * weights).sum() for s in (1, -1)]
    assert (values.grad * direction).sum().item() == pytest.approx(
        ((ends[0] - ends[1]) / (2 * step)).item(), rel=2e-2
    )


def test_statistics_are_of_the_clips_own_frames():
    filterbank = FilterBank()
    clips = [(sounds(seconds)["vowels"] * 32768).astype(np.int16) for seconds in (0.5, 2.0, 0.02, 0.1)]
    mean, std = measure(filterbank, iter(clips))
    values = torch.cat(
        [filterbank(torch.from_numpy(clip)[None].float() / 32768).flatten() for clip in clips]
    ).double()
    assert mean == pytest.approx(values.mean().item(), abs=1e-9)
    assert std == pytest.approx(values.std(correction=0).item(), abs=1e-9)
    assert measure(filterbank, clips) == (mean, std)


@pytest.mark.parametrize("clips", [[], [np.zeros(300, np.int16)], [np.zeros(16_000, np.int16)]])
def test_statistics_of_silence_are_refused(clips):
    with pytest.raises(UserError, match="standard deviation of 0"):
        measure(FilterBank(), clips)


def test_impossible_filter_banks_are_refused():
    with pytest.raises(UserError, match="num_mel_bins=0"):
        FilterBank(num_mel_bins=0)
    with pytest.raises(UserError, match="sample_rate=16"):
        FilterBank(sample_rate=16)


def test_silence_is_the_floor():
    assert FilterBank()(torch.zeros(1, 800)).unique().tolist() == pytest.approx([math.log(FLOOR)])


@pytest.mark.gpu
def test_a_gpu_computes_the_same():
    torch.set_float32_matmul_precision("high")
    audio = batch(list(sounds(10.3).values()))
    samples = [audio.shape[1], 300, 8000, 160_000, 400, audio.shape[1]]
    cpu = FilterBank().network_input(audio, samples, 1024, MEAN, STD)
    device = FilterBank().to("cuda").network_input(audio.to("cuda"), samples, 1024, MEAN, STD)
    torch.testing.assert_close(device.cpu(), cpu, rtol=0, atol=3e-4)
