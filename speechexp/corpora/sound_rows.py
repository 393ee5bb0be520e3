"""The rows of the generated sounds, good and bad, and their files, with the columns of AudioSet on the hub."""

import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from speechexp.corpora.shards import write_split
from speechexp.corpora.sound_clips import Clip, Part
from speechexp.corpora.sound_mixing import make_clip
from speechexp.corpora.spanish_voices import EspeakNg
from speechexp.prepare import usable_cores

ROWS_PER_GROUP = 50
ROWS_PER_SHARD = 2000

# AudioSet's columns, as `datasets` describes them in a parquet file's metadata.
FEATURES: dict[str, dict[str, Any]] = {
    "video_id": {"dtype": "string", "_type": "Value"},
    "audio": {"_type": "Audio"},
    "labels": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
    "human_labels": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
}

_README = """---
pretty_name: Sound mini
task_categories:
- audio-classification
configs:
- config_name: default
  data_files:
{data_files}
---

# Sound mini

Generated sounds under the names that AudioSet has for them: tones, noises, signals of telephones and alarms, and
speech of espeak-ng. Made by `speechexp.corpora.sound_corpus`; columns are those of AudioSet. No mixture of classes
and no voice of one split is heard in another.

Rows that are bad on purpose, so that cleaning has something to find, are listed in `recipe.json`.

A network that learns this corpus knows these generators, not the world's sounds.
"""


def faults_of(split: str, clips: int) -> dict[str, int]:
    """Return how many bad rows of each kind a split of so many good clips has besides.

    The kinds: `silent` (zeros under the name of a sound), `truncated` (half a FLAC file), `not_audio` (text), `empty`
    (no bytes), `no_samples` (a header alone), `not_finite` (NaN in a WAV file of floats), `too_short` (50 ms).
    """
    if clips < 50:
        return {"truncated": 1, "not_finite": 1}
    if split == "train":
        kinds = {"silent": 2, "truncated": 2, "not_audio": 2, "empty": 1, "no_samples": 1}
        return {**kinds, "not_finite": 2, "too_short": 2}
    return {"truncated": 1, "not_audio": 1, "not_finite": 1}


def ids_by_fault(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """List the ids of the bad rows by kind."""
    ids = defaultdict(list)
    for clip in clips:
        if clip.fault is not None:
            ids[clip.fault].append(clip.video_id)
    return dict(ids)


def write_corpus(plan: Mapping[str, Sequence[Clip]], folder: Path) -> Iterator[Clip]:
    """Make all clips and write them to a folder; for a process that has not used espeak-ng before.

    Yields:
        Each clip, once it is begun.

    Raises:
        OSError: when the folder cannot be written.
    """
    engine, schema = EspeakNg(), _schema()
    # espeak-ng wants one thread, and one order; the clips' own seeds make the others free of both.
    with ThreadPoolExecutor(max_workers=min(usable_cores(), 8)) as makers:

        def start(clip: Clip) -> Future[dict[str, Any]]:
            spoken = {part: engine.speak(part.text, part.voice) for part in clip.parts if part.voice}
            return makers.submit(_record, clip, spoken)

        for split, clips in plan.items():
            yield from write_split(
                clips, folder, split, schema, start, makers, ROWS_PER_SHARD, ROWS_PER_GROUP
            )
    data_files = "\n".join(f"  - split: {split}\n    path: {split}-*.parquet" for split in plan)
    (folder / "README.md").write_text(_README.format(data_files=data_files), encoding="utf-8")


def _record(clip: Clip, spoken: Mapping[Part, npt.NDArray[np.int16]]) -> dict[str, Any]:
    return {
        "video_id": clip.video_id,
        "audio": {"bytes": _encode(clip, make_clip(clip, spoken)), "path": f"{clip.video_id}.flac"},
        "labels": [sound.label.mid for sound in clip.sounds],
        "human_labels": [sound.label.name for sound in clip.sounds],
    }


def _encode(clip: Clip, samples: npt.NDArray[np.float32]) -> bytes:
    """Return a row's audio file."""
    if clip.fault == "empty":
        return b""
    if clip.fault == "silent":
        samples = np.zeros_like(samples)
    elif clip.fault == "too_short":
        samples = samples[: clip.rate // 20]
    elif clip.fault == "no_samples":
        return _file(samples[:0], clip.rate, "WAV", "PCM_24")
    elif clip.fault == "not_finite":
        samples = samples.copy()
        samples[len(samples) // 3 : len(samples) // 2] = np.nan
        return _float_wav(samples, clip.rate)
    bits = 24 if clip.fine else 16
    # soundfile takes the 24 highest of 32 bits.
    whole = np.clip(np.round(samples * 2.0 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    content = _file(whole.astype(np.int32) << (32 - bits), clip.rate, "FLAC", "PCM_24")
    if clip.fault == "truncated":
        return content[: len(content) // 2]
    if clip.fault == "not_audio":
        return (b"This is a page of text. " * len(content))[: len(content)]  # random bytes may look like MP3
    return content


def _file(samples: npt.NDArray[Any], rate: int, container: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def _float_wav(samples: npt.NDArray[np.float32], rate: int) -> bytes:
    from scipy.io import wavfile

    # libsndfile would write the time of day into a file of floats.
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def _schema() -> Any:
    import pyarrow as pa

    types = {
        "Value": pa.string(),
        "Audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "List": pa.list_(pa.string()),
    }
    return pa.schema(
        [(name, types[feature["_type"]]) for name, feature in FEATURES.items()],
        metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
    )
