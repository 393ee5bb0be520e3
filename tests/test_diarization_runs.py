"""Whole diarization runs through the command line: what they write, that it can be believed, what is refused."""

import itertools
import json
import math
import os
import pkgutil
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import TINY_DIARIZATION
from helpers_audio import RATE, encode, tone
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from speechexp.diarization_metrics import CONVENTIONS
from speechexp.rttm import read_rttm, write_rttm
from speechexp.turns import Turn

SAMPLE = "pyannote_sample"
OWN = [each for each in TINY_DIARIZATION if "conversation" not in each and "epochs" not in each]
OWN += ["trainer.max_epochs=1", "trainer.num_examples=0"]
# pyannote.metrics' collar is of both sides together; then, whether overlapped speech is left out.
THEIRS = {
    "collar0_overlap": (0.0, False),
    "collar0.25_overlap": (0.5, False),
    "collar0.25_no_overlap": (0.5, True),
}
# What differs from run to run.
COST = re.compile(r"real_time_factor|peak|train/(?!loss)")


def figures(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def steady(folder: Path) -> dict[str, float]:
    """Return the figures that a run gives again."""
    return {name: value for name, value in figures(folder).items() if not COST.search(name)}


def of_test(folder: Path) -> dict[str, float]:
    """Return the figures that a test alone gives."""
    found = {name: value for name, value in steady(folder).items() if name.startswith("test/")}
    return {name: value for name, value in found.items() if not name.startswith(("test/before", "test/fine"))}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {record["id"]: record for record in lines(folder / "predictions.jsonl")}


def parameters(ckpt: Path) -> dict[str, Any]:
    import torch

    from speechexp.checkpoint import STATE_KEY

    return torch.load(ckpt, weights_only=True)[STATE_KEY]["network"]["parameters"]


def sample_files() -> tuple[Path, Path]:
    """Return the real recording that pyannote.audio brings, and its turns."""
    import pyannote.audio

    folder = Path(pyannote.audio.__file__).parent / "sample"
    return folder / "sample.wav", folder / "sample.rttm"


def write_talk(
    folder: Path,
    name: str,
    seconds: float,
    turns: Sequence[tuple[float, float, str]] = (),
    uem: tuple[float, float] | None = None,
) -> None:
    """Write a recording with noise of another colour for each speaker, its RTTM and its UEM."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    audio = 0.01 * noise.standard_normal(round(seconds * RATE))
    for start, end, speaker in turns:
        samples = slice(round(start * RATE), round(end * RATE))
        voice = np.convolve(
            noise.standard_normal(len(audio[samples])), np.ones(1 + 4 * ord(speaker[0]) % 9), "same"
        )
        audio[samples] += 0.1 * voice
    soundfile.write(folder / f"{name}.wav", audio, RATE)
    write_rttm(folder / f"{name}.rttm", name, [Turn(*turn) for turn in turns])
    if uem is not None:
        (folder / f"{name}.uem").write_text(f"{name} 1 {uem[0]} {uem[1]}\n")


def pyannote_rate(
    convention: str,
    files: dict[str, tuple[Sequence[Turn], Sequence[Turn], float, float]],
) -> dict[str, float]:
    """Return pyannote.metrics' figures of reference, hypothesis, and the stretch that is scored, by recording."""
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(turns: Sequence[Turn]) -> Annotation:
        found = Annotation()
        for number, turn in enumerate(turns):
            found[Segment(turn.start, turn.end), number] = turn.speaker
        return found

    collar, skip_overlap = THEIRS[convention]
    metric = DiarizationErrorRate(collar=collar, skip_overlap=skip_overlap)
    for reference, hypothesis, start, end in files.values():
        metric(annotation(reference), annotation(hypothesis), uem=Timeline([Segment(start, end)]))
    names = {"false_alarm": "false alarm", "missed": "missed detection", "confusion": "confusion"}
    found = {ours: metric[theirs] / metric["total"] for ours, theirs in names.items()}
    return {"der": abs(metric), **found}


@pytest.fixture(scope="session")
def events(diarized) -> EventAccumulator:
    accumulator = EventAccumulator(str(diarized / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture
def own(tiny_pipeline_folder) -> list[str]:
    """The settings of a run on own recordings in ``own``."""
    return [*OWN, f"model.pretrained={tiny_pipeline_folder}", "data=audio_folder", "data.path=own"]


@pytest.fixture
def talks(tmp_path) -> Path:
    """Own recordings of some seconds."""
    for split in ("train", "validation", "test"):
        write_talk(tmp_path / "own" / split, split, 7.0, [(0.5, 3.0, "A"), (2.5, 5.0, "B"), (5.5, 6.5, "A")])
    return tmp_path / "own"


# ------------------------------------------------------------------------------------------ the folder


def test_metrics_tell_every_convention_its_parts_and_the_stages_of_training(diarized):
    found = figures(diarized)
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in found.values())
    for stage in ("", "before/", "fine_tuned/"):
        for convention in CONVENTIONS:
            parts = [
                found[f"test/{stage}{part}_{convention}"] for part in ("missed", "false_alarm", "confusion")
            ]
            assert sum(parts) == pytest.approx(found[f"test/{stage}der_{convention}"], abs=1e-9)
        assert found[f"test/{stage}der"] == found[f"test/{stage}der_collar0_overlap"]
        for source in ("mixed", "recorded"):
            assert f"test/{stage}by_source/{source}/der" in found
    assert found["test/der_ci95_low"] <= found["test/der"] <= found["test/der_ci95_high"]
    assert {"test/known_speakers/der", "test/jer", "test/detection_error", "test/speaker_count_right", "val/der",
            "val/loss", "test/loss"} <= set(found)  # fmt: skip
    assert found["val/der_best_trial"] <= found["val/der"] <= 2 * found["val/der_before_tuning"]
    best = min(json.loads(line)["val/der"] for line in (diarized / "epochs.jsonl").read_text().splitlines())
    assert found["val/der_before_tuning"] == pytest.approx(best, abs=1e-6)
    assert found["test/before/der"] != found["test/fine_tuned/der"]


def test_the_cost_is_told_by_its_parts(diarized):
    found = figures(diarized)
    parts = [found[f"test/{part}_real_time_factor"]
             for part in ("segmentation", "embedding", "clustering", "reconstruction")]  # fmt: skip
    assert all(part > 0 for part in parts)
    assert sum(parts) <= found["test/real_time_factor"] < 10
    # The encoder was heard in an earlier evaluation: its time belongs to a diarization's cost all the same.
    assert found["test/embedding_real_time_factor"] > 0.1 * found["test/segmentation_real_time_factor"]
    assert found["test/peak_memory_gb"] > 0.1


def test_the_figures_are_those_of_pyannote_on_the_written_files(diarized, cache_dir):
    written = records(diarized)
    (corpus,) = {file.parent.parent for file in cache_dir.glob("conversation_mini-*/rttm/test.rttm")}
    references = read_rttm(corpus / "rttm" / "test.rttm")
    references[SAMPLE] = next(iter(read_rttm(sample_files()[1]).values()))
    files = {}
    for file in (diarized / "diarization").glob("*.rttm"):
        ((name, heard),) = read_rttm(file).items()
        reference = [each.turn for each in references[name]]
        files[name] = (reference, [each.turn for each in heard], 0.0, written[name]["duration_seconds"])
    assert files.keys() == written.keys()
    found = figures(diarized)
    for convention in CONVENTIONS:
        wanted = pyannote_rate(convention, files)
        for part, value in wanted.items():
            assert found[f"test/{part}_{convention}"] == pytest.approx(value, abs=1e-3), (part, convention)
    sources = {"mixed": [name for name in files if name != SAMPLE], "recorded": [SAMPLE]}
    for source, names in sources.items():
        wanted = pyannote_rate("collar0_overlap", {name: files[name] for name in names})
        assert found[f"test/by_source/{source}/der"] == pytest.approx(wanted["der"], abs=1e-3)


def test_each_recording_has_its_turns_as_rttm_and_json(diarized):
    from pyannote.database.util import load_rttm

    written = records(diarized)
    assert {record["file"] for record in written.values()} == {
        file.stem for file in (diarized / "diarization").iterdir()
    }
    for name, record in written.items():
        file = diarized / "diarization" / record["file"]
        assert json.loads(file.with_suffix(".json").read_text()) == record
        (heard,) = load_rttm(file.with_suffix(".rttm")).values()
        told = [
            (segment.start, segment.end, label) for segment, _, label in heard.itertracks(yield_label=True)
        ]
        assert np.allclose(
            [each[:2] for each in told], [each[:2] for each in record["prediction"]], atol=1e-6
        )
        assert [each[2] for each in told] == [each[2] for each in record["prediction"]], name
        assert record["der"] == pytest.approx(
            record["missed"] + record["false_alarm"] + record["confusion"], abs=5e-6
        )
        assert set(record["mapping"]) <= {speaker for *_, speaker in record["prediction"]}
        assert set(record["mapping"].values()) <= {speaker for *_, speaker in record["reference"]}


def test_nobody_is_heard_beside_somebody_in_exclusive_turns(diarized):
    for record in records(diarized).values():
        turns = sorted(record["exclusive"])
        assert all(before[1] <= behind[0] + 1e-3 for before, behind in itertools.pairwise(turns))


def test_the_report_shows_timelines_and_opens_without_a_network(diarized):
    drawn = {file.stem for file in (diarized / "timelines").glob("*.png")}
    assert drawn == {record["file"] for record in records(diarized).values()}
    page = (diarized / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(drawn)
    assert "test/der" in page
    assert SAMPLE in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)


def test_tensorboard_shows_recordings_with_audio_and_timeline(events):
    tags = events.Tags()
    assert {"train/loss", "train/learning_rate", "val/der", "val/loss", "test/der"} <= set(tags["scalars"])
    assert len(events.Scalars("val/der")) == 2  # a point an epoch, none of them from the tuning
    assert {f"examples/{number}" for number in range(2)} == set(tags["audio"])
    assert {f"{kind}/{number}" for kind in ("timelines", "spectrograms") for number in range(2)} == set(
        tags["images"]
    )
    text = events.Tensors("examples/0/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "DER 0." in text
    assert r"stop=" in text
    assert "SPEAKER" in text


# ------------------------------------------------------------------------------------- testing, again


def test_stage_test_gives_the_recorded_figures_with_the_thresholds_as_tuned(diarized, speechexp, tmp_path):
    ended = speechexp(["stage=test", f"ckpt={diarized}/checkpoints/best.ckpt", "hydra.run.dir=again"])
    assert ended.code == 0, ended.err
    assert of_test(tmp_path / "again") == of_test(diarized)
    assert lines(tmp_path / "again" / "predictions.jsonl") == lines(diarized / "predictions.jsonl")
    tuned, own = (
        parameters(diarized / "checkpoints" / "best.ckpt"),
        parameters(diarized / "checkpoints" / "last.ckpt"),
    )
    assert tuned != own


@pytest.mark.parametrize("size", [1, pytest.param(64, marks=pytest.mark.slow)])
def test_figures_do_not_depend_on_batches(size, diarized, speechexp, tmp_path):
    ended = speechexp(
        ["stage=test", f"ckpt={diarized}/checkpoints/best.ckpt", "hydra.run.dir=again", "data.eval_batch_seconds=1000",
         "data.length_step_seconds=32", f"model.segmentation_batch={size}", f"model.embedding_batch={size}"]
    )  # fmt: skip
    assert ended.code == 0, ended.err
    wanted = of_test(diarized)
    assert of_test(tmp_path / "again") == pytest.approx(wanted, abs=1e-6)
    for name, record in records(tmp_path / "again").items():
        assert record["prediction"] == records(diarized)[name]["prediction"]


def test_pyannote_opens_what_was_exported_and_hears_the_same(diarized):
    import torch
    from pyannote.audio import Pipeline

    from speechexp.audio import decode

    pipeline = Pipeline.from_pretrained(diarized / "pipeline")
    audio = torch.from_numpy(decode(sample_files()[0], RATE)).float() / 32768
    heard = pipeline({"waveform": audio[None], "sample_rate": RATE})
    turns = heard.speaker_diarization.itertracks(yield_label=True)
    told = sorted((round(turn.start, 3), round(turn.end, 3), label) for turn, _, label in turns)
    assert [list(turn) for turn in told] == sorted(records(diarized)[SAMPLE]["prediction"])


def test_the_pipeline_is_scored_as_it_comes(diarized, speechexp, tmp_path, tiny_diarization):
    ended = speechexp([*tiny_diarization, "stage=test", "hydra.run.dir=run"])
    assert ended.code == 0, ended.err
    before = {
        name.replace("before/", ""): value for name, value in figures(diarized).items() if "/before/" in name
    }
    found = figures(tmp_path / "run")
    assert {name: found[name] for name in before} == before


# ---------------------------------------------------------------------------------------------- prediction


def test_prediction_gives_what_the_test_gave_and_takes_any_file(diarized, speechexp, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "sample.wav").write_bytes(sample_files()[0].read_bytes())
    stereo = np.stack([tone(3.0, 44100, 300), tone(3.0, 44100, 500)], axis=1)
    (folder / "a b.flac").write_bytes(encode(stereo, 44100, "FLAC", "PCM_24"))
    (folder / "broken.wav").write_bytes(encode(tone(1.0))[:3000])
    (folder / "short.wav").write_bytes(encode(tone(0.3)))
    (folder / "silent.wav").write_bytes(encode(np.zeros(2 * RATE)))
    (folder / "deeper").mkdir()
    (folder / "deeper" / "short.wav").write_bytes(encode(tone(0.4)))
    ended = speechexp(
        ["stage=predict", f"ckpt={diarized}/checkpoints/best.ckpt", "inputs=files", "hydra.run.dir=said"]
    )
    assert ended.code == 0, ended.err
    assert "broken.wav: truncated" in ended.err
    said = {name.removeprefix("files/"): record for name, record in records(tmp_path / "said").items()}
    assert len(said) == 6
    tested = records(diarized)[SAMPLE]
    assert said["sample.wav"]["prediction"] == tested["prediction"]
    assert said["sample.wav"]["exclusive"] == tested["exclusive"]
    start, end, speaker = tested["prediction"][0]
    assert f"\nstart={start:.1f}s stop={end:.1f}s speaker_{speaker}\n" in ended.out
    assert re.search(r"start=\d+\.\ds stop=\d+\.\ds speaker_SPEAKER_00", ended.out)
    for name, record in said.items():
        if name == "broken.wav":
            assert "truncated" in record["error"]
            continue
        file = tmp_path / "said" / "diarization" / f"{record['file']}.rttm"
        heard = [each.turn for each in next(iter(read_rttm(file).values()), [])]
        assert [[turn.start, turn.end, turn.speaker] for turn in heard] == [
            row for row in record["prediction"] if row[1] > row[0]
        ]
        assert all(0 <= start <= end <= record["duration_seconds"] for start, end, _ in record["prediction"])


# ------------------------------------------------------------------------------------------------ resuming


def stop_at(patch: pytest.MonkeyPatch, place: str, call: int = 1) -> None:
    """Let a SIGTERM come when a function is called for the n-th time."""
    original, calls = pkgutil.resolve_name(place), itertools.count(1)

    def stopped(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    patch.setattr(place, stopped)


@pytest.mark.parametrize(
    "places",
    [
        ["speechexp.diarizer.Diarizer.training_step", "speechexp.diarization.Diarization.write_predictions"],
        ["speechexp.run.Run._finish_fit", "speechexp.tuning.search", "speechexp.diarizer.Diarizer.costs"],
    ],
    ids=["in training and behind the test", "before the tuning, in it and in the test"],
)
@pytest.mark.slow
def test_stopped_and_resumed_it_ends_as_one_never_stopped(
    places, diarized, speechexp, tmp_path, tiny_diarization
):
    arguments = [*tiny_diarization, "trainer.num_examples=0", "hydra.run.dir=run"]
    for place in places:
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, place, 5 if place.endswith("step") else 1)  # within the second epoch
            ended = speechexp(arguments)
        assert ended.code == 143, ended.err
        assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "interrupted"
        assert "resume=" in ended.out + ended.err
        arguments = ["resume=run"]
    ended = speechexp(arguments)
    assert ended.code == 0, ended.err
    assert steady(tmp_path / "run") == steady(diarized)
    assert lines(tmp_path / "run" / "predictions.jsonl") == lines(diarized / "predictions.jsonl")


def test_stopped_before_training_there_is_nothing_to_go_on_from(speechexp, own, talks):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "speechexp.diarizer.Diarizer.score")
        ended = speechexp([*own, "hydra.run.dir=run"])
    assert ended.code == 143
    assert "Traceback" not in ended.err
    assert "resume=" not in ended.out + ended.err
    ended = speechexp(["resume=run"])
    assert ended.code == 2
    assert "stopped before it saved a checkpoint" in ended.err


# -------------------------------------------------------------------------------------- own recordings


def test_recordings_of_every_kind_are_trained_on_and_scored(speechexp, tmp_path, own):
    folder = tmp_path / "own"
    talk = [(0.5, 4.0, "A"), (3.5, 7.0, "B"), (8.0, 11.0, "A")]
    write_talk(folder / "train", "usual", 12.0, talk)
    crowd = [(0.2 + 0.3 * number, 1.5 + 0.2 * number, name) for number, name in enumerate("ABCDE")]
    write_talk(
        folder / "train", "crowd", 3.0, crowd
    )  # more than the network tells apart, and less than a window
    write_talk(folder / "train", "nobody", 6.0)
    write_talk(folder / "validation", "some", 8.0, talk[:2])
    write_talk(folder / "validation", "nobody", 4.0)
    junk = [(0.0, 2.0, "X"), (0.0, 2.0, "Y"), (8.5, 10.0, "Z")]
    write_talk(folder / "test", "part", 10.0, [*talk[:2], *junk], uem=(2.5, 8.0))
    write_talk(folder / "test", "nobody", 4.0)
    ended = speechexp([*own, "data.length_step_seconds=2", "hydra.run.dir=run"])
    assert ended.code == 0, ended.err
    assert "1 validation recording has no speech" in ended.out
    found, written = figures(tmp_path / "run"), records(tmp_path / "run")
    assert all(math.isfinite(value) for value in found.values())
    files = {
        name: ([Turn(*row) for row in written[name]["reference"]], [Turn(*row) for row in written[name]["prediction"]],
               start, end)
        for name, start, end in (("test/part", 2.5, 8.0), ("test/nobody", 0.0, 4.0))
    }  # fmt: skip
    for part, value in pyannote_rate("collar0_overlap", files).items():
        assert found[f"test/{part}_collar0_overlap"] == pytest.approx(value, abs=2e-3), part
    assert written["test/part"]["speakers"] == 2
    assert written["test/part"]["scored"] == [[2.5, 8.0]]
    assert written["test/nobody"]["der"] is None
    assert found["test/false_alarm_collar0_overlap"] > 0


@pytest.mark.parametrize(
    ("threshold", "setting", "speakers"),
    [
        (0.8, "num_speakers=3", 3),
        pytest.param(0.8, "name=other", 1, marks=pytest.mark.slow),  # left alone
        pytest.param(0.8, "min_speakers=2", 2, marks=pytest.mark.slow),
        pytest.param(0.5, "name=other", 2, marks=pytest.mark.slow),
        pytest.param(0.5, "max_speakers=1", 1, marks=pytest.mark.slow),
    ],
)
def test_the_number_of_speakers_can_be_told(threshold, setting, speakers, speechexp, tmp_path, own):
    write_talk(tmp_path / "own" / "test", "talk", 15.0, [(0.5, 5.0, "A"), (5.5, 6.5, "B"), (7.0, 14.0, "C")])
    settings = [f"model.segmentation_threshold={threshold}", f"task.{setting}"]
    ended = speechexp([*own, "stage=test", *settings, "hydra.run.dir=run"])
    assert ended.code == 0, ended.err
    (record,) = records(tmp_path / "run").values()
    assert len({speaker for *_, speaker in record["prediction"]}) == speakers


def test_thresholds_that_are_typed_stay(speechexp, tmp_path, own, talks):
    ended = speechexp([*own, "model.clustering_threshold=0.6", "hydra.run.dir=run"])
    assert ended.code == 0, ended.err
    kept = parameters(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert kept["clustering.threshold"] == 0.6
    assert "clustering.threshold" not in ended.out


@pytest.mark.slow
def test_thresholds_that_are_typed_take_the_place_of_a_checkpoints(diarized, speechexp, tmp_path):
    ckpt = f"ckpt={diarized}/checkpoints/best.ckpt"
    ended = speechexp(["stage=test", ckpt, "model.segmentation_threshold=0.9", "hydra.run.dir=typed"])
    assert ended.code == 0, ended.err
    found = figures(tmp_path / "typed")
    assert found["test/der"] != figures(diarized)["test/der"]
    assert found["test/missed_collar0_overlap"] > figures(diarized)["test/missed_collar0_overlap"]


@pytest.mark.slow
def test_without_trials_nothing_is_tuned_and_the_batch_may_be_found(speechexp, tmp_path, own, talks):
    ended = speechexp([*own, "model.tune_trials=0", "data.batch_seconds=auto", "hydra.run.dir=run"])
    assert ended.code == 0, ended.err
    assert "auto: 5 s of audio" in ended.out
    checkpoints = tmp_path / "run" / "checkpoints"
    assert parameters(checkpoints / "best.ckpt") == parameters(checkpoints / "last.ckpt")
    assert not [name for name in figures(tmp_path / "run") if "tun" in name]


def test_a_powerset_network_is_trained_and_tuned(speechexp, tmp_path, own, talks):
    from helpers_diarization import save_tiny_pipeline

    save_tiny_pipeline(tmp_path / "powerset", powerset=True)
    ended = speechexp([*own, "model.pretrained=powerset", "hydra.run.dir=run"])
    assert ended.code == 0, ended.err
    found = figures(tmp_path / "run")
    assert found["val/der_best_trial"] <= found["val/der"] <= 2 * found["val/der_before_tuning"]
    assert "segmentation.threshold" not in parameters(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert "segmentation.threshold" not in (tmp_path / "run" / "pipeline" / "config.yaml").read_text()


@pytest.mark.slow
def test_a_sweep_ranks_the_lowest_error_first(speechexp, own, talks):
    ended = speechexp(["-m", *own, "model.optimizer.lr=1e-6,1e-1", "hydra.sweep.dir=sweep"])
    assert ended.code == 0, ended.err
    table = ended.out.split("sweep, best first")[1].splitlines()
    assert "val DER" in table[1]
    ranked = [float(line.split()[1]) for line in table[2:4]]
    assert ranked == sorted(ranked)
    assert ranked[0] != ranked[1]


# --------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.clustering_fa=0.1", "model.clustering_fa=0.1: this pipeline has no such parameter. It has model.segm"),
        ("model.segmentation_threshold=2", "model.segmentation_threshold=2 must be from 0 to 1"),
        ("model.segmentation_batch=0", "model.segmentation_batch=0 must be at least 1"),
        ("model.train_hop=0", "model.train_hop=0"),
        ("task.num_speakers=0", "task.num_speakers must be at least 1"),
        ("task={min_speakers: 3, max_speakers: 2}", "task.min_speakers=3 must not be above task.max_speakers=2"),
    ],
)  # fmt: skip
def test_settings_that_can_not_be_are_refused(override, words, speechexp, tmp_path, own, talks):
    ended = speechexp([*own, "hydra.run.dir=run", override])
    assert ended.code == 2
    assert re.search(words, ended.err), ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


TALK = [(0.5, 3.0, "A"), (2.5, 5.0, "B")]


@pytest.mark.parametrize(
    ("split", "turns", "uem", "words"),
    [
        ("train", TALK, (20.0, 30.0), r"The UEM of train/train scores nothing of it: .* ends at 7\.000 s"),
        ("validation", [], None, "Nobody speaks where the validation recordings"),
        ("validation", TALK, (5.5, 7.0), "Nobody speaks where the validation recordings"),
        ("test", [], None, "Nobody speaks where the test recordings"),
    ],
)
def test_recordings_that_nothing_can_be_learnt_or_told_from_are_refused(
    split, turns, uem, words, speechexp, tmp_path, own, talks
):
    write_talk(talks / split, split, 7.0, turns, uem)
    ended = speechexp([*own, "hydra.run.dir=run"])
    assert ended.code == 2
    assert re.search(words, ended.err), ended.err
    assert not (tmp_path / "run").exists()


def test_a_network_of_another_task_is_refused(diarized, trained, speechexp):
    ended = speechexp(["task=diarization_es", "stage=test", f"ckpt={trained}/checkpoints/best.ckpt"])
    assert ended.code == 2
    assert f"{trained} is a run of task=asr_es" in ended.err
    ended = speechexp(["stage=test", f"ckpt={diarized}/checkpoints/best.ckpt", "model.pretrained=local"])
    assert ended.code == 2
    assert "model.pretrained=local can't be changed now" in ended.err


# -------------------------------------------------------------------------------------------- the start


def test_only_a_run_imports_pyannote_and_then_without_telemetry():
    code = """
import os, sys
import speechexp
from speechexp.__main__ import main
assert main(["task=diarization_es", "model.tune_trials=few"]) == 2
assert main(["task=diarization_es", "model=ast_tiny"]) == 2
slow = {"pyannote.audio", "torch", "optuna"} & set(sys.modules)
assert not slow, slow
assert os.environ["PYANNOTE_METRICS_ENABLED"] == "0"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_telemetry_in_a_run(diarized):
    from pyannote.audio.telemetry.metrics import is_metrics_enabled

    assert not is_metrics_enabled()
