"""Whole runs through the command line: what they write, and that it can be believed."""

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import SMALL, TOY
from helpers_audio import write_tone
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def figures(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="session")
def events(trained) -> EventAccumulator:
    accumulator = EventAccumulator(str(trained / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


# ------------------------------------------------------------------------------------------ the folder


def test_a_run_writes_its_folder(trained):
    for name in ("config.yaml", "metrics.json", "predictions.jsonl", "run.json", "report.html", "dropped.jsonl",
                 "checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/vocab.json"):  # fmt: skip
        assert (trained / name).is_file(), name
    record = json.loads((trained / "run.json").read_text())
    assert record["state"] == "done"
    assert record["versions"]["torch"]
    assert record["data_fingerprint"]
    assert {"data", "fit", "test"} <= set(record["phases_seconds"])


def test_config_yaml_is_resolved_and_complete(trained):
    config = OmegaConf.to_container(OmegaConf.load(trained / "config.yaml"), resolve=False)
    assert config["trainer"]["max_epochs"] == 2
    assert config["model"]["network"]["hidden_size"] == 16
    assert "${" not in (trained / "config.yaml").read_text()


def test_metrics_json_is_one_flat_object_of_numbers(trained):
    found = figures(trained)
    assert {"test/wer", "test/cer", "test/wer_ci95_low", "test/wer_ci95_high", "val/wer", "val/loss",
            "train/audio_seconds_per_second"} <= set(found)  # fmt: skip
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in found.values())
    assert found["test/wer_ci95_low"] <= found["test/wer"] <= found["test/wer_ci95_high"]


def test_the_recorded_rate_follows_from_the_predictions(trained):
    records = lines(trained / "predictions.jsonl")
    errors, words = sum(r["word_errors"] for r in records), sum(r["words"] for r in records)
    assert figures(trained)["test/wer"] == errors / words
    assert len({r["id"] for r in records}) == len(records) == 8


def test_silent_and_broken_clips_are_listed_with_their_reason(trained):
    reasons = {drop["reason"] for drop in lines(trained / "dropped.jsonl")}
    assert {"silent", "unreadable"} <= reasons


def test_references_are_never_taken_through_the_vocabulary(trained, cache_dir):
    # what is scored equals the corpus' own transcription, letter for letter
    corpus = next(cache_dir.glob("spanish_mini-*"))
    table = pq.read_table(
        next(corpus.glob("parquet-data/*/test-*.parquet")), columns=["path", "transcription"]
    )
    wanted = {Path(row["path"]).stem: row["transcription"] for row in table.to_pylist()}
    for record in lines(trained / "predictions.jsonl"):
        assert record["reference"] == wanted[record["id"].split("-", 1)[1]]


def test_the_report_opens_without_a_network(trained):
    page = (trained / "report.html").read_text()
    assert "test/wer" in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)


# ----------------------------------------------------------------------------------------- tensorboard


def test_tensorboard_has_the_curves(events):
    assert {"train/loss", "train/learning_rate", "train/gradient_norm", "train/audio_seconds_per_second",
            "val/loss", "val/wer", "val/cer", "test/wer", "test/cer"} <= set(events.Tags()["scalars"])  # fmt: skip
    assert len(events.Scalars("val/wer")) == 2  # a point an epoch, none of them from hparams


def test_tensorboard_has_the_same_clips_each_epoch_with_audio_and_text(events):
    texts = [tag for tag in events.Tags()["tensors"] if tag.startswith("examples/")]
    assert len(texts) == len(events.Tags()["audio"]) == 4
    for tag in texts:
        shown = [event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)]
        assert len(shown) == 2
        assert len({re.search(r"reference \| (.*?) \|", text)[1] for text in shown}) == 1


def test_tensorboard_has_hparams_with_the_final_rate(trained):
    from tensorboard.plugins.hparams import metadata

    accumulator = EventAccumulator(str(trained / "tensorboard"))
    accumulator.Reload()
    tags = accumulator.summary_metadata
    assert metadata.SESSION_START_INFO_TAG in tags
    start = metadata.parse_session_start_info_plugin_data(
        tags[metadata.SESSION_START_INFO_TAG].plugin_data.content
    )
    assert start.hparams["model.optimizer.lr"].number_value == pytest.approx(3e-3)
    experiment = metadata.parse_experiment_plugin_data(tags[metadata.EXPERIMENT_TAG].plugin_data.content)
    assert {info.name.tag for info in experiment.metric_infos} >= {"val/wer", "test/wer"}


# ------------------------------------------------------------------------------------ testing, again


def test_stage_test_reproduces_the_recorded_figures(trained, speechexp, tmp_path):
    ended = speechexp(["stage=test", f"ckpt={trained}/checkpoints/best.ckpt", "hydra.run.dir=again"])
    assert ended.code == 0, ended.err
    recorded = {name: value for name, value in figures(trained).items() if name.startswith("test/")}
    assert figures(tmp_path / "again") == recorded
    assert lines(tmp_path / "again" / "predictions.jsonl") == lines(trained / "predictions.jsonl")


def test_figures_do_not_depend_on_the_batch_size(trained, speechexp, tmp_path):
    ended = speechexp(["stage=test", f"ckpt={trained}/checkpoints/best.ckpt", "hydra.run.dir=one",
                       "data.eval_batch_seconds=0.1", "data.length_step_seconds=0.001"])  # fmt: skip
    assert ended.code == 0, ended.err
    one, many = figures(tmp_path / "one"), figures(trained)
    assert one["test/loss"] == pytest.approx(many["test/loss"], abs=1e-4)
    assert one["test/wer"] == many["test/wer"]


@pytest.fixture
def recordings(trained, cache_dir, tmp_path) -> Path:
    """The test clips as the files that they were decoded from."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    corpus = next(cache_dir.glob("spanish_mini-*"))
    for row in pq.read_table(next(corpus.glob("parquet-data/*/test-*.parquet"))).to_pylist():
        (folder / row["path"]).write_bytes(row["audio"]["bytes"])
    return folder


def test_predict_gives_what_the_test_gave_and_goes_on_after_a_broken_file(
    trained, recordings, speechexp, tmp_path
):
    (recordings / "notes.wav").write_text("not audio")
    ended = speechexp(["stage=predict", f"ckpt={trained}/checkpoints/best.ckpt", f"inputs={recordings}",
                       "hydra.run.dir=out"])  # fmt: skip
    assert ended.code == 0, ended.err
    assert "notes.wav" in ended.err
    predicted = {
        Path(r["id"]).stem: r.get("prediction") for r in lines(tmp_path / "out" / "predictions.jsonl")
    }
    assert predicted["notes"] is None
    for record in lines(trained / "predictions.jsonl"):
        assert predicted[record["id"].split("-", 1)[1]] == record["prediction"]
        assert record["prediction"] in ended.out


def test_predict_reads_any_format_rate_and_channels(trained, recordings, speechexp, tmp_path):
    source = max(recordings.iterdir(), key=lambda file: file.stat().st_size)
    audio, rate = soundfile.read(source)
    folder = tmp_path / "formats"
    folder.mkdir()
    stereo = audio[:, None].repeat(2, axis=1)
    soundfile.write(folder / "stereo.flac", stereo, rate, subtype="PCM_24")
    soundfile.write(folder / "vorbis.ogg", audio, rate)
    soundfile.write(folder / "eight.wav", audio, rate, subtype="PCM_U8")
    soundfile.write(folder / "cd.mp3", stereo.repeat(3, axis=0)[: 3 * len(audio)], 48000)
    ended = speechexp(["stage=predict", f"ckpt={trained}/checkpoints/best.ckpt",
                       f"inputs=[{folder}/stereo.flac,{folder}/vorbis.ogg,{folder}/eight.wav,{folder}/cd.mp3]",
                       "hydra.run.dir=out"])  # fmt: skip
    assert ended.code == 0, ended.err
    for record in lines(tmp_path / "out" / "predictions.jsonl"):
        assert record["duration_seconds"] == pytest.approx(len(audio) / rate, abs=0.1)


def test_predict_without_any_audio(trained, speechexp, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = speechexp(["stage=predict", f"ckpt={trained}/checkpoints/best.ckpt", "inputs=empty"])
    assert ended.code == 2
    assert "no audio file" in ended.err


def test_data_without_a_test_split_is_trained_on_and_said_not_to_be_tested(speechexp, tmp_path):
    for split in ("train", "validation"):
        for number in range(6):
            write_tone(tmp_path / "data" / split / f"{number}.wav", seconds=0.8, hertz=200.0 + number)
        named = "".join(f"{number}.wav,hola\n" for number in range(6))
        (tmp_path / "data" / split / "metadata.csv").write_text("file_name,transcription\n" + named)

    ended = speechexp(
        [
            "data=audio_folder",
            "data.path=data",
            *TOY,
            "trainer=cpu",
            "trainer.max_epochs=1",
            "hydra.run.dir=run",
        ]
    )
    assert ended.code == 0, ended.err
    assert "There is no test clip, so nothing was tested." in ended.out
    assert "val/wer" in json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (tmp_path / "run" / "report.html").is_file()


def test_preparing_into_the_same_folder_again_is_no_second_run(speechexp):
    for _ in range(2):
        ended = speechexp(["stage=prepare", *SMALL, "hydra.run.dir=run"])
        assert ended.code == 0, ended.err


# -------------------------------------------------------------------------------- checkpoints refused


@pytest.mark.parametrize("content", [b"nothing of the kind", b"RIFF\x00\x00\x00\x00WAVEfmt ", b"{}", b""])
def test_a_file_that_is_no_checkpoint_is_refused(content, speechexp, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(content)
    ended = speechexp(["stage=test", "ckpt=x.ckpt"])
    assert ended.code == 2
    assert "not a checkpoint" in ended.err


def test_a_checkpoint_of_somebody_else_is_refused(speechexp, tmp_path):
    import torch

    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    ended = speechexp(["stage=test", "ckpt=x.ckpt"])
    assert ended.code == 2
    assert "speechexp" in ended.err


def test_a_truncated_checkpoint_is_refused(trained, speechexp, tmp_path):
    whole = (trained / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "x.ckpt").write_bytes(whole[: len(whole) // 2])
    ended = speechexp(["stage=test", "ckpt=x.ckpt"])
    assert ended.code == 2


def test_a_checkpoint_of_another_vocabulary_is_refused_with_the_difference(trained, speechexp, tmp_path):
    folder = own_clips(tmp_path, ["kilo whisky", "hola ahí"])
    arguments = [
        "stage=test",
        f"ckpt={trained}/checkpoints/best.ckpt",
        "data=audio_folder",
        f"data.path={folder}",
    ]
    ended = speechexp([*arguments, "hydra.run.dir=refused"])
    assert ended.code == 2
    assert "«k»" in ended.err
    assert "task.vocabulary=" in ended.err
    vocabulary = f"task.vocabulary={trained}/checkpoints/vocab.json"
    ended = speechexp([*arguments, vocabulary, "hydra.run.dir=scored"])
    assert ended.code == 0, ended.err
    assert "«k»" in ended.out  # what it cannot write is reported


def test_an_edited_vocabulary_file_is_refused(trained, speechexp, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "best.ckpt").write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes())
    tokens = json.loads((trained / "checkpoints" / "vocab.json").read_text())
    tokens["ß"] = tokens.pop("a")
    (folder / "vocab.json").write_text(json.dumps(tokens))
    ended = speechexp(["stage=test", f"ckpt={folder}/best.ckpt", *SMALL])
    assert ended.code == 2
    assert "«ß»" in ended.err
    assert "«a»" in ended.err


def test_a_checkpoint_of_another_normaliser_is_refused(trained, speechexp):
    ended = speechexp(["stage=test", f"ckpt={trained}/checkpoints/best.ckpt", "task.normaliser=unidecode"])
    assert ended.code == 2
    assert "task.normaliser=spanish" in ended.err


def own_clips(tmp_path: Path, texts: list[str]) -> Path:
    import numpy as np

    folder = tmp_path / "own"
    rows = ["file_name,transcription,speaker"]
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
        for i, text in enumerate(texts):
            audio = np.random.default_rng(i).normal(0, 0.1, 22050 * 2)
            soundfile.write(folder / split / f"{i}.wav", audio, 22050)
            rows.append(f"{split}/{i}.wav,{text},{'ab'[i % 2]}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_own_recordings_train_and_are_scored(speechexp, tmp_path):
    folder = own_clips(tmp_path, ["uno", "dos", "tres"])
    toy = [each for each in SMALL if "utterances" not in each]
    ended = speechexp([*toy, "data=audio_folder", f"data.path={folder}", "trainer.max_epochs=1",
                       "hydra.run.dir=run"])  # fmt: skip
    assert ended.code == 0, ended.err
    found = figures(tmp_path / "run")
    assert {"test/wer_by_speaker/a", "test/wer_by_speaker/b"} <= set(found)


# --------------------------------------------------------------------------------------------- sweeps


def test_a_sweep_gives_a_folder_a_job_and_one_table_best_first(speechexp, tmp_path):
    ended = speechexp(["-m", *SMALL, "trainer.max_epochs=1", "model.optimizer.lr=1e-3,3e-2",
                       "hydra.sweep.dir=sweep"])  # fmt: skip
    assert ended.code == 0, ended.err
    jobs = sorted(each.name for each in (tmp_path / "sweep").iterdir() if each.is_dir())
    assert jobs == ["0_lr-0.001", "1_lr-0.03"]
    table = ended.out[ended.out.index("sweep, best first") :]
    assert "model.optimizer.lr" in table
    rates = [figures(tmp_path / "sweep" / re.search(r"\d_lr-[\d.]+", line)[0])["val/wer"]
             for line in table.splitlines() if re.search(r"\d_lr-", line)]  # fmt: skip
    assert len(rates) == 2
    assert rates == sorted(rates)


def test_a_sweep_goes_on_after_a_job_that_fails(speechexp, tmp_path):
    ended = speechexp(["-m", *SMALL, "trainer.max_epochs=1", "data.max_seconds=0.5,20",
                       "hydra.sweep.dir=sweep"])  # fmt: skip
    assert ended.code == 2
    states = [
        json.loads(file.read_text())["state"] for file in sorted((tmp_path / "sweep").glob("*/run.json"))
    ]
    assert states == ["failed", "done"]
    assert "data.max_seconds" in ended.err


def test_run_returns_the_watched_figure_to_hydra(trained, tmp_path, monkeypatch):
    from speechexp.config import compose_config
    from speechexp.run import run

    monkeypatch.chdir(tmp_path)
    cfg = compose_config([*SMALL, "trainer.max_epochs=1"])
    cfg = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    assert run(cfg, tmp_path / "run") == figures(tmp_path / "run")["val/wer"]
