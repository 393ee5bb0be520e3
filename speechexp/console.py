"""The console: one place for what people read. Plain text when it is not a terminal."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

# Not a terminal (a log file, a pipe): no wrapping, so that paths and commands stay whole.
console = Console(
    highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200
)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

_PLAIN_PROGRESS_SECONDS = 15.0  # how often progress is told where no bar can be drawn


def say(message: str = "") -> None:
    """Print a message in rich's markup; text from data must be escaped."""
    console.print(message)


def say_command(command: str, *rest: str, **settings: object) -> None:
    """Print a command to type next, its settings quoted where a shell and Hydra need it.

    Args:
        command: How it begins.
        rest: What follows the settings.
        settings: Names and values.
    """
    plain = re.compile(r"[\w./+:@~-]*")
    typed = [
        f"{name}={value}" if plain.fullmatch(str(value)) else f"\"{name}='{value}'\""
        for name, value in settings.items()
    ]
    console.print("  " + " ".join([command, *typed, *rest]), markup=False)


def say_row(name: str, value: str) -> None:
    """Print a line of the header: what is used, and why."""
    console.print(Text.assemble((f"{name:<11}", "bold"), value))


def gigabytes(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{max(round(count / 1e6), 1)} MB"


def say_error(message: str) -> None:
    """Print what went wrong, on stderr."""
    errors.print(Text.assemble(("error: ", "bold red"), message))


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print a table; the first column is left-aligned, numbers right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """Give a function that shows how far named work has come: a bar, or a line now and then.

    The function takes the work's name, how much is done, and of how much where that is known.
    """
    if not console.is_terminal or os.environ.get("TERM") == "dumb":
        yield _plain_progress()
        return
    bar = Progress(
        TextColumn("{task.description:<11}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        tasks: dict[str, int] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

        yield show


def _plain_progress() -> Callable[[str, int, int | None], None]:
    began: dict[str, tuple[float, int]] = {}  # when and where the work of a name began
    told: dict[str, float] = {}
    last: dict[str, int] = {}

    def show(name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done <= last.get(name, done):  # new work, or the next round of it
            began[name], told[name] = (now, done), now
        last[name] = done
        if now - told[name] < _PLAIN_PROGRESS_SECONDS:
            return
        told[name] = now
        since, first = began[name]
        left = (
            f", {(now - since) / (done - first) * (total - done):.0f} s left"
            if total and done > first
            else ""
        )
        console.print(f"{name}: {done:,}{f' of {total:,}' if total else ''}{left}")

    return show


def seconds_in_words(seconds: float) -> str:
    """Return a duration as people say it: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
