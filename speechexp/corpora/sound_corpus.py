"""A corpus for audio tagging that needs no download: generated sounds that deserve their AudioSet names.

It has AudioSet's columns, so whatever reads AudioSet reads it. A few rows are bad on purpose
(`sound_rows.faults_of`). A network that learns it knows these generators, not the world's sounds.

`make_sound_corpus` works in a child process, because espeak-ng's voices repeat themselves only in a fresh one.
"""

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from speechexp.corpora import sound_clips, sound_rows, sound_speech, spanish_voices
from speechexp.corpora.making import count_rows, make_once, run_child, serve
from speechexp.corpora.sound_classes import SILENCE, SOUND_CLASSES, classes_fingerprint
from speechexp.corpora.sound_clips import SPLITS, Clip

# Raise it when the same recipe gives other bytes for a reason that the other parts of the digest miss.
RECIPE_VERSION = 1

_FOLDER_PREFIX = "sound_mini-"


@dataclass(frozen=True)
class SoundRecipe:
    """What decides the content of a corpus.

    Attributes:
        train_clips: good clips in train; the bad rows come on top.
        validation_clips: the same for validation.
        test_clips: the same for test.
        seed: of the sounds, their mixtures and their order.

    Raises:
        ValueError: when a split has no clips.
    """

    train_clips: int = 1600
    validation_clips: int = 240
    test_clips: int = 400
    seed: int = 1

    def __post_init__(self) -> None:
        for split in SPLITS:
            if self.clips(split) < 1:
                raise ValueError(f"`{split}_clips` must be at least 1, but is {self.clips(split)} instead.")

    def clips(self, split: str) -> int:
        """Return the number of good clips in a split."""
        return int(getattr(self, f"{split}_clips"))

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
            [sound_rows.faults_of(split, self.clips(split)) for split in SPLITS],
            classes_fingerprint(),
            sound_speech.speech_fingerprint(),
            spanish_voices.voices_fingerprint(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def plan_corpus(recipe: SoundRecipe) -> dict[str, list[Clip]]:
    """Decide every clip of a recipe."""
    clips = {split: recipe.clips(split) for split in SPLITS}
    faults = {split: sound_rows.faults_of(split, count) for split, count in clips.items()}
    return sound_clips.plan_clips(clips, faults, recipe.seed)


def sound_corpus_folder(recipe: SoundRecipe, cache_dir: Path) -> Path:
    """Return the folder that `make_sound_corpus` publishes a corpus as; it is complete if it exists."""
    return Path(cache_dir).absolute() / f"{_FOLDER_PREFIX}{recipe.digest()[:12]}"


def make_sound_corpus(
    recipe: SoundRecipe, cache_dir: Path, progress: Callable[[int, int], None] | None = None
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
        run_child("speechexp.corpora.sound_corpus", [arguments, str(partial)], "sound corpus", progress)

    return make_once(sound_corpus_folder(recipe, cache_dir), _FOLDER_PREFIX, fill)


def _write_corpus(recipe: SoundRecipe, folder: Path) -> None:
    plan = plan_corpus(recipe)
    count_rows(sound_rows.write_corpus(plan, folder), sum(len(clips) for clips in plan.values()))
    description = {
        "recipe": asdict(recipe),
        "digest": recipe.digest(),
        "recipe_version": RECIPE_VERSION,
        "espeakng_loader": importlib.metadata.version("espeakng-loader"),
        "classes": {label.mid: label.name for label in SOUND_CLASSES},
        "faults": {split: sound_rows.ids_by_fault(clips) for split, clips in plan.items()},
        "digital_silence": {
            split: [
                clip.video_id
                for clip in clips
                if SILENCE in clip.sounds and clip.floor_dbfs is None and not clip.fault
            ]
            for split, clips in plan.items()
        },
    }
    (folder / "recipe.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _recipe = SoundRecipe(**json.loads(sys.argv[1]))
    sys.exit(serve(lambda folder: _write_corpus(_recipe, folder), Path(sys.argv[2])))
