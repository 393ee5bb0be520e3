"""A Spanish speech corpus that needs no download: sentences of a small grammar, spoken by espeak-ng.

It has FLEURS's columns and folder layout, so whatever reads FLEURS reads it. Sentences and voices of
validation and test are never heard in training. A few rows are bad on purpose (`spanish_rows.faults_of`).
It is synthetic speech: a network that learns it does not understand people.

`make_corpus` works in a child process, because the voices repeat themselves only in a fresh one.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from speechexp.corpora import spanish_rows, spanish_sentences, spanish_voices

# Raise it when the same recipe gives other bytes for a reason that the other parts of the digest miss.
RECIPE_VERSION = 1

SPLITS = ("train", "validation", "test")

_FOLDER_PREFIX = "spanish_mini-"
_PROGRESS_ROWS = 50


@dataclass(frozen=True)
class Recipe:
    """What decides the content of a corpus.

    Attributes:
        train_utterances: good utterances in train; the bad rows come on top.
        validation_utterances: the same for validation.
        test_utterances: the same for test.
        seed: of the sentences, the voices, and their order.

    Raises:
        ValueError: when a split has no utterances.
    """

    train_utterances: int = 6000
    validation_utterances: int = 400
    test_utterances: int = 600
    seed: int = 1

    def __post_init__(self) -> None:
        for split in SPLITS:
            if self.utterances(split) < 1:
                raise ValueError(
                    f"`{split}_utterances` must be at least 1, but is {self.utterances(split)} instead."
                )

    def utterances(self, split: str) -> int:
        """Return the number of good utterances in a split."""
        return int(getattr(self, f"{split}_utterances"))

    def digest(self) -> str:
        """Return a hash of all that decides the content, espeak-ng's version included.

        Raises:
            ImportError: when `espeakng-loader` is not installed.
        """
        spanish_voices.import_loader()
        parts = (
            RECIPE_VERSION,
            importlib.metadata.version("espeakng-loader"),
            sorted(asdict(self).items()),
            [spanish_rows.faults_of(split, self.utterances(split)) for split in SPLITS],
            spanish_sentences.grammar_fingerprint(),
            spanish_voices.voices_fingerprint(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def corpus_folder(recipe: Recipe, cache_dir: Path) -> Path:
    """Return the folder that `make_corpus` publishes a recipe's corpus as; it is complete if it exists."""
    return Path(cache_dir).absolute() / f"{_FOLDER_PREFIX}{recipe.digest()[:12]}"


def make_corpus(recipe: Recipe, cache_dir: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of a recipe's corpus, which is made first if it is not there.

    A process that wants a corpus while another makes one in the same `cache_dir` waits. Whatever ends the
    making early, nothing that looks finished is left.

    Args:
        recipe: the content.
        cache_dir: where corpora are kept; created if missing.
        progress: called with the rows done and the rows in all, several times a second.

    Raises:
        ImportError: when `espeakng-loader` is not installed.
        OSError: when `cache_dir` cannot be written, or is full.
        ValueError: when the grammar has too few sentences for the recipe.
        RuntimeError: when the child process fails otherwise; the message has the end of its stderr.
    """
    folder = corpus_folder(recipe, cache_dir)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One lock for all recipes: its holder knows that every unfinished folder is abandoned.
    with FileLock(folder.parent / f"{_FOLDER_PREFIX.rstrip('-')}.lock"):
        if folder.is_dir():
            return folder
        for abandoned in folder.parent.glob(f".{_FOLDER_PREFIX}*.partial"):
            shutil.rmtree(abandoned, ignore_errors=True)
        partial = folder.parent / f".{folder.name}-{os.getpid()}.partial"
        try:
            partial.mkdir()
            _run_child(recipe, partial, progress)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _run_child(recipe: Recipe, partial: Path, progress: Callable[[int, int], None] | None) -> None:
    """Let a fresh process fill `partial`; it never outlives this call."""
    command = [
        sys.executable,
        "-m",
        "speechexp.corpora.spanish_corpus",
        json.dumps(asdict(recipe)),
        str(partial),
    ]
    # The child must find what this process found, from whatever folder it was started.
    package_root = str(Path(spanish_rows.__file__).resolve().parents[2])
    search_path = [package_root, *(str(Path(entry).absolute()) for entry in sys.path if entry)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(search_path)),
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
    }
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            encoding="utf-8",
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                message = json.loads(line)
                if "os_error" in message:
                    number, text, filename = message["os_error"]
                    raise OSError(number, text, filename)
                if "value_error" in message:
                    raise ValueError(message["value_error"])
                if progress is not None:
                    progress(message["done"], message["total"])
            status = child.wait()
        finally:
            # Also after Ctrl-C, and after an exception in `progress`.
            child.kill()
        if status != 0:
            errors.seek(0)
            end = errors.read()[-2000:].strip()
            raise RuntimeError(f"Making the Spanish mini corpus failed with exit status {status}: {end}")


def _write_corpus(recipe: Recipe, folder: Path) -> None:
    plan = spanish_rows.plan_corpus({split: recipe.utterances(split) for split in SPLITS}, recipe.seed)
    total = sum(len(rows) for rows in plan.values())
    for done, _ in enumerate(spanish_rows.write_corpus(plan, folder), start=1):
        if done % _PROGRESS_ROWS == 0 or done == total:
            # Were the parent gone, this would break the pipe, and so end this process.
            print(json.dumps({"done": done, "total": total}), flush=True)
    description = {
        "recipe": asdict(recipe),
        "digest": recipe.digest(),
        "recipe_version": RECIPE_VERSION,
        "espeakng_loader": importlib.metadata.version("espeakng-loader"),
        "faults": {split: spanish_rows.paths_by_fault(rows) for split, rows in plan.items()},
    }
    (folder / "recipe.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _main() -> int:
    # Ctrl-C reaches both processes, and the parent ends this one. Taken here, it could be raised inside the
    # callback that collects samples, where ctypes drops exceptions, and a piece of speech with them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    recipe, folder = Recipe(**json.loads(sys.argv[1])), Path(sys.argv[2])
    try:
        _write_corpus(recipe, folder)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            message: dict[str, object] = {
                "os_error": [error.errno or errno.EIO, reason, error.filename or str(folder)]
            }
        else:
            message = {"value_error": str(error)}
        # When the parent is gone nobody reads this.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(message), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
