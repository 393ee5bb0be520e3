"""The rows of the Spanish mini corpus, good and bad, and their files, which are laid out as FLEURS's are."""

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from speechexp.corpora.shards import write_split
from speechexp.corpora.spanish_sentences import Sentence, draw_sentences
from speechexp.corpora.spanish_voices import (
    GENDERS,
    SAMPLE_RATE,
    EspeakNg,
    Voice,
    draw_voices,
    finish,
    to_wav,
)

CONFIG_NAME = "es_mini"
ROWS_PER_GROUP = 200
ROWS_PER_SHARD = 4000

_LANGUAGE_GROUPS = (
    "western_european_we",
    "eastern_european_ee",
    "central_asia_middle_north_african_cmn",
    "sub_saharan_african_ssa",
    "south_asian_sa",
    "south_east_asian_sea",
    "chinese_japanase_korean_cjk",
)

# FLEURS's columns, as `datasets` describes them in a parquet file's metadata. `lang_id` has one class here.
FEATURES: dict[str, dict[str, Any]] = {
    "id": {"dtype": "int32", "_type": "Value"},
    "num_samples": {"dtype": "int32", "_type": "Value"},
    "path": {"dtype": "string", "_type": "Value"},
    "audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"},
    "transcription": {"dtype": "string", "_type": "Value"},
    "raw_transcription": {"dtype": "string", "_type": "Value"},
    "gender": {"names": list(GENDERS), "_type": "ClassLabel"},
    "lang_id": {"names": [CONFIG_NAME], "_type": "ClassLabel"},
    "language": {"dtype": "string", "_type": "Value"},
    "lang_group_id": {"names": list(_LANGUAGE_GROUPS), "_type": "ClassLabel"},
}

_README = """---
pretty_name: Spanish mini
language:
- es
task_categories:
- automatic-speech-recognition
configs:
- config_name: {config}
  data_files:
{data_files}
---

# Spanish mini

Synthetic Spanish speech: sentences of a small grammar, spoken by espeak-ng. Made by
`speechexp.corpora.spanish_corpus`; columns and layout are those of FLEURS. The sentences and the voices of one
split are heard in no other. `path` names the voice: `<language>_<variant>_<row>.wav`.

Rows that are bad on purpose, so that cleaning has something to find, are listed in `recipe.json`.

A network that learns this corpus understands this synthesiser, not people.
"""


@dataclass(frozen=True)
class Row:
    """One row before it is spoken.

    Attributes:
        path: name of its audio file, `<language>_<variant>_<row>.wav`, unique in the corpus.
        sentence_id: the same for all readings of a sentence.
        sentence: the text.
        voice: who reads it, and how.
        fault: a kind that `faults_of` lists, or None for a good row.
    """

    path: str
    sentence_id: int
    sentence: Sentence
    voice: Voice
    fault: str | None = None


def faults_of(split: str, utterances: int) -> dict[str, int]:
    """Return how many bad rows of each kind a split of so many good utterances has besides.

    The kinds: `silent` (zeros), `truncated` (half of what its header claims), `not_audio` (random bytes),
    `empty` (no bytes), `no_text` (nothing or only punctuation to transcribe), `too_short` (50 ms).
    """
    if utterances < 50:
        return {"silent": 1, "truncated": 1}
    if split == "train":
        return {"silent": 6, "truncated": 3, "not_audio": 2, "empty": 1, "no_text": 2, "too_short": 2}
    return {"silent": 2, "truncated": 1}


def plan_corpus(utterances: Mapping[str, int], seed: int) -> dict[str, list[Row]]:
    """Decide every row, in the order in which they are spoken and stored.

    Args:
        utterances: good utterances by split.
        seed: of sentences, voices and the places of the bad rows.

    Raises:
        ValueError: when the grammar has too few sentences.
    """
    plan: dict[str, list[Row]] = {}
    ids: dict[str, int] = {}
    num_rows = 0
    for split, count in utterances.items():
        rng = random.Random(f"{seed}/{split}")
        faults = [kind for kind, times in faults_of(split, count).items() for _ in range(times)]
        total = count + len(faults)
        places = dict(zip(rng.sample(range(total), len(faults)), faults, strict=True))
        sentences = draw_sentences(split, total, rng)
        voices = draw_voices(split, total, rng)
        plan[split] = rows = []
        for place, (sentence, voice) in enumerate(zip(sentences, voices, strict=True)):
            fault = places.get(place)
            key = sentence.transcription
            if fault == "no_text":
                text = "" if "" not in ids else "..."
                sentence, key = Sentence(text, sentence.spoken, text), text
            path = f"{voice.language}_{voice.variant}_{num_rows:06d}.wav"
            rows.append(Row(path, ids.setdefault(key, len(ids)), sentence, voice, fault))
            num_rows += 1
    return plan


def paths_by_fault(rows: Sequence[Row]) -> dict[str, list[str]]:
    """List the paths of the bad rows by kind."""
    paths = defaultdict(list)
    for row in rows:
        if row.fault is not None:
            paths[row.fault].append(row.path)
    return dict(paths)


def write_corpus(plan: Mapping[str, Sequence[Row]], folder: Path) -> Iterator[Row]:
    """Speak all rows and write them to a folder; for a process that has not used espeak-ng before.

    Yields:
        Each row, once it is spoken.

    Raises:
        OSError: when the folder cannot be written.
    """
    data_folder = folder / "parquet-data" / CONFIG_NAME
    data_folder.mkdir(parents=True)
    engine, schema = EspeakNg(), _schema()
    # espeak-ng wants one thread; resampling and writing get another.
    with ThreadPoolExecutor(max_workers=1) as encoder:

        def start(row: Row) -> Future[dict[str, Any]]:
            return encoder.submit(_record, row, engine.speak(row.sentence.spoken, row.voice))

        for split, rows in plan.items():
            yield from write_split(
                rows, data_folder, split, schema, start, encoder, ROWS_PER_SHARD, ROWS_PER_GROUP
            )
    data_files = "\n".join(
        f"  - split: {split}\n    path: parquet-data/{CONFIG_NAME}/{split}-*.parquet" for split in plan
    )
    text = _README.format(config=CONFIG_NAME, data_files=data_files)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _encode(row: Row, spoken: npt.NDArray[np.int16]) -> tuple[bytes, int]:
    """Return a row's audio file and the number of samples that the row says it has."""
    samples = finish(spoken, row.voice.peak)
    if row.fault == "silent":
        samples = np.zeros_like(samples)
    elif row.fault == "too_short":
        middle = samples.size // 2
        samples = samples[middle : middle + SAMPLE_RATE // 20]
    wav = to_wav(samples)
    if row.fault == "truncated":
        wav = wav[: len(wav) // 2]
    elif row.fault == "not_audio":
        wav = random.Random(row.path).randbytes(len(wav))
    elif row.fault == "empty":
        return b"", 0
    return wav, samples.size


def _record(row: Row, spoken: npt.NDArray[np.int16]) -> dict[str, Any]:
    wav, num_samples = _encode(row, spoken)
    return {
        "id": row.sentence_id,
        "num_samples": num_samples,
        "path": row.path,
        "audio": {"bytes": wav, "path": row.path},
        "transcription": row.sentence.transcription,
        "raw_transcription": row.sentence.raw,
        "gender": GENDERS.index(row.voice.gender),
        "lang_id": 0,
        "language": "Spanish",
        "lang_group_id": 0,
    }


def _schema() -> Any:
    import pyarrow as pa

    types = {
        "int32": pa.int32(),
        "string": pa.string(),
        "Audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "ClassLabel": pa.int64(),
    }
    return pa.schema(
        [(name, types[feature.get("dtype", feature["_type"])]) for name, feature in FEATURES.items()],
        metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
    )
