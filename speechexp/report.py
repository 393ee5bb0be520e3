"""What a run found, for people: a few lines on the console and one page that opens without a network."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from rich.markup import escape

from speechexp.console import console, say, say_row, say_table
from speechexp.epochs import read_epochs
from speechexp.manifest import SPLITS, summarise
from speechexp.paths import write_text
from speechexp.run_folder import read_record

if TYPE_CHECKING:
    from speechexp.data import AudioData
    from speechexp.task import Task

_WORST = 50


def say_data(data: "AudioData") -> None:
    """Print what a data set holds, and what was dropped from it."""
    say_row("data from", data.describe())
    dropped = list(summarise(data.drops))
    rows = []
    for split in SPLITS:
        reasons = ", ".join(f"{count} {reason}" for where, reason, count in dropped if where == split)
        rows.append([split, f"{data.count(split):,}", f"{data.hours(split):.2f}", reasons or "none"])
    say_table(["split", "clips", "hours", "dropped"], rows)


def say_labels(task: "Task", data: "AudioData") -> dict[str, Any]:
    """Print what labels there are, and what is odd about them.

    Returns:
        What ``run.json`` keeps of that.
    """
    rows, kept = task.describe_labels(data)
    for name, text in rows:
        if name:
            say_row(name, text)
        else:
            say(f"[yellow]{escape(text)}[/yellow]")
    return kept


def say_cost(figures: Mapping[str, float]) -> None:
    """Print what training cost, as far as it is known."""
    words = {
        "train/audio_seconds_per_second": "{:.0f} audio s/s",
        "train/data_wait_share": "{:.1%} waiting for data",
        "train/padding_share": "{:.1%} padding",
        "train/peak_memory_gb": "peak memory {:.1f} GB",
        "train/mfu": "MFU {:.1%}",
    }
    known = [text.format(figures[name]).replace("%", " %") for name, text in words.items() if name in figures]
    if known:
        say_row("cost", ", ".join(known))


def say_figures(task: "Task", figures: Mapping[str, float]) -> None:
    """Print the test figures."""
    say()
    for line in task.describe_figures(figures):
        say(line)


def say_examples(task: "Task", records: Sequence[Mapping[str, Any]], count: int = 5) -> None:
    """Print some references beside their predictions, spread over the test set."""
    step = max(len(records) // count, 1)
    say()
    for record in records[::step][:count]:
        *expected, predicted = task.describe_record(dict(record))
        for name, text in expected:
            console.print(f"  {name:<10}  {text}", markup=False)
        console.print(f"  {predicted[0]:<10}  {predicted[1]}", markup=False, style="bold")
    say()


def write_report(folder: Path) -> None:
    """Write ``report.html`` from what a run's folder holds."""
    predictions = folder / "predictions.jsonl"
    lines = predictions.read_text(encoding="utf-8").splitlines() if predictions.is_file() else []
    records = [json.loads(line) for line in lines]
    worst = sorted(records, key=lambda r: (-_badness(r), r["id"]))[:_WORST]
    epochs = read_epochs(folder)
    page = (
        Environment(loader=PackageLoader("speechexp", ""), autoescape=True)
        .get_template("report.html")
        .render(
            name=folder.name,
            record=read_record(folder),
            metrics=json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
            epochs=epochs,
            columns=list(dict.fromkeys(key for epoch in epochs for key in epoch)),
            worst=worst,
            classes=_classes(folder),
            timelines=list(_timelines(folder, worst)),
            unit=_unit(records),
            config=(folder / "config.yaml").read_text(encoding="utf-8"),
        )
    )
    write_text(folder / "report.html", page)


def _badness(record: Mapping[str, Any]) -> float:
    """Return how far a test clip's prediction is from its reference."""
    if "word_errors" in record:
        return float(record["word_errors"] / max(record["words"], 1))
    if "der" in record:
        return float(record["der"] or 0.0)
    return float(record.get("loss", 0.0))


def _unit(records: Sequence[Mapping[str, Any]]) -> str:
    """Return what the worst are the worst in."""
    first = records[0] if records else {}
    return "errors" if "word_errors" in first else "DER" if "der" in first else "loss"


def _timelines(folder: Path, worst: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield the timelines that were drawn, the worst recording's first."""
    for record in worst:
        file = folder / "timelines" / f"{record.get('file')}.png"
        if file.is_file():
            yield {"id": record["id"], "image": base64.b64encode(file.read_bytes()).decode()}


def _classes(folder: Path) -> list[dict[str, Any]]:
    """Return the figures of each class, in the network's order; none where the task has no classes."""
    path = folder / "classes.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]
