import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers_audio import encode, tone

from speechexp.audio import AudioError, Extent, decode, measure
from speechexp.resampling import Resampler, resample

RATE = 16_000
SECONDS = 2.0
HERTZ = 440.0
LEVEL = 0.5

FORMATS = [
    pytest.param("WAV", "PCM_U8", 16_000, id="wav 8-bit"),
    pytest.param("WAV", "PCM_16", 16_000, id="wav 16-bit"),
    pytest.param("WAV", "PCM_24", 16_000, id="wav 24-bit"),
    pytest.param("WAV", "FLOAT", 16_000, id="wav float"),
    pytest.param("WAV", "DOUBLE", 48_000, id="wav double 48 kHz"),
    pytest.param("WAV", "ULAW", 8_000, id="wav mu-law 8 kHz"),
    pytest.param("WAV", "PCM_16", 8_000, id="wav 8 kHz"),
    pytest.param("WAV", "PCM_16", 22_050, id="wav 22.05 kHz"),
    pytest.param("WAV", "PCM_24", 44_100, id="wav 24-bit 44.1 kHz"),
    pytest.param("FLAC", "PCM_16", 16_000, id="flac"),
    pytest.param("FLAC", "PCM_24", 48_000, id="flac 24-bit 48 kHz"),
    pytest.param("OGG", "VORBIS", 44_100, id="ogg vorbis"),
    pytest.param("OGG", "OPUS", 48_000, id="ogg opus"),
    pytest.param("MP3", "MPEG_LAYER_III", 16_000, id="mp3 16 kHz"),
    pytest.param("MP3", "MPEG_LAYER_III", 44_100, id="mp3 44.1 kHz"),
    pytest.param("AIFF", "PCM_16", 16_000, id="aiff"),
]


def frequency_of(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n=8 * len(samples)))
    return float(spectrum.argmax()) * RATE / (8 * len(samples))


def level_of(samples: np.ndarray) -> float:
    """Return the peak of the sine that has the samples' power, its ends left out."""
    middle = samples[RATE // 4 : -RATE // 4] / 32768.0
    return float(np.sqrt(2 * np.mean(middle**2)))


@pytest.mark.parametrize(("container", "subtype", "rate"), FORMATS)
def test_length_frequency_and_level_are_kept(container: str, subtype: str, rate: int) -> None:
    samples = decode(encode(tone(SECONDS, rate, HERTZ, LEVEL), rate, container, subtype), RATE)

    assert samples.dtype == np.int16
    assert abs(len(samples) - SECONDS * RATE) <= 2
    assert frequency_of(samples) == pytest.approx(HERTZ, abs=0.5)
    assert level_of(samples) == pytest.approx(LEVEL, rel=0.01)


@pytest.mark.parametrize(("container", "subtype", "rate"), [p for p in FORMATS if p.values[0] != "MP3"])
def test_nothing_is_shifted_in_time(container: str, subtype: str, rate: int) -> None:
    samples = decode(encode(tone(SECONDS, rate, HERTZ, LEVEL), rate, container, subtype), RATE) / 32768.0
    expected = tone(SECONDS, RATE, HERTZ, LEVEL)

    middle = slice(RATE // 4, -RATE // 4)
    assert np.abs(samples[middle] - expected[middle]).max() < 0.05


def test_16_bit_at_the_same_rate_is_bit_exact() -> None:
    expected = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, expected, RATE, format="WAV", subtype="PCM_16")

    assert np.array_equal(decode(file.getvalue(), RATE), expected)


def test_stereo_is_the_mean_of_its_channels() -> None:
    left, right = tone(level=0.6), tone(level=0.2)

    samples = decode(encode(np.stack([left, right], axis=1)), RATE)
    assert level_of(samples) == pytest.approx(0.4, rel=0.01)


def test_what_a_float_file_holds_beyond_full_scale_is_clipped_not_wrapped() -> None:
    loud = np.array([1.5, -1.5, 0.25] * 100)

    assert decode(encode(loud, subtype="FLOAT"), RATE)[:3].tolist() == [32767, -32768, 8192]


def test_resampling_down_leaves_out_what_would_alias() -> None:
    samples = decode(encode(tone(SECONDS, 44_100, hertz=12_000.0), 44_100), RATE)

    assert level_of(samples) < 0.01


def test_a_path_gives_what_its_bytes_give(tmp_path: Path) -> None:
    raw = encode(tone(), container="FLAC")
    (tmp_path / "clip.flac").write_bytes(raw)

    assert np.array_equal(decode(tmp_path / "clip.flac", RATE), decode(raw, RATE))


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(encode(tone(), container="OGG", subtype="VORBIS"))

    assert len(decode(tmp_path / "clip.wav", RATE)) == RATE


# --------------------------------------------------------------------------------------- streamed WAV files


def with_data_size(raw: bytes, size: int) -> bytes:
    place = raw.index(b"data") + 4
    return raw[:place] + struct.pack("<I", size) + raw[place + 4 :]


def test_wav_that_was_streamed_to_a_pipe_is_read() -> None:
    samples = decode(with_data_size(encode(tone()), 0xFFFFFFFF), RATE)

    assert len(samples) == RATE


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0x7FFFF000, id="espeak-ng --stdout"),
        pytest.param(0x7FFFFFDB, id="sox to a pipe"),
        pytest.param(0x80000000, id="arecord to a pipe"),
    ],
)
def test_wav_streamed_by_common_tools_is_read(size: int) -> None:
    assert len(decode(with_data_size(encode(tone()), size), RATE)) == RATE


def test_chunks_before_the_audio_are_passed_over() -> None:
    raw = encode(tone())
    place = raw.index(b"data")
    extra = b"LIST" + struct.pack("<I", 5) + b"abcde\0"

    assert len(decode(raw[:place] + extra + raw[place:], RATE)) == RATE


# --------------------------------------------------------------------------------------------------- errors


def refused(source: bytes | Path) -> str:
    with pytest.raises(AudioError) as caught:
        decode(source, RATE)
    return str(caught.value)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_wav(share: float) -> None:
    raw = encode(tone(3.0))

    assert refused(raw[: int(share * len(raw))]).startswith("truncated")


@pytest.mark.parametrize("length", [13, 30])
def test_wav_cut_inside_its_header(length: int) -> None:
    assert "No 'data' chunk" in refused(encode(tone())[:length])


def test_wav_cut_right_behind_its_header() -> None:
    assert refused(encode(tone())[:44]).startswith("truncated")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_flac(share: float) -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal(3 * RATE)
    raw = encode(noise, container="FLAC")

    assert refused(raw[: int(share * len(raw))])


def test_truncated_mp3() -> None:
    raw = encode(tone(3.0), container="MP3", subtype="MPEG_LAYER_III")

    assert refused(raw[: len(raw) // 2]).startswith("truncated")


@pytest.mark.parametrize(
    ("container", "subtype", "rate"),
    [
        pytest.param("AIFF", "PCM_16", RATE, id="aiff"),
        pytest.param("AU", "PCM_16", RATE, id="au"),
        pytest.param("W64", "PCM_16", RATE, id="w64"),
        pytest.param("RF64", "PCM_16", RATE, id="rf64"),
        pytest.param("OGG", "OPUS", 48_000, id="opus"),
        pytest.param("OGG", "VORBIS", 44_100, id="vorbis"),
    ],
)
def test_truncated_files_of_other_kinds(container: str, subtype: str, rate: int) -> None:
    raw = encode(tone(5.0, rate), rate, container, subtype)

    assert "truncated" in refused(raw[: int(0.9 * len(raw))])


def mp3_without_its_xing_frame(mode: str) -> bytes:
    """Return an MP3 file as streaming servers and cutters leave it: no frame that tells its length."""
    samples = tone(4.0, 44_100, level=0.3)
    noise = np.random.default_rng(0).standard_normal(len(samples) // 2)
    samples[: len(noise)] += 0.3 * noise
    file = io.BytesIO()
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": mode, "compression_level": 0.5}
    with soundfile.SoundFile(file, "w", 44_100, 1, **options) as writer:
        writer.write(samples)
    raw = file.getvalue()
    tag = next(place for name in (b"Xing", b"Info") if (place := raw.find(name, 0, 300)) > 0)
    start = raw.rindex(b"\xff", 0, tag)
    return raw[raw.index(raw[start : start + 2], tag) :]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
def test_mp3_without_a_xing_frame_is_read_whole(mode: str) -> None:
    assert len(decode(mp3_without_its_xing_frame(mode), RATE)) == pytest.approx(4 * RATE, rel=0.05)


def test_mp3_between_tags_and_without_a_xing_frame_is_read_whole() -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(2 << 7)
    raw = tag + mp3_without_its_xing_frame("VARIABLE") + b"TAG" + bytes(125)

    assert len(decode(raw, RATE)) == pytest.approx(4 * RATE, rel=0.05)


def test_flac_that_was_streamed_to_a_pipe_is_read() -> None:
    raw = bytearray(encode(tone(), container="FLAC"))
    raw[21] &= 0xF0  # the number of samples: 36 bits in STREAMINFO, 0 where the encoder did not know it
    raw[22:26] = bytes(4)

    assert len(decode(bytes(raw), RATE)) == RATE


def test_ogg_that_was_stopped_between_two_pages_is_read() -> None:
    raw = encode(tone(5.0, 48_000), 48_000, "OGG", "OPUS")

    assert len(decode(raw[: raw.rindex(b"OggS")], RATE)) > 3 * RATE


@pytest.mark.parametrize("length", [3, 20, 27, 28])
def test_ogg_cut_in_its_first_page(length: int) -> None:
    assert refused(encode(tone(), 48_000, "OGG", "OPUS")[:length])


def test_a_file_of_no_bytes_has_zero_length(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()

    assert refused(tmp_path / "empty.wav") == "zero length"


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_a_file_without_samples_has_zero_length(container: str) -> None:
    assert refused(encode(np.zeros(0), container=container)) == "zero length"


def test_random_bytes() -> None:
    assert "not readable as audio" in refused(np.random.default_rng(1).bytes(5000))


def test_text() -> None:
    assert "not readable as audio" in refused(b"file_name,transcription\nclip.wav,hola\n" * 20)


def test_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere.wav") == "No such file or directory"


def test_folder(tmp_path: Path) -> None:
    assert refused(tmp_path) == "Is a directory"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that fails when it is read")
def test_error_while_a_file_is_read_is_not_its_end() -> None:
    assert refused(Path("/proc/self/mem")) == "Input/output error"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(value: float) -> None:
    samples = tone()
    samples[100] = value

    assert "not finite" in refused(encode(samples, subtype="FLOAT"))


@pytest.mark.parametrize("rate", [1, 999, 400_001, 2_000_000_011])
def test_a_sampling_rate_that_no_recording_has(rate: int) -> None:
    raw = encode(tone())

    assert f"{rate} Hz" in refused(raw[:24] + struct.pack("<I", rate) + raw[28:])


def test_a_recording_that_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(soundfile.SoundFile, "read", full)
    assert "memory" in refused(encode(tone()))


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    assert refused(Path(name))


# ---------------------------------------------------------------------------------------- parts, long recordings


@pytest.mark.parametrize(
    ("rate", "to_rate"), [(8_000, 16_000), (44_100, 16_000), (48_000, 16_000), (16_001, 16_000)]
)
def test_resampling_block_by_block_is_that_of_the_whole(rate: int, to_rate: int) -> None:
    samples = np.random.default_rng(1).standard_normal(400_000).astype(np.float32)
    resampler = Resampler(rate, to_rate)

    blocks = [resampler.push(block) for block in np.split(samples, [10, 50_000, 90_000, 200_000, 300_000])]
    joined = np.concatenate([*blocks, resampler.finish()])

    assert 0 < len(blocks[4]) < len(joined)
    np.testing.assert_array_equal(joined, resample(samples, rate, to_rate))


@pytest.mark.parametrize(
    ("container", "subtype", "rate"), [("WAV", "PCM_16", 16_000), ("FLAC", "PCM_24", 48_000)]
)
def test_a_stretch_is_that_of_the_whole(container: str, subtype: str, rate: int) -> None:
    samples = np.concatenate([tone(5.0, rate, 300.0), tone(1.0, rate, 900.0), tone(1.0, rate, 300.0)])
    raw = encode(samples, rate, container, subtype)

    part = decode(raw, RATE, stretch=(5.0, 6.0))

    assert len(part) == RATE
    assert frequency_of(part) == pytest.approx(900.0, abs=1.0)
    within = slice(100, -100)  # of the resampling filter's edges
    assert np.abs(part[within] - decode(raw, RATE)[5 * RATE : 6 * RATE][within].astype(int)).max() <= 1


def test_a_cut_recording_is_found_whatever_stretch_is_taken() -> None:
    raw = encode(tone(3.0), container="FLAC")

    with pytest.raises(AudioError):
        decode(raw[: len(raw) // 2], RATE, stretch=(0.0, 0.5))


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_channel_is_taken_alone(subtype: str) -> None:
    left, right = tone(hertz=300.0), tone(hertz=900.0)
    raw = encode(np.stack([left, right], axis=1), subtype=subtype)

    np.testing.assert_array_equal(decode(raw, RATE, channel=1), decode(encode(left, subtype=subtype), RATE))
    np.testing.assert_array_equal(decode(raw, RATE, channel=2), decode(encode(right, subtype=subtype), RATE))
    with pytest.raises(AudioError, match="has 2 channels, but no channel 3"):
        decode(raw, RATE, channel=3)


def without_xing(raw: bytes) -> bytes:
    """Return an MP3 file whose first frame does not tell its length."""
    return raw.replace(b"Xing", b"\0\0\0\0").replace(b"Info", b"\0\0\0\0")


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "MP3 that does not tell"])
def test_length_is_that_of_what_is_decoded(tmp_path: Path, container: str) -> None:
    quiet, loud = tone(6.0, 44_100, level=0.0), np.random.default_rng(1).uniform(-1, 1, 6 * 44_100)
    subtype = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS"}.get(container, "MPEG_LAYER_III")
    samples = np.stack([np.concatenate([quiet, loud])] * 2, axis=1)
    file = io.BytesIO()
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.5} if container.startswith("MP3") else {}
    soundfile.write(file, samples, 44_100, format=container[:4].strip(), subtype=subtype, **options)
    raw = without_xing(file.getvalue()) if container.endswith("tell") else file.getvalue()
    (tmp_path / "x").write_bytes(raw)

    extent = measure(raw)

    assert extent is not None
    assert extent == measure(tmp_path / "x")
    assert (extent.rate, extent.channels) == (44_100, 2)
    assert extent.seconds == pytest.approx(len(decode(raw, RATE)) / RATE, abs=0.001)


def test_length_of_what_is_no_audio() -> None:
    assert measure(b"no audio") is None
    assert measure(Path("nowhere.wav")) is None
    assert measure(encode(tone(0.5))) == Extent(8_000, 16_000, 1)


def test_a_long_recording_is_in_memory_once(tmp_path: Path) -> None:
    seconds, rate = 120, 48_000
    samples = np.tile(tone(1.0, rate), seconds)
    (tmp_path / "x.wav").write_bytes(encode(np.stack([samples, samples], axis=1), rate))
    result = 2 * seconds * RATE

    tracemalloc.start()
    try:
        assert decode(tmp_path / "x.wav", RATE).nbytes == result
        assert tracemalloc.get_traced_memory()[1] < 1.3 * result + 4_000_000
    finally:
        tracemalloc.stop()
