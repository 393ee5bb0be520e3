"""What a run found, for people: a few lines on the console and one page that opens without a network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from rich.markup import escape

from speechexp.console import console, say, say_row, say_table
from speechexp.epochs import read_epochs
from speechexp.manifest import SPLITS, summarise
from speechexp.run_folder import read_record, write_text

if TYPE_CHECKING:
    from speechexp.data import AudioData

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


def say_labels(data: "AudioData") -> dict[str, dict[str, int]]:
    """Print the vocabulary and what it lacks.

    Returns:
        By split, in how many references each character stands that the network cannot write.
    """
    task = data.task
    say_row("vocabulary", f"{len(task.vocabulary)} tokens: {' '.join(sorted(task.vocabulary.characters))}")
    unknown = {}
    for split in SPLITS:
        if not data.characters(split) - task.vocabulary.characters - {" "}:
            continue
        counts = task.unknown_characters(data.references(split))
        if counts:
            unknown[split] = counts
            listed = ", ".join(f"«{escape(character)}» in {count}" for character, count in counts.items())
            say(
                f"[yellow]{split} holds characters that the network cannot write: clips with {listed}[/yellow]"
            )
    return unknown


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


def say_figures(figures: Mapping[str, float]) -> None:
    """Print the test figures: the rate with its interval, then the breakdowns."""
    low, high = figures["test/wer_ci95_low"], figures["test/wer_ci95_high"]
    say()
    say(
        f"[bold]test WER {figures['test/wer']:.4f}[/bold] (95 % interval {low:.4f} to {high:.4f}), "
        f"CER {figures['test/cer']:.4f}, on {int(figures['test/utterances'])} utterances, "
        f"{int(figures['test/words'])} words: {int(figures['test/substitutions'])} substituted, "
        f"{int(figures['test/deletions'])} deleted, {int(figures['test/insertions'])} inserted"
    )
    parts = [
        f"{key.removeprefix('test/wer_by_').replace('/', ' ')} {value:.4f}"
        for key, value in figures.items()
        if key.startswith("test/wer_by_")
    ]
    if parts:
        say(f"WER by {', '.join(parts[:12])}")


def say_examples(records: Sequence[Mapping[str, Any]], count: int = 5) -> None:
    """Print some references beside their transcripts, spread over the test set."""
    step = max(len(records) // count, 1)
    say()
    for record in records[::step][:count]:
        console.print(f"  reference   {record['reference']}", markup=False)
        console.print(f"  transcript  {record['prediction']}", markup=False, style="bold")
    say()


def write_report(folder: Path) -> None:
    """Write ``report.html`` from what a run's folder holds."""
    predictions = folder / "predictions.jsonl"
    lines = predictions.read_text(encoding="utf-8").splitlines() if predictions.is_file() else []
    records = [json.loads(line) for line in lines]
    worst = sorted(records, key=lambda r: (-r["word_errors"] / max(r["words"], 1), r["id"]))[:_WORST]
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
            config=(folder / "config.yaml").read_text(encoding="utf-8"),
        )
    )
    write_text(folder / "report.html", page)
