"""A sweep's table: every job's figure, best first, read from the folders."""

import json
import math
from pathlib import Path
from typing import Any

from speechexp.console import say, say_row, say_table
from speechexp.run_folder import read_record


def finish_sweep(folder: Path) -> int:
    """Print the table of a sweep and return its exit code: that of its worst job."""
    jobs = [_job(file.parent) for file in sorted(folder.glob("**/run.json"))]
    if not jobs:
        return 1
    watched = next((job["watched"] for job in jobs if job["watched"]), "")
    higher_is_better = any(job["watched_mode"] == "max" for job in jobs)
    overrides = [dict(each.split("=", 1) for each in job["overrides"] if "=" in each) for job in jobs]
    names = list(dict.fromkeys(key for each in overrides for key in each))
    swept = [name for name in names if len({each.get(name) for each in overrides}) > 1]

    name = watched.removeprefix("val/")
    ranking = watched if any(watched in job["figures"] for job in jobs) else f"test/{name}"

    def rank(pair: tuple[dict[str, Any], dict[str, str]]) -> float:
        value = pair[0]["figures"].get(ranking, math.nan)
        return math.inf if math.isnan(value) else (-value if higher_is_better else value)

    ranked = sorted(zip(jobs, overrides, strict=True), key=rank)
    rows = [
        [
            *(settings.get(name, "") for name in swept),
            *_cells(job, name),
            job["folder"].relative_to(folder).as_posix(),
        ]
        for job, settings in ranked
    ]
    say()
    say_table(
        [*swept, f"val {_title(name)}", f"test {_title(name)}", "95 % interval", "state", "job"],
        rows,
        title="sweep, best first",
    )
    say()
    say_row("folder", str(folder))
    say_row("look", f"tensorboard --logdir {folder}")
    failed = [job for job in jobs if job["state"] != "done"]
    for job in failed:
        say_row("failed", f"{job['folder'].name}: {job['error'].removeprefix('UserError: ')}")
    if not failed:
        return 0
    return 2 if all(str(job["error"]).startswith("UserError") for job in failed) else 1


def _job(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    metrics = folder / "metrics.json"
    figures = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
    return {
        "folder": folder,
        "overrides": record.get("overrides", []),
        "state": record.get("state", "unknown"),
        "error": record.get("error", ""),
        "figures": figures,
        "watched": record.get("watched", ""),
        "watched_mode": record.get("watched_mode", ""),
    }


def _title(name: str) -> str:
    return {"wer": "WER", "map": "mAP", "der": "DER"}.get(name, name)


def _cells(job: dict[str, Any], name: str) -> list[str]:
    figures = job["figures"]

    def figure(name: str) -> str:
        return f"{figures[name]:.4f}" if name in figures else "-"

    interval = f"{figure(f'test/{name}_ci95_low')} to {figure(f'test/{name}_ci95_high')}"
    return [
        figure(f"val/{name}"),
        figure(f"test/{name}"),
        interval if f"test/{name}" in figures else "-",
        job["state"],
    ]
