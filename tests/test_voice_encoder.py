"""The voice encoder: its mels are librosa's, its windows are shared, and masks choose among them."""

import numpy as np
import pytest
import torch
from helpers_audio import tone
from scipy.signal import get_window

from speechexp.pyannote_quiet import quiet_pyannote

with quiet_pyannote():
    from pyannote.audio.pipelines.speaker_verification import PretrainedSpeakerEmbedding

    from speechexp.voice_encoder import (
        GRID_SAMPLES,
        MIN_SAMPLES,
        WINDOW_SAMPLES,
        VoiceEncoder,
        slaney_filters,
    )


@pytest.fixture(scope="module")
def encoder() -> VoiceEncoder:
    torch.manual_seed(0)
    return VoiceEncoder().eval()


def voices(*hertz: float, seconds: float = 2.5) -> torch.Tensor:
    """Return one sound after another, ``(1, 1, samples)``: harmonics of each pitch, and a little noise."""
    noise = np.random.default_rng(0)
    parts = [sum(tone(seconds, hertz=n * pitch, level=0.3 / n) for n in range(1, 9)) for pitch in hertz]
    audio = np.concatenate(parts)
    return torch.tensor(audio + 0.001 * noise.standard_normal(len(audio)), dtype=torch.float32)[None, None]


def mask(*parts: float, frames: int = 50) -> torch.Tensor:
    """Return a mask of equal parts, ``(1, frames)``."""
    return torch.tensor(np.repeat(parts, frames // len(parts)), dtype=torch.float32)[None]


def test_filters_lie_on_slaneys_scale():
    filters = slaney_filters()
    hertz = np.arange(201) * 40.0
    # 60 Hz is 0.9 mel, 440 Hz 6.6, 1000 Hz 15 and 6400 Hz 42: so the edges are 45.2456 / 41 mel apart
    step = (15 + 27 * np.log(8) / np.log(6.4)) / 41
    centres = filters.T @ hertz / filters.sum(axis=0)
    linear = np.arange(1, 13)
    np.testing.assert_allclose(centres[linear], (linear + 1) * step * 200 / 3, atol=10)
    high = np.arange(20, 38)
    np.testing.assert_allclose(centres[high], 1000 * 6.4 ** (((high + 1) * step - 15) / 27), rtol=0.02)
    np.testing.assert_allclose(40 * filters[:, 20:].sum(axis=0), 1, rtol=0.02)


def test_mel_powers_are_those_of_librosas_definition(encoder: VoiceEncoder):
    audio = voices(150.0, seconds=0.1)[0, 0]
    found = encoder.mels(audio)[3].numpy()
    frame = audio[480:880].double().numpy() * get_window("hann", 400)
    power = [abs(np.sum(frame * np.exp(-2j * np.pi * k * np.arange(400) / 400))) ** 2 for k in range(201)]

    def hertz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * np.exp((mel - 15) * np.log(6.4) / 27)

    step = (15 + 27 * np.log(8) / np.log(6.4)) / 41
    for number in range(40):
        low, centre, high = (hertz((number + n) * step) for n in range(3))
        weights = np.interp(np.arange(201) * 40.0, [low, centre, high], [0, 2 / (high - low), 0])
        assert found[number] == pytest.approx(np.dot(weights, power), rel=1e-4, abs=1e-7)


def test_chunks_share_the_windows_of_the_recording(encoder: VoiceEncoder):
    audio = voices(120, 210)
    with torch.inference_mode():
        whole = encoder.window_embeddings(audio[0, 0])
        chunk = encoder.forward_frames(audio[..., 2 * GRID_SAMPLES :])[0].T
    assert len(whole) == 1 + (80_000 - WINDOW_SAMPLES) // GRID_SAMPLES
    torch.testing.assert_close(chunk, whole[2:], rtol=0, atol=1e-5)


def test_long_audio_in_blocks_has_the_same_windows(encoder: VoiceEncoder):
    audio = voices(120, 210, seconds=10)[0, 0]
    with torch.inference_mode():
        whole = encoder.window_embeddings(audio)
        alone = encoder.window_embeddings(audio[64 * GRID_SAMPLES :][: WINDOW_SAMPLES + GRID_SAMPLES])
    assert len(whole) == 74
    torch.testing.assert_close(alone, whole[64:66], rtol=0, atol=1e-5)


def test_a_mask_chooses_the_voice(encoder: VoiceEncoder):
    both = voices(110, 260)
    with torch.inference_mode():
        first, second = (encoder(voices(pitch)) for pitch in (110, 260))
        found = encoder(both, mask(1, 0))
        assert torch.dist(found, first) < 0.2 * torch.dist(found, second)
        halves = torch.stack([mask(1, 0), mask(0, 1)], dim=1)  # (batch, speakers, frames)
        together = encoder(both, halves)
    torch.testing.assert_close(together[:, 0], found)
    assert torch.dist(together[:, 1], second) < 0.2 * torch.dist(together[:, 1], first)


def test_the_pair_of_calls_gives_what_forward_does(encoder: VoiceEncoder):
    audio, weights = voices(110, 260), mask(0, 1, 1, 0, 0, frames=293 // 5 * 5)
    with torch.inference_mode():
        torch.testing.assert_close(
            encoder.forward_embedding(encoder.forward_frames(audio), weights), encoder(audio, weights)
        )


def test_a_chunk_given_for_each_speaker_is_taken_for_what_it_is(encoder: VoiceEncoder):
    one, other = voices(110), voices(260)
    with torch.inference_mode():
        found = encoder.forward_frames(torch.cat([one, one, other, one]))
        expected = [encoder.forward_frames(each)[0] for each in (one, one, other, one)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)


def test_quiet_speech_is_raised(encoder: VoiceEncoder):
    audio = voices(150) / 30
    with torch.inference_mode():
        torch.testing.assert_close(encoder(audio / 10), encoder(audio), rtol=0, atol=1e-5)
        assert encoder(torch.zeros(1, 1, 80_000)).isfinite().all()


def test_an_empty_mask_has_no_embedding(encoder: VoiceEncoder):
    with torch.inference_mode():
        found = encoder(voices(150, 260), torch.cat([mask(1, 1)[:, None], mask(0, 0)[:, None]], dim=1))
    assert found[0, 0].isfinite().all()
    assert found[0, 1].isnan().all()


def test_pyannote_finds_the_least_speech(encoder: VoiceEncoder):
    embedding = PretrainedSpeakerEmbedding(encoder)
    assert (embedding.dimension, embedding.sample_rate, embedding.metric) == (256, 16_000, "cosine")
    assert embedding.min_num_samples == MIN_SAMPLES
