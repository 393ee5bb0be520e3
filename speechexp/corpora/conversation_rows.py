"""The conversations of a corpus, good and bad, and their files, with the columns of CallHome on the hub."""

import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechexp.corpora.conversation_mixing import Scene, draw_scene, mix
from speechexp.corpora.conversation_turns import Said, converse, draw_partners, turns_of
from speechexp.corpora.shards import write_split
from speechexp.corpora.sound_speech import fit_speech
from speechexp.corpora.sound_waves import Samples, active_power
from speechexp.corpora.spanish_sentences import draw_sentence
from speechexp.corpora.spanish_voices import SAMPLE_RATE, EspeakNg, Voice, draw_voices
from speechexp.prepare import usable_cores
from speechexp.turns import Turn

# A recording is a megabyte or so, and two groups are in memory at a time.
ROWS_PER_GROUP = 8
ROWS_PER_SHARD = 400

BANDS = ("telephone", "wide")

# Of 2, 3 and 4 speakers.
_SPEAKERS_WEIGHTS = {2: 6, 3: 3, 4: 1}
_BABBLE_VOICES, _BABBLE_SECONDS = 6, 6.0

# CallHome's columns, as `datasets` describes them in a parquet file's metadata.
FEATURES: dict[str, dict[str, Any]] = {
    "audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"},
    "timestamps_start": {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "List"},
    "timestamps_end": {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "List"},
    "speakers": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
}

_README = """---
pretty_name: Conversation mini
language:
- es
configs:
- config_name: default
  data_files:
{data_files}
---

# Conversation mini

Conversations in Spanish that never took place: sentences of a small grammar in espeak-ng's voices, which take turns,
interrupt one another and agree meanwhile, in a synthetic room with noise, half of them as a telephone would pass them.
Made by `speechexp.corpora.conversation_corpus`; columns are those of CallHome. No voice of one split is heard in
another. Times are those of the direct sound, exact to the millisecond.

`rttm/SPLIT.rttm` and `uem/SPLIT.uem` say the same for other tools; a recording is called there as its audio's path,
without the ending. Rows that are bad on purpose, so that cleaning has something to find, are in `recipe.json`.

A network that learns this corpus knows espeak-ng's voices, not people's.
"""


@dataclass(frozen=True)
class Conversation:
    """A conversation as it is planned.

    Attributes:
        id: with its split, and one of `BANDS` behind the last underscore.
        voices: of each speaker.
        seconds: how long the recording is.
        scene: how it is recorded.
        seed: of what is said, and when.
        babble: the voices behind, where the scene has them.
        fault: what is bad about its row: see `faults_of`.
    """

    id: str
    voices: tuple[Voice, ...]
    seconds: float
    scene: Scene
    seed: int
    babble: tuple[Voice, ...] = ()
    fault: str | None = None


def faults_of(split: str, conversations: int) -> dict[str, int]:
    """Return how many bad rows of each kind a split of so many good conversations has besides.

    The kinds: `silent` (zeros under a conversation's turns), `truncated` (half a FLAC file), `not_audio` (text).
    """
    if conversations < 10:
        return {}
    return {"silent": 1, "truncated": 1, "not_audio": 1} if split == "train" else {"truncated": 1}


def ids_by_fault(conversations: Sequence[Conversation]) -> dict[str, list[str]]:
    """List the ids of the bad rows by kind."""
    ids: dict[str, list[str]] = {}
    for each in conversations:
        if each.fault is not None:
            ids.setdefault(each.fault, []).append(each.id)
    return ids


def plan_split(split: str, conversations: int, seconds: float, seed: int) -> list[Conversation]:
    """Decide every conversation of a split, the bad ones among the good."""
    rng = random.Random(f"{seed}|{split}")
    faults: list[str | None] = [
        kind for kind, many in faults_of(split, conversations).items() for _ in range(many)
    ]
    rows = [None] * conversations + faults
    rng.shuffle(rows)
    # Each count as often as its weight says, as far as that goes, with and without the telephone.
    kinds = [
        (count, band) for count, weight in _SPEAKERS_WEIGHTS.items() for band in BANDS for _ in range(weight)
    ]
    deck: list[tuple[int, str]] = []
    planned = []
    for number, fault in enumerate(rows):
        if not deck:
            deck = rng.sample(kinds, len(kinds))
        speakers, band = deck.pop()
        voices = draw_partners(split, speakers, rng)
        scene = draw_scene(speakers, band == "telephone", rng)
        planned.append(
            Conversation(
                id=f"{split}_{number:04d}_{band}",
                voices=voices,
                seconds=seconds,
                scene=scene,
                seed=rng.getrandbits(32),
                babble=tuple(draw_voices(split, _BABBLE_VOICES, rng)) if scene.noise == "babble" else (),
                fault=fault,
            )
        )
    return planned


def write_corpus(plan: Mapping[str, Sequence[Conversation]], folder: Path) -> Iterator[Conversation]:
    """Make all conversations and write them to a folder; for a process that has not used espeak-ng before.

    Yields:
        Each conversation, once it is begun.

    Raises:
        OSError: when the folder cannot be written.
    """
    engine, schema = EspeakNg(), _schema()
    turns: dict[str, tuple[Turn, ...]] = {}
    # espeak-ng wants one thread, and one order; the scenes' own seeds make the others free of both.
    with ThreadPoolExecutor(max_workers=min(usable_cores(), 8)) as makers:

        def start(conversation: Conversation) -> Future[dict[str, Any]]:
            rng = random.Random(conversation.seed)
            said = converse(conversation.voices, conversation.seconds, rng, engine.speak)
            babble = _babble(conversation.babble, rng, engine) if conversation.babble else None
            turns[conversation.id] = turns_of(said)
            return makers.submit(_record, conversation, said, turns[conversation.id], babble)

        for split, conversations in plan.items():
            yield from write_split(
                conversations, folder, split, schema, start, makers, ROWS_PER_SHARD, ROWS_PER_GROUP
            )
            _write_references([each for each in conversations if not each.fault], turns, folder, split)
    data_files = "\n".join(f"  - split: {split}\n    path: {split}-*.parquet" for split in plan)
    (folder / "README.md").write_text(_README.format(data_files=data_files), encoding="utf-8")


def _babble(voices: Sequence[Voice], rng: random.Random, engine: EspeakNg) -> Samples:
    """Let some voices talk at once, all the time; the end goes over into the beginning."""
    size = round(_BABBLE_SECONDS * SAMPLE_RATE)
    babble = np.zeros(size, dtype=np.float32)
    for voice in voices:
        place, filled = rng.randrange(size), 0
        while filled < size:
            spoken = fit_speech(engine.speak(draw_sentence(rng).spoken, voice), _BABBLE_SECONDS, SAMPLE_RATE)
            spoken = spoken[: size - filled] / np.float32(np.sqrt(active_power(spoken, SAMPLE_RATE)))
            babble[np.arange(place + filled, place + filled + spoken.size) % size] += spoken
            filled += spoken.size
    return babble


def _record(
    conversation: Conversation, said: Sequence[Said], turns: Sequence[Turn], babble: Samples | None
) -> dict[str, Any]:
    samples = mix(said, conversation.seconds, conversation.scene, babble)
    return {
        "audio": {"bytes": _encode(samples, conversation.fault), "path": f"{conversation.id}.flac"},
        "timestamps_start": [turn.start for turn in turns],
        "timestamps_end": [turn.end for turn in turns],
        "speakers": [turn.speaker for turn in turns],
    }


def _encode(samples: Samples, fault: str | None) -> bytes:
    """Return a row's audio file."""
    if fault == "silent":
        samples = np.zeros_like(samples)
    file = io.BytesIO()
    whole = np.round(samples * 32767).astype(np.int16)
    soundfile.write(file, whole, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    content = file.getvalue()
    if fault == "truncated":
        return content[: len(content) // 2]
    if fault == "not_audio":
        return (b"This is a page of text. " * len(content))[: len(content)]  # random bytes may look like MP3
    return content


def _write_references(
    conversations: Sequence[Conversation], turns: Mapping[str, Sequence[Turn]], folder: Path, split: str
) -> None:
    """Write a split's turns as RTTM and its recordings as UEM: see `speechexp.rttm`."""
    rttm = [
        f"SPEAKER {each.id} 1 {turn.start:.3f} {turn.seconds:.3f} <NA> <NA> {turn.speaker} <NA> <NA>\n"
        for each in conversations
        for turn in turns[each.id]
    ]
    uem = [f"{each.id} 1 0.000 {each.seconds:.3f}\n" for each in conversations]
    for kind, lines in (("rttm", rttm), ("uem", uem)):
        file = folder / kind / f"{split}.{kind}"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(lines), encoding="utf-8")


def _schema() -> Any:
    import pyarrow as pa

    types = {
        "audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "timestamps_start": pa.list_(pa.float64()),
        "timestamps_end": pa.list_(pa.float64()),
        "speakers": pa.list_(pa.string()),
    }
    return pa.schema(
        [(name, types[name]) for name in FEATURES],
        metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
    )
