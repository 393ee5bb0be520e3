"""A run's folder: claimed by one process, and a record of what happened in it."""

import contextlib
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from speechexp import __version__
from speechexp.errors import Interrupted, UserError
from speechexp.paths import write_json, write_lines

RECORD = "run.json"
_PACKAGES = (
    "torch",
    "torchaudio",
    "pytorch-lightning",
    "transformers",
    "datasets",
    "torchmetrics",
    "hydra-core",
    "numpy",
    "soundfile",
)


class RunFolder:
    """The folder of a run that this process alone writes to.

    Use `claimed`. ``run.json`` tells versions, seed, wall times by phase and the state: ``running``, ``done``,
    ``failed`` or ``interrupted``.

    Attributes:
        refused: The run was refused before it began: its folder is removed, so that typos leave no litter.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record
        self.refused = False

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, path: Path, resume: bool, facts: Mapping[str, Any]) -> Iterator["RunFolder"]:
        """Claim a folder for as long as the context lasts, and keep its record.

        Args:
            path: A new or empty folder; with ``resume`` one that holds a run.
            resume: Go on in it.
            facts: What the record begins with.

        Raises:
            UserError: Another process has it, it holds a run already, or it can't be written.
        """
        lock = FileLock(path / ".lock")
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"Another process is writing to {path}. Wait for it, or choose another hydra.run.dir=DIR."
            ) from None
        except OSError as error:
            raise UserError(
                f"The run folder {path} can't be written ({error.strerror or error}). "
                "Choose another with hydra.run.dir=DIR."
            ) from error
        try:
            refuse_used(path, resume)
            previous = read_record(path) if resume else {}
            record = {
                **previous,
                "state": "running",
                "speechexp": __version__,
                "started": previous.get("started", _now()),
                "versions": installed_versions(),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "git_commit": git_commit(),
                "phases_seconds": dict(previous.get("phases_seconds", {})),
                **facts,
            }
            if resume:
                record["resumed"] = [*previous.get("resumed", []), _now()]
            folder = cls(path, record)
            folder.write_record()
            try:
                yield folder
            except (Interrupted, KeyboardInterrupt):
                record["state"] = "interrupted"
                raise
            except BaseException as error:
                record["state"] = "failed"
                kind = UserError if isinstance(error, UserError) else type(error)
                record["error"] = f"{kind.__name__}: {error}"
                raise
            else:
                record["state"] = "done"
                record.pop("error", None)
            finally:
                record["ended"] = _now()
                with contextlib.suppress(OSError):  # a full disk must not hide what happened
                    folder.write_record()
                if folder.refused:
                    folder._discard()
        finally:
            lock.release()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the wall time spent inside to the record."""
        started = time.monotonic()
        try:
            yield
        finally:
            phases = self.record["phases_seconds"]
            phases[name] = round(phases.get(name, 0.0) + time.monotonic() - started, 2)

    def _discard(self) -> None:
        for name in (RECORD, "config.yaml", "dropped.jsonl", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        with contextlib.suppress(OSError):  # something else is in it
            self.path.rmdir()

    def write_record(self) -> None:
        """Write ``run.json``."""
        write_json(self.path / RECORD, self.record)

    def write_metrics(self, figures: Mapping[str, float]) -> None:
        """Write ``metrics.json``: one flat object."""
        write_json(self.path / "metrics.json", dict(sorted(figures.items())))

    def read_metrics(self) -> dict[str, float]:
        """Return the figures that an earlier part of the run has written; none at first."""
        path = self.path / "metrics.json"
        figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return figures

    def write_lines(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Write a JSON line for each record."""
        write_lines(self.path / name, records)


def refuse_used(path: Path, resume: bool) -> None:
    """Raise unless a folder is as a run needs it: empty, or with ``resume`` the holder of a run."""
    there = [each.name for each in path.iterdir() if each.name != ".lock"] if path.is_dir() else []
    if resume or not there:
        return
    if RECORD in there:
        if read_record(path).get("stage") == "prepare":
            return  # what was prepared is in the cache: done again, it goes on there
        state = read_record(path).get("state", "unknown")
        raise UserError(
            f"{path} already holds a run (its state: {state}); nothing was written over. "
            f"Choose another hydra.run.dir=DIR, or go on with it: resume={path}"
        )
    raise UserError(
        f"The run folder {path} must be new or empty, but holds {', '.join(sorted(there)[:4])}. "
        "Choose another hydra.run.dir=DIR."
    )


def read_record(path: Path) -> dict[str, Any]:
    """Return a folder's ``run.json``; empty if it has none that can be read."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def installed_versions() -> dict[str, str]:
    """Return the versions of what decides a run's figures."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that speechexp runs from, with "+changes" if it was edited."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            [
                "git",
                "-C",
                str(checkout),
                "describe",
                "--always",
                "--abbrev=40",
                "--exclude=*",
                "--dirty=+changes",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() or None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
