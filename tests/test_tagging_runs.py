"""Whole tagging runs through the command line: what they write, that it can be believed, what is refused."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import TINY_AST
from helpers_audio import RATE, encode, tone
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TINY_NETWORK = [each for each in TINY_AST if not each.startswith("data.")]
COLUMNS = pa.schema(
    {
        "video_id": pa.string(),
        "audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "labels": pa.list_(pa.string()),
        "human_labels": pa.list_(pa.string()),
    }
)


def figures(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_audioset(folder: Path, **splits: list[tuple[list[str], list[str]]]) -> Path:
    """Write tones in AudioSet's schema: for each clip of a split its MIDs and its names."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, clips in splits.items():
        rows = []
        for number, (mids, names) in enumerate(clips):
            stereo = np.stack([tone(1.0, 44100, 200 + 90 * number)] * 2, axis=1)
            content = encode(stereo, 44100, "FLAC", "PCM_24")
            audio = {"bytes": content, "path": f"{split}{number}.flac"}
            rows.append(
                {"video_id": f"{split}{number}", "audio": audio, "labels": mids, "human_labels": names}
            )
        pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), folder / f"{split}-00000-of-00001.parquet")
    return folder


SPEECH, SIREN = (["/m/09x0r"], ["Speech"]), (["/m/03kmc9"], ["Siren"])
BOTH = (["/m/09x0r", "/m/03kmc9"], ["Speech", "Siren"])


# ------------------------------------------------------------------------------------------ the folder


def test_the_recorded_figures_are_those_of_scikit_learn_on_the_recorded_scores(tagged):
    kept = np.load(tagged / "scores.npz")
    scores, targets = kept["scores"], kept["targets"]
    present = targets.any(axis=0)
    found = figures(tagged)
    precision = average_precision_score(targets[:, present], scores[:, present], average=None)
    assert found["test/map"] == found["test/map_present_classes"] == pytest.approx(precision.mean(), abs=1e-6)
    auc = roc_auc_score(targets[:, present], scores[:, present])
    assert found["test/auc_present_classes"] == pytest.approx(auc, abs=1e-6)
    classes = lines(tagged / "classes.jsonl")
    given = scores >= np.array([each["threshold"] for each in classes])
    assert found["test/f1_micro"] == pytest.approx(
        f1_score(targets[:, present], given[:, present], average="micro"), abs=1e-6
    )
    assert found["test/classes_present"] == present.sum()
    assert found["test/map_ci95_low"] <= found["test/map"] <= found["test/map_ci95_high"]
    by_class = [found[f"test/ap_by_class/{each['name']}"] for each in classes if each["test_clips"]]
    assert by_class == pytest.approx(precision, abs=1e-6)


def test_predictions_tell_the_best_classes_and_what_is_above_the_thresholds(tagged):
    kept = np.load(tagged / "scores.npz")
    thresholds = {each["name"]: each["threshold"] for each in lines(tagged / "classes.jsonl")}
    places = {clip: row for row, clip in enumerate(kept["ids"])}
    names = list(thresholds)
    records = lines(tagged / "predictions.jsonl")
    assert len(records) == len(places)
    for record in records:
        scores = kept["scores"][places[record["id"]]]
        told = record["scores"]
        assert set(record["reference"]) <= set(told)
        assert list(told)[:10] == [names[place] for place in np.argsort(-scores, kind="stable")[:10]]
        assert record["prediction"] == [
            name for name, score in zip(names, scores, strict=True) if score >= thresholds[name]
        ]


def test_classes_are_known_by_name_and_audioset_id(tagged):
    classes = json.loads((tagged / "checkpoints" / "classes.json").read_text())
    assert {"name": "Speech", "mid": "/m/09x0r"} in classes
    counts = json.loads((tagged / "run.json").read_text())["label_counts"]
    assert sum(counts["train"].values()) >= 60


def test_tensorboard_shows_clips_with_audio_spectrogram_and_labels(tagged):
    events = EventAccumulator(str(tagged / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert len(tags["audio"]) == len(tags["images"]) == 4
    assert not set(tags["audio"]) & set(tags["images"])  # of one tag, TensorBoard shows one of the two
    assert {"val/map", "test/map", "train/loss"} <= set(tags["scalars"])
    text = events.Tensors("examples/0/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "labels" in text
    assert "heard" in text


# ------------------------------------------------------------------------------------- testing, again


def test_stage_test_gives_the_recorded_figures_whatever_the_batches(tagged, speechexp, tmp_path):
    ended = speechexp(
        [
            "stage=test",
            f"ckpt={tagged}/checkpoints/best.ckpt",
            "hydra.run.dir=again",
            "data.eval_batch_seconds=5",
        ]
    )
    assert ended.code == 0, ended.err
    recorded = {name: value for name, value in figures(tagged).items() if name.startswith("test/")}
    found = figures(tmp_path / "again")
    assert found.keys() == recorded.keys()
    assert found == pytest.approx(recorded, abs=2e-6)


def test_prediction_gives_what_the_test_gave(tagged, speechexp, tmp_path, cache_dir):
    table = pq.read_table(next(cache_dir.glob("sound_mini-*/test-*.parquet")))
    records = {record["id"]: record for record in lines(tagged / "predictions.jsonl")}
    (tmp_path / "sounds").mkdir()
    row = next(row for row in table.to_pylist() if row["video_id"] in records)
    (tmp_path / "sounds" / "one.flac").write_bytes(row["audio"]["bytes"])
    (tmp_path / "sounds" / "stereo.mp3").write_bytes(
        encode(np.stack([tone(2.5, 44100)] * 2, axis=1), 44100, "MP3", "MPEG_LAYER_III")
    )
    (tmp_path / "sounds" / "broken.wav").write_bytes(encode(tone(1.0))[:3000])
    ended = speechexp(
        ["stage=predict", f"ckpt={tagged}/checkpoints/best.ckpt", "inputs=sounds", "hydra.run.dir=said"]
    )
    assert ended.code == 0, ended.err
    assert "broken.wav: truncated" in ended.err
    said = {Path(record["id"]).name: record for record in lines(tmp_path / "said" / "predictions.jsonl")}
    tested = records[row["video_id"]]
    assert said["one.flac"]["prediction"] == tested["prediction"]
    assert said["one.flac"]["scores"] == pytest.approx(
        {name: tested["scores"][name] for name in said["one.flac"]["scores"]}, abs=1e-5
    )
    assert len(said["stereo.mp3"]["scores"]) == 10


@pytest.mark.slow
def test_a_sweep_ranks_by_the_figure_that_is_watched(speechexp, tmp_path):
    ended = speechexp(
        ["-m", *TINY_AST, "trainer.max_epochs=1", "model.optimizer.lr=1e-5,1e-2", "hydra.sweep.dir=sweep"]
    )
    assert ended.code == 0, ended.err
    table = ended.out.split("sweep, best first")[1].splitlines()
    assert "val mAP" in table[1]
    ranked = [float(line.split()[1]) for line in table[2:4]]
    assert ranked == sorted(ranked, reverse=True)


def test_a_sweep_over_checkpoints_ranks_by_the_test(tagged, speechexp):
    ended = speechexp(
        ["-m", *TINY_AST, "stage=test", f"ckpt={tagged}/checkpoints/best.ckpt,{tagged}/checkpoints/last.ckpt",
         "hydra.sweep.dir=sweep"]
    )  # fmt: skip
    assert ended.code == 0, ended.err
    table = ended.out.split("sweep, best first")[1]
    assert re.search(r"0\.\d{4} to 0\.\d{4}", table)


# -------------------------------------------------------------------------------------- own recordings


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 4), ("test", 4)):
        for name, level in (("hiss", 0.2), ("whistle", 0.0)):
            folder = tmp_path / "own" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                sound = tone(1.0 + 0.1 * number, hertz=1500 + 40 * number, level=0.3 - level)
                soundfile.write(
                    folder / f"{number}.wav", sound + level * rng.standard_normal(len(sound)) / 3, RATE
                )
    return tmp_path / "own"


def test_folders_as_classes_are_a_single_label_task_that_watches_accuracy(speechexp, tmp_path, class_folders):
    ended = speechexp(
        [*TINY_NETWORK, "data=audio_folder", f"data.path={class_folders}", "data.batch_seconds=8",
         "model.optimizer.lr=3e-3", "trainer.max_epochs=8", "hydra.run.dir=run"]
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "single-label (cross-entropy, accuracy)" in ended.out
    assert "val accuracy" in ended.out
    found = figures(tmp_path / "run")
    assert found["test/accuracy"] >= 0.75
    assert found["test/accuracy_ci95_low"] <= found["test/accuracy"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["watched"] == "val/accuracy"
    first = lines(tmp_path / "run" / "predictions.jsonl")[0]
    assert len(first["prediction"]) == 1
    assert sum(first["scores"].values()) == pytest.approx(1, abs=1e-4)


def test_names_that_mean_something_elsewhere_are_told_as_they_are(speechexp, tmp_path):
    odd = ["a [/b] c", "[bold]x", "<script>alert(1)</script>", "rain|x=1, y"]
    clips = [([f"l{n}"], [name]) for n, name in enumerate(odd)]
    clips.append((["l0", "l1"], odd[:2]))
    data = write_audioset(tmp_path / "as", train=clips * 2, validation=clips, test=clips)
    ended = speechexp(
        [*TINY_NETWORK, "data=audioset", f"data.path={data}", "trainer.max_epochs=1", "hydra.run.dir=run"]
    )
    assert ended.code == 0, ended.err
    assert "a [/b] c" in ended.out
    assert "[bold]x 0" in ended.out or "[bold]x 1" in ended.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script>alert" not in page
    assert re.search(r"a \[/b\] c 0\.\d\d", page)  # the scores of the worst clips


# ------------------------------------------------------------------- the AudioSet model on AudioSet's schema


AUDIOSET = ["experiment=audioset_ast", "trainer=cpu", "model.mask_frames=20", "data.batch_seconds=8"]


def test_the_published_kind_of_network_is_scored_as_it_is(speechexp, tmp_path, tiny_audioset_checkpoint):
    data = write_audioset(tmp_path / "as", train=[SPEECH], test=[SPEECH, SIREN, BOTH])
    ended = speechexp(
        [*AUDIOSET, "stage=test", f"data.path={data}", f"model.pretrained={tiny_audioset_checkpoint}",
         "hydra.run.dir=run"]
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "over the 2 of 527 classes present" in ended.out
    assert "at 0.5: nothing was validated" in ended.out
    assert "test/f1_micro_at_0.5" in figures(tmp_path / "run")
    assert np.load(tmp_path / "run" / "scores.npz")["scores"].shape == (3, 527)
    speech = next(each for each in lines(tmp_path / "run" / "classes.jsonl") if each["name"] == "Speech")
    assert (speech["mid"], speech["test_clips"]) == ("/m/09x0r", 2)


def test_the_published_kind_of_network_is_fine_tuned(speechexp, tmp_path, tiny_audioset_checkpoint):
    data = write_audioset(
        tmp_path / "as", train=[SPEECH, SIREN, BOTH] * 4, validation=[BOTH, SIREN], test=[SPEECH, SIREN]
    )
    ended = speechexp(
        [*AUDIOSET, f"data.path={data}", f"model.pretrained={tiny_audioset_checkpoint}", "trainer.max_epochs=1",
         "model.optimizer.layer_decay=0.75", "model.optimizer.head_lr_factor=10", "trainer.weight_averaging=0.9",
         "hydra.run.dir=run"]
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "its own head" in ended.out
    assert "525 (" in ended.out  # classes without a training clip
    assert "test/map" in figures(tmp_path / "run")


def test_the_network_alone_hears_files_without_any_data(speechexp, tmp_path, tiny_audioset_checkpoint):
    soundfile.write(tmp_path / "a.wav", tone(3.0), RATE)
    ended = speechexp(
        [*AUDIOSET, "stage=predict", f"model.pretrained={tiny_audioset_checkpoint}", "inputs=a.wav",
         "hydra.run.dir=run"]
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert len(lines(tmp_path / "run" / "predictions.jsonl")[0]["scores"]) == 10


# --------------------------------------------------------------------------------------------- refused


OWN = (["/m/xyz"], ["Kazoo"])


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_data_with_other_labels_than_the_network_is_refused_with_the_differences(
    stage, speechexp, tmp_path, tiny_audioset_checkpoint
):
    clips = [SPEECH, OWN, SIREN]
    data = write_audioset(tmp_path / "as", train=clips, validation=clips, test=clips)
    ended = speechexp(
        [*AUDIOSET, f"stage={stage}", f"data.path={data}", f"model.pretrained={tiny_audioset_checkpoint}",
         "hydra.run.dir=run"]
    )  # fmt: skip
    assert ended.code == 2
    assert "1 (Kazoo (/m/xyz)) only in the data, 525 (" in ended.err
    assert "model.head=new" in ended.err
    assert not (tmp_path / "run").exists()


def test_a_new_head_learns_other_labels(speechexp, tmp_path, tiny_audioset_checkpoint):
    clips = [SPEECH, OWN, SIREN]
    data = write_audioset(tmp_path / "as", train=clips, validation=clips, test=clips)
    ended = speechexp(
        [*AUDIOSET, f"data.path={data}", f"model.pretrained={tiny_audioset_checkpoint}", "model.head=new",
         "trainer.max_epochs=1", "hydra.run.dir=run"]
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "a new head" in ended.out


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": [SPEECH, SIREN], "validation": [OWN]}, r"'Kazoo \(/m/xyz\)' of 1 validation clip .* no training"),
        ({"train": [SPEECH, SIREN], "validation": [SIREN], "test": [BOTH, OWN]}, "of 1 test clip"),
        ({"train": [SPEECH, SPEECH], "validation": [SPEECH]}, "has 1 class in training"),
        ({"train": [([], []), SPEECH, SIREN], "validation": [([], [])]}, "1 no label"),
    ],
)  # fmt: skip
def test_labels_that_can_not_be_learnt_are_refused(splits, words, speechexp, tmp_path):
    data = write_audioset(tmp_path / "as", **splits)
    ended = speechexp([*TINY_NETWORK, "data=audioset", f"data.path={data}", "hydra.run.dir=run"])
    assert ended.code == 2
    assert re.search(words, ended.err), ended.err
    assert not (tmp_path / "run").exists()


def test_a_class_whose_every_training_clip_was_dropped_is_refused(speechexp, tmp_path):
    data = write_audioset(tmp_path / "as", train=[SPEECH, SPEECH, SIREN], validation=[SPEECH])
    table = pq.read_table(data / "train-00000-of-00001.parquet").to_pylist()
    file = io.BytesIO()
    soundfile.write(file, np.full(RATE, np.nan), RATE, format="WAV", subtype="FLOAT")
    rows = [{**table[2], "audio": {"bytes": encode(tone(0.2)), "path": "short.wav"}}, *table[:2]]
    rows.append({**table[0], "video_id": "nan", "audio": {"bytes": file.getvalue(), "path": "nan.wav"}})
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), data / "train-00000-of-00001.parquet")
    ended = speechexp([*TINY_NETWORK, "data=audioset", f"data.path={data}", "hydra.run.dir=run"])
    assert ended.code == 2
    assert "'Siren (/m/03kmc9)'" in ended.err
    assert "no training clip left after cleaning" in ended.err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.window_seconds=0.05", "model.window_seconds=0.05 must be from 0.16"),
        ("model.window_seconds=3", "model.window_seconds=3.* must be from 0.16 .* to 2.56"),
        ("model.mixup_share=1.5", "model.mixup_share"),
        ("model.mask_bins=-1", "model.mask_bins"),
        ("task.top_k=0", "task.top_k"),
        ("task.mode=single_label", "exactly one class a clip"),
        ("task.mode=auto", "Add task.mode=multi_label .* or task.mode=single_label"),
        ("model.optimizer.layer_decay=2", "model.optimizer.layer_decay=2"),
    ],
)
def test_settings_that_can_not_be_are_refused(override, words, speechexp, tmp_path, tiny_audioset_checkpoint):
    data = write_audioset(tmp_path / "as", train=[BOTH, SIREN], validation=[BOTH], test=[SPEECH])
    ended = speechexp(
        [*AUDIOSET, f"data.path={data}", f"model.pretrained={tiny_audioset_checkpoint}", "hydra.run.dir=run",
         override]
    )  # fmt: skip
    assert ended.code == 2
    assert re.search(words, ended.err), ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_task_or_mode_is_refused(tagged, trained, speechexp):
    ended = speechexp(["task=audio_tagging", "stage=test", f"ckpt={trained}/checkpoints/best.ckpt"])
    assert ended.code == 2
    assert f"{trained} is a run of task=asr_es, not of task=audio_tagging. Leave task= out." in ended.err
    ended = speechexp(
        ["model.window_seconds=1", "stage=predict", "inputs=.", f"ckpt={tagged}/checkpoints/best.ckpt"]
    )
    assert ended.code == 2
    assert "model.window_seconds=1 can't be changed now" in ended.err
    ended = speechexp(["task.mode=single_label", "stage=test", f"ckpt={tagged}/checkpoints/best.ckpt"])
    assert ended.code == 2
    assert "Add task.mode=multi_label" in ended.err


def test_balancing_classes_needs_classes(speechexp):
    ended = speechexp(["data.balance_classes=true", "data.train_utterances=40", "data.validation_utterances=8",
                       "data.test_utterances=8", "trainer=cpu"])  # fmt: skip
    assert ended.code == 2
    assert "data.balance_classes=true is for tasks with classes, but task=asr_es has none" in ended.err
