"""Training: speechexp against the 2024 reference recipe under Hugging Face's Trainer, on the same clips."""

import argparse
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from _bench import (
    Ended,
    arguments,
    command_line,
    environment,
    fail,
    median,
    report,
    run_child,
    say_row,
    say_table,
    scratch_folder,
    watched,
)

_EPILOG = """\
Needs accelerate beside speechexp, for the Trainer: pip install 'accelerate>=1.1' (or pip install -e '.[bench]').

Both sides begin with the same weights, read the same parquet and train for as many epochs on the same labels, with
an evaluation each; that labels and weights are the same is checked. They take turns, each in a process of its own.
Ours is the command line, with an empty cache each time; theirs is scripts/_recipe.py, whose head says what it leaves
out, all in its own favour. Ours saves checkpoints, tests on 8 clips and writes its report; theirs does none of it.

  --model tiny     wav2vec2_tiny from scratch on spanish_mini. Both sides have our learning rate, betas, weight decay
                   and schedule: the recipe's 3e-4 is for pretrained weights and would not learn here in time.
                   --recipe-lr gives both 3e-4 with 50 warm-up steps and linear decay, to see that.
  --model xlsr53   XLSR-53's architecture with random weights on noise with FLEURS's lengths: for the speed on a GPU,
                   its error rates mean nothing. Feature encoder frozen and fp16 on both sides; gradient
                   checkpointing, which the recipe has and ours has not, on theirs.

Figures (ours_…, theirs_…), medians over the repeats:

  training_seconds             training with its evaluations (and with our checkpoints): what wall_ratio is made of
  whole_seconds                process start to end: what wall_ratio_whole is made of
  data_seconds                 from nothing but the parquet: ours prepares its cache, theirs loads and maps
  data_prepared_seconds        ours from its prepared cache; theirs does the work in each run
  audio_seconds_per_second     true audio, padding not counted, over the training steps and their waits for data
  peak_bytes, peak_gpu_bytes   most memory of the process; most that torch had allocated on a GPU
  val_wer                      after the last epoch, from texts, by our metric on both sides

  python scripts/bench_training.py --out tiny.json
  python scripts/bench_training.py --model xlsr53 --steps 100 --epochs 1 data.batch_seconds=192 --out xlsr53.json

Settings given as NAME=VALUE are for our side alone. Our batches hold clips of like length only, so with few clips
many of them are not full: a comparison wants some hundreds at least. Threads of two processes on the same cores wait
for one another: with anything else running, torch's default number of them costs their side several times its time.
"""

_RECIPE_BATCH = 4
# Training and validation clips: those of the default run, and those of FLEURS es_419 after cleaning.
_CLIPS = {"tiny": (6000, 400), "xlsr53": (2306, 408)}
_BASE = {
    "tiny": ["task=asr_es", "model=wav2vec2_tiny", "data=fleurs_es"],
    "xlsr53": ["task=asr_es", "experiment=fleurs_xlsr53"],
}
_RECIPE_RATE = [
    "model.optimizer.lr=3e-4",
    "model.schedule._target_=speechexp.optim.linear",
    "model.schedule.warmup=50",
]


def main() -> None:
    chosen = _chosen()
    if importlib.util.find_spec("accelerate") is None:
        fail("Hugging Face's Trainer needs accelerate: pip install 'accelerate>=1.1'")
    import torch

    gpu = torch.cuda.is_available()
    if chosen.model == "xlsr53" and not gpu:
        say_row("note", "torch sees no GPU: --model xlsr53 takes minutes for each batch on a CPU")
    with scratch_folder(chosen.scratch) as folder:
        material = _material(chosen, folder)
        _say_settings(chosen, material)
        turns: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
        for number in range(chosen.repeats):
            for side, run in (("ours", _run_ours), ("theirs", _run_theirs)):
                turns[side].append(run(chosen, material, folder / f"{side}-{number}"))
                took = turns[side][-1]
                words = f"{number + 1} of {chosen.repeats}: training {took['training_seconds']:.1f} s of"
                say_row(side, f"{words} {took['whole_seconds']:.1f} s, validation WER {took['val_wer']:.4f}")
    figures = {
        "benchmark": "training",
        "model": chosen.model,
        "epochs": chosen.epochs,
        "repeats": chosen.repeats,
        "train_clips": len(material["references"]["train"]),
        "validation_clips": len(material["references"]["validation"]),
        "train_audio_seconds": material["seconds"]["train"],
        "recipe_lr": chosen.recipe_lr,
        "theirs_gradient_checkpointing": material["theirs"]["gradient_checkpointing"],
        "ours_settings": " ".join(chosen.overrides),
    }
    _summarise(figures, turns)
    report(figures, chosen.out)


def _chosen() -> argparse.Namespace:
    parser = arguments(__doc__ or "", _EPILOG, scratch=True)
    parser.add_argument("--model", choices=sorted(_CLIPS), default="tiny", help="(default tiny)")
    parser.add_argument("--epochs", type=int, default=5, help="(default 5)")
    parser.add_argument("--clips", type=int, help="training clips (default 6000 for tiny, 2306 for xlsr53)")
    parser.add_argument("--validation-clips", type=int, help="(default 400 for tiny, 408 for xlsr53)")
    parser.add_argument(
        "--steps", type=int, help=f"as many clips as so many of the recipe's batches of {_RECIPE_BATCH} hold"
    )
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="turns of each side (default 1)")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="OMP_NUM_THREADS of both (default: ours as shipped, theirs torch's)",
    )
    parser.add_argument(
        "--recipe-lr", action="store_true", help="3e-4, 50 warm-up steps, linear decay for tiny"
    )
    parser.add_argument(
        "--their-checkpointing",
        choices=("yes", "no"),
        help="gradient checkpointing on their side (default yes for xlsr53; no for tiny, which needs no memory saved)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings of our side")
    chosen = parser.parse_intermixed_args()
    counts = (
        chosen.epochs,
        chosen.clips,
        chosen.validation_clips,
        chosen.steps,
        chosen.repeats,
        chosen.threads,
    )
    if any(count is not None and count < 1 for count in counts):
        parser.error("counts must be at least 1")
    if chosen.steps and chosen.clips:
        parser.error("--steps and --clips both say how many clips there are: choose one")
    if chosen.recipe_lr and chosen.model == "xlsr53":
        parser.error("--recipe-lr is for --model tiny; xlsr53 has the recipe's rate already")
    chosen.clips = chosen.steps * _RECIPE_BATCH if chosen.steps else chosen.clips or _CLIPS[chosen.model][0]
    chosen.validation_clips = chosen.validation_clips or _CLIPS[chosen.model][1]
    return chosen


# ------------------------------------------------------------------------------------------- before the runs


def _material(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write clips and initial weights; return them with both sides' settings."""
    from _clips import XLSR53, noise_like_fleurs, save_initial_weights, spanish_mini, write

    base = _BASE[chosen.model] + (_RECIPE_RATE if chosen.recipe_lr else [])
    cfg = _composed(base, folder)
    network = {**(XLSR53 if chosen.model == "xlsr53" else {}), **cfg["model"]["network"]}
    say_row(
        "clips",
        f"{chosen.clips:,} for training and {chosen.validation_clips:,} for validation are being made",
    )
    if chosen.model == "tiny":
        clips: Any = spanish_mini(
            chosen.clips, chosen.validation_clips, chosen.seed, network, folder / "corpus-cache"
        )
        # What the default run sets for this corpus, which is read here like any local copy of FLEURS.
        shipped = _composed(["task=asr_es", "data=spanish_mini"], folder)["data"]
        common = (shipped.keys() & cfg["data"].keys()) - {"_target_", "path"}
        base += [f"data.{key}={shipped[key]}" for key in sorted(common) if shipped[key] != cfg["data"][key]]
    else:
        clips = noise_like_fleurs(chosen.clips, chosen.validation_clips, chosen.seed)
    written = write(clips, folder / "clips")
    shutil.rmtree(folder / "corpus-cache", ignore_errors=True)
    weights = save_initial_weights(network, written.references["train"], chosen.seed, folder / "initial")
    optimizer, schedule = cfg["model"]["optimizer"], cfg["model"]["schedule"]
    checkpointing = (
        chosen.model == "xlsr53"
        if chosen.their_checkpointing is None
        else chosen.their_checkpointing == "yes"
    )
    return {
        "seconds": written.seconds,
        "references": written.references,
        "ours": [*base, f"data.path='{folder / 'clips'}'", f"model.pretrained='{folder / 'initial'}'"],
        "theirs": {
            "clips": str(folder / "clips"),
            "initial": str(folder / "initial"),
            "initial_weights": weights,
            "epochs": chosen.epochs,
            "batch": _RECIPE_BATCH,
            "seed": chosen.seed,
            "normaliser": cfg["task"]["normaliser"],
            "lr": optimizer["lr"],
            "betas": optimizer["betas"],
            "eps": optimizer["eps"],
            "weight_decay": optimizer["weight_decay"],
            "schedule": schedule["_target_"].rsplit(".", 1)[1],
            "warmup": schedule["warmup"],
            "dropout": {key: network[key] for key in network if "drop" in key or key.startswith("mask_")},
            "freeze_feature_encoder": cfg["model"]["freeze_feature_encoder"],
            "gradient_checkpointing": checkpointing,
        },
    }


def _composed(settings: list[str], folder: Path) -> dict[str, Any]:
    """Return a run's whole configuration, as the command line shows it."""
    from omegaconf import OmegaConf

    shown = run_child(command_line("--cfg", "job", "--resolve", *settings), environment(), folder).output
    cfg: Any = OmegaConf.to_container(OmegaConf.create(shown))
    return dict(cfg)


def _say_settings(chosen: argparse.Namespace, material: dict[str, Any]) -> None:
    theirs = material["theirs"]
    audio = material["seconds"]["train"]
    say_row("model", f"{chosen.model}, {chosen.epochs} epochs of {audio / 3600:.2f} h of audio")
    rate = f"lr {theirs['lr']:g}, betas {theirs['betas']}, weight decay {theirs['weight_decay']:g}"
    source = (
        "the recipe's"
        if chosen.model == "xlsr53"
        else "the recipe's rate"
        if chosen.recipe_lr
        else "ours, not the recipe's"
    )
    say_row("both", f"{rate}, {theirs['schedule']} decay after a warm-up of {theirs['warmup']:g} ({source})")
    say_row("ours", f"as shipped {' '.join(['and', *chosen.overrides]) if chosen.overrides else ''}".strip())
    checkpointing = "with" if theirs["gradient_checkpointing"] else "without"
    say_row(
        "theirs",
        f"batches of {_RECIPE_BATCH} clips grouped by length, {checkpointing} gradient checkpointing",
    )


# -------------------------------------------------------------------------------------------------- the runs


def _run_ours(chosen: argparse.Namespace, material: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run our command line from an empty cache; then ask how long its prepared data take to open."""
    folder.mkdir()
    run, again, notes = folder / "run", folder / "prepared", folder / "notes.json"
    settings = [
        *material["ours"],
        f"trainer.max_epochs={chosen.epochs}",
        f"seed={chosen.seed}",
        *chosen.overrides,
    ]
    child = environment(chosen.threads, folder / "cache")
    ended = run_child(
        command_line(*settings, f"hydra.run.dir='{run}'"), watched(child, folder, notes), folder
    )
    run_child(command_line("stage=prepare", *settings, f"hydra.run.dir='{again}'"), child, folder)
    phases, prepared = (
        json.loads((each / "run.json").read_text())["phases_seconds"] for each in (run, again)
    )
    metrics = json.loads((run / "metrics.json").read_text())
    epochs = [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]
    if len(epochs) != chosen.epochs:
        fail(
            f"our side trained {len(epochs)} epochs instead of {chosen.epochs}: leave trainer.… out of its settings"
        )
    seen = json.loads(notes.read_text())
    if seen["initial_weights"] != material["theirs"]["initial_weights"]:
        fail("our side did not begin with the weights that it was given: leave what changes the network out")
    for large in (folder / "cache", run / "checkpoints"):
        shutil.rmtree(large)
    took = {
        "training_seconds": phases["fit"],
        "data_seconds": phases["data"],
        "data_prepared_seconds": prepared["data"],
        "imports_seconds": phases["imports"],
        "audio_seconds_per_second": metrics["train/audio_seconds_per_second"],
        "steps": epochs[-1]["step"],
        "val_wer": epochs[-1]["val/wer"],
        **_of_process(ended, seen),
    }
    if "train/mfu" in metrics:
        took["mfu"] = metrics["train/mfu"]
    return took


def _run_theirs(chosen: argparse.Namespace, material: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the recipe, with an empty cache of its own."""
    from speechexp.recognition import SpeechRecognition

    folder.mkdir()
    job, notes = folder / "job.json", folder / "notes.json"
    places = {"cache": str(folder / "cache"), "output": str(folder / "output"), "notes": str(notes)}
    job.write_text(json.dumps({**material["theirs"], **places}))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": places["cache"]}
    script = Path(__file__).resolve().with_name("_recipe.py")
    ended = run_child(
        [sys.executable, str(script), str(job)], environment(chosen.threads, more=offline), folder
    )
    seen = json.loads(notes.read_text())
    shutil.rmtree(folder / "cache")
    # Their references went through labels, where a letter that training lacks is unknown; ours are scored as they are.
    known = {
        *json.loads((Path(material["theirs"]["initial"]) / "vocab.json").read_text(encoding="utf-8")),
        " ",
    }
    references = {
        "".join(letter if letter in known else "<unk>" for letter in reference): reference
        for reference in material["references"]["validation"]
    }
    if set(seen["references"]) != set(references) or len(seen["texts"]) != chosen.validation_clips:
        fail("their validation references are not ours")
    metric = SpeechRecognition().metrics()["wer"]
    metric.update([references[reference] for reference in seen["references"]], seen["texts"])
    audio = material["seconds"]["train"] * chosen.epochs
    return {
        **{key: seen[key] for key in ("training_seconds", "data_seconds", "imports_seconds", "steps")},
        "audio_seconds_per_second": audio / seen["steps_seconds"],
        "val_wer": float(metric.compute()),
        **_of_process(ended, seen),
    }


def _of_process(ended: Ended, seen: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {key: seen[key] for key in ("threads", "peak_gpu_bytes") if key in seen}
    return {"whole_seconds": ended.seconds, "peak_bytes": ended.peak_bytes, **known}


# -------------------------------------------------------------------------------------------------- figures


def _summarise(figures: dict[str, Any], turns: dict[str, list[dict[str, Any]]]) -> None:
    """Add medians and ratios to the figures, and print them."""
    for side, takes in turns.items():
        for name in takes[0]:
            figures[f"{side}_{name}"] = median([took[name] for took in takes])
            if len(takes) > 1:
                figures[f"{side}_{name}_all"] = [took[name] for took in takes]
    for ratio, name in (("wall_ratio", "training_seconds"), ("wall_ratio_whole", "whole_seconds")):
        figures[ratio] = figures[f"ours_{name}"] / figures[f"theirs_{name}"]
    shown = {
        "training_seconds": ("training with evaluations, s", 1, ".1f"),
        "whole_seconds": ("process start to end, s", 1, ".1f"),
        "imports_seconds": ("imports, s", 1, ".1f"),
        "data_seconds": ("data from nothing, s", 1, ".1f"),
        "data_prepared_seconds": ("data from a prepared cache, s", 1, ".2f"),
        "audio_seconds_per_second": ("audio s/s in training", 1, ".1f"),
        "mfu": ("MFU", 1, ".3f"),
        "peak_bytes": ("peak memory, GiB", 2**-30, ".2f"),
        "peak_gpu_bytes": ("peak GPU memory, GiB", 2**-30, ".2f"),
        "val_wer": ("validation WER, last epoch", 1, ".4f"),
        "steps": ("optimizer steps", 1, ",.0f"),
        "threads": ("torch's threads", 1, ".0f"),
    }
    rows = []
    for name, (title, scale, form) in shown.items():
        values = [figures.get(f"{side}_{name}") for side in turns]
        if values == [None, None]:
            continue
        cells = ["" if value is None else format(value * scale, form) for value in values]
        ratio = f"{values[0] / values[1]:.3f}" if None not in values and values[1] else ""
        rows.append([title, *cells, ratio])
    say_table(["", "ours", "theirs", "ours/theirs"], rows)
    say_row(
        "wall_ratio",
        f"{figures['wall_ratio']:.3f} (training with evaluations), whole runs {figures['wall_ratio_whole']:.3f}",
    )


if __name__ == "__main__":
    main()
