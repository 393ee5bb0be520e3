"""A corpus for speaker diarization that needs no download: conversations mixed from espeak-ng's voices.

It has CallHome's columns, so whatever reads CallHome reads it. A few rows are bad on purpose
(`conversation_rows.faults_of`). A network that learns it knows these voices, not people's.

`make_conversation_corpus` works in a child process, because espeak-ng's voices repeat themselves only in a fresh one.
"""

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from speechexp.corpora import conversation_rows, conversation_turns, spanish_sentences, spanish_voices
from speechexp.corpora.conversation_rows import Conversation
from speechexp.corpora.making import count_rows, make_once, run_child, serve

# Raise it when the same recipe gives other bytes for a reason that the other parts of the digest miss.
RECIPE_VERSION = 1

SPLITS = ("train", "validation", "test")

# Less would not let four speakers have their turns.
SHORTEST_SECONDS = 20.0

_FOLDER_PREFIX = "conversation_mini-"


@dataclass(frozen=True)
class ConversationRecipe:
    """What decides the content of a corpus.

    Attributes:
        train_conversations: good recordings in train; the bad rows come on top.
        validation_conversations: the same for validation.
        test_conversations: the same for test.
        conversation_seconds: how long each recording is.
        seed: of voices, turns and scenes.

    Raises:
        ValueError: when a split has no conversations, or they are too short.
    """

    train_conversations: int = 90
    validation_conversations: int = 10
    test_conversations: int = 16
    conversation_seconds: float = 40.0
    seed: int = 1

    def __post_init__(self) -> None:
        for split in SPLITS:
            if self.conversations(split) < 1:
                raise ValueError(
                    f"`{split}_conversations` must be at least 1, but is {self.conversations(split)} instead."
                )
        if not self.conversation_seconds >= SHORTEST_SECONDS:
            raise ValueError(
                f"`conversation_seconds` must be at least {SHORTEST_SECONDS:g}, but is "
                f"{self.conversation_seconds:g} instead."
            )

    def conversations(self, split: str) -> int:
        """Return the number of good conversations in a split."""
        return int(getattr(self, f"{split}_conversations"))

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
            [conversation_rows.faults_of(split, self.conversations(split)) for split in SPLITS],
            (conversation_turns.BACK_CHANNELS, conversation_turns.ANSWERS),
            spanish_sentences.grammar_fingerprint(),
            spanish_voices.voices_fingerprint(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def plan_corpus(recipe: ConversationRecipe) -> dict[str, list[Conversation]]:
    """Decide every conversation of a recipe."""
    return {
        split: conversation_rows.plan_split(
            split, recipe.conversations(split), recipe.conversation_seconds, recipe.seed
        )
        for split in SPLITS
    }


def conversation_corpus_folder(recipe: ConversationRecipe, cache_dir: Path) -> Path:
    """Return the folder that `make_conversation_corpus` publishes; it is complete if it exists."""
    return Path(cache_dir).absolute() / f"{_FOLDER_PREFIX}{recipe.digest()[:12]}"


def make_conversation_corpus(
    recipe: ConversationRecipe, cache_dir: Path, progress: Callable[[int, int], None] | None = None
) -> Path:
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
        RuntimeError: when the child process fails otherwise; the message has the end of its stderr.
    """
    arguments = json.dumps(asdict(recipe))

    def fill(partial: Path) -> None:
        run_child(
            "speechexp.corpora.conversation_corpus",
            [arguments, str(partial)],
            "conversation corpus",
            progress,
        )

    return make_once(conversation_corpus_folder(recipe, cache_dir), _FOLDER_PREFIX, fill)


def _write_corpus(recipe: ConversationRecipe, folder: Path) -> None:
    plan = plan_corpus(recipe)
    rows = conversation_rows.write_corpus(plan, folder)
    count_rows(rows, sum(map(len, plan.values())), every=1)
    description = {
        "recipe": asdict(recipe),
        "digest": recipe.digest(),
        "recipe_version": RECIPE_VERSION,
        "espeakng_loader": importlib.metadata.version("espeakng-loader"),
        "faults": {split: conversation_rows.ids_by_fault(each) for split, each in plan.items()},
        "conversations": {each.id: asdict(each) for split in plan.values() for each in split},
    }
    (folder / "recipe.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _recipe = ConversationRecipe(**json.loads(sys.argv[1]))
    sys.exit(serve(lambda folder: _write_corpus(_recipe, folder), Path(sys.argv[2])))
