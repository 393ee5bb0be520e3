"""How long speechexp takes to answer, and to begin training."""

import json
from pathlib import Path
from typing import Any

from _bench import (
    arguments,
    command_line,
    environment,
    median,
    report,
    run_child,
    say_row,
    say_table,
    scratch_folder,
    watched,
)

_EPILOG = """\
The first run of each is not counted: it fills the disk's cache. The first training step is that of a whole run,
timed from just before its process is started to the end of the step by a Lightning callback that comes with an
entry point; data were prepared by a run before, and nothing is patched. Settings such as data=audio_folder
data.path=DIR can be given for that run; by default it is the default run's.

  python scripts/bench_startup.py --runs 7 --out startup.json
"""

# Seconds on 2 cores.
_GOALS = {"config_error": 0.5, "help": 0.5, "first_step": 8.0, "phase_data": 2.0}
_NAMES = {
    "config_error": "a config error (trainer.max_epoch=5)",
    "help": "--help",
    "cfg_job": "--cfg job",
    "first_step": "process start to the end of the first training step",
    "phase_data": "  of which data, from a prepared cache",
    "phase_data_empty_cache": "data from an empty cache, made once",
}
_AFTER_THE_STEP = ("fit", "test", "report")  # phases of a run that are no part of its start


def main() -> None:
    parser = arguments(__doc__ or "", _EPILOG, scratch=True)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="counted runs of each (default 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="OMP_NUM_THREADS (default: as shipped)")
    parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="settings of the run with the training step"
    )
    chosen = parser.parse_args()
    if chosen.runs < 1:
        parser.error("--runs must be at least 1")
    with scratch_folder(chosen.scratch) as folder:
        seconds = _answers(folder, chosen.runs)
        seconds |= _first_steps(folder, chosen.runs, chosen.threads, chosen.overrides)
    rows, figures = [], dict[str, Any]({"benchmark": "startup", "runs": chosen.runs})
    for name, values in seconds.items():
        goal = _GOALS.get(name)
        figures[f"{name}_seconds"] = median(values)
        figures[f"{name}_seconds_min"], figures[f"{name}_seconds_max"] = min(values), max(values)
        if goal is not None:
            figures[f"{name}_goal_seconds"] = goal
        cells = [f"{value:.2f}" for value in (median(values), min(values), max(values))]
        named = _NAMES.get(name) or f"  of which {name.removeprefix('phase_')}"
        rows.append([named, *cells, "" if goal is None else f"{goal:g}"])
    say_table(["seconds", "median", "min", "max", "goal"], rows)
    say_row("goals", "on 2 cores with nothing else running; data: well under 2 s")
    report(figures, chosen.out)


def _answers(folder: Path, runs: int) -> dict[str, list[float]]:
    """Time what is answered before anything is loaded."""
    asked = {
        "config_error": (["trainer.max_epoch=5"], 2),
        "help": (["--help"], 0),
        "cfg_job": (["--cfg", "job"], 0),
    }
    seconds = {}
    for name, (words, code) in asked.items():
        ended = [run_child(command_line(*words), environment(), folder, code) for _ in range(runs + 1)]
        seconds[name] = [each.seconds for each in ended[1:]]
    return seconds


def _first_steps(
    folder: Path, runs: int, threads: int | None, overrides: list[str]
) -> dict[str, list[float]]:
    """Time runs of one step on prepared data, after one that prepares them; tell their phases, too."""
    child = environment(threads, folder / "cache")
    # What comes after the step is not timed: as little of it as there can be.
    one_step = [f"trainer.{limit}=1" for limit in ("max_steps", "limit_val_batches", "limit_test_batches")]
    seconds: dict[str, list[float]] = {"first_step": []}
    for number in range(runs + 2):
        run, notes = folder / f"run-{number}", folder / f"watched-{number}.json"
        settings = ["stage=prepare"] if number == 0 else one_step
        ended = run_child(
            command_line(*overrides, *settings, f"hydra.run.dir='{run}'"),
            watched(child, folder, notes),
            folder,
        )
        phases = json.loads((run / "run.json").read_text())["phases_seconds"]
        if number == 0:
            empty = phases["data"]
        elif number > 1:
            seconds["first_step"].append(json.loads(notes.read_text())["first_step_ended"] - ended.started)
            for phase, lasted in phases.items():
                if phase not in _AFTER_THE_STEP:
                    seconds.setdefault(f"phase_{phase}", []).append(lasted)
    return {**seconds, "phase_data_empty_cache": [empty]}


if __name__ == "__main__":
    main()
