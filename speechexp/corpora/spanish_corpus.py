"""A Spanish speech corpus that needs no download: sentences of a small grammar, spoken by espeak-ng.

It has FLEURS's columns and folder layout, so whatever reads FLEURS reads it. Sentences and voices of
validation and test are never heard in training. A few rows are bad on purpose (`spanish_rows.faults_of`).
It is synthetic speech: a network that learns it does not understand people.

`make_corpus` works in a child process, because the voices repeat themselves only in a fresh one.
"""

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from speechexp.corpora import spanish_rows, spanish_sentences, spanish_voices
from speechexp.corpora.making import count_rows, make_once, run_child, serve

# Raise it when the same recipe gives other bytes for a reason that the other parts of the digest miss.
RECIPE_VERSION = 1

SPLITS = ("train", "validation", "test")

_FOLDER_PREFIX = "spanish_mini-"


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
    arguments = json.dumps(asdict(recipe))

    def fill(partial: Path) -> None:
        run_child(
            "speechexp.corpora.spanish_corpus", [arguments, str(partial)], "Spanish mini corpus", progress
        )

    return make_once(corpus_folder(recipe, cache_dir), _FOLDER_PREFIX, fill)


def _write_corpus(recipe: Recipe, folder: Path) -> None:
    plan = spanish_rows.plan_corpus({split: recipe.utterances(split) for split in SPLITS}, recipe.seed)
    total = sum(len(rows) for rows in plan.values())
    count_rows(spanish_rows.write_corpus(plan, folder), total)
    description = {
        "recipe": asdict(recipe),
        "digest": recipe.digest(),
        "recipe_version": RECIPE_VERSION,
        "espeakng_loader": importlib.metadata.version("espeakng-loader"),
        "faults": {split: spanish_rows.paths_by_fault(rows) for split, rows in plan.items()},
    }
    (folder / "recipe.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _recipe = Recipe(**json.loads(sys.argv[1]))
    sys.exit(serve(lambda folder: _write_corpus(_recipe, folder), Path(sys.argv[2])))
