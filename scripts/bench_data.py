"""Measure the data side: batches out of a manifest of 10,000 hours, and what preparing costs beside the recipe's map.

Each part runs in a child process. For the manifest, 3 million clips are written into a cache of ours as any data set
is, the audio being a hole in a sparse file (it reads as zeros), and loaded as a run loads it. For preparing, both
sides read the same parquet file in FLEURS's schema on one core.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _bench import (
    WORDS,
    arguments,
    environment,
    median,
    report,
    run_child,
    say_row,
    say_table,
    scratch_folder,
)

RATE = 16_000
_BLOCK = 1 << 16
_EPILOG = """
goals: first batch within 10 s, under 1.5 GB resident, under 1 ms a batch; preparing at least 3 x the map, per core.
Sparse files of 1.2 TB are needed for the default 10,000 hours: ext4, xfs and btrfs have them; they take no room.
"""


def main() -> None:
    parser = arguments(__doc__ or "", _EPILOG, scratch=True)
    parser.add_argument(
        "--hours", type=float, default=10_000, help="of the simulated manifest (default: %(default)s)"
    )
    parser.add_argument("--clips", type=int, default=3_000_000, help="in it (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=2_000, help="to time (default: %(default)s)")
    parser.add_argument(
        "--batch-seconds", type=float, default=48.0, help="data.batch_seconds (default: %(default)s)"
    )
    parser.add_argument(
        "--prepare-clips", type=int, default=1_500, help="to prepare on both sides (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of preparing (default: %(default)s)")
    chosen = parser.parse_args()
    with scratch_folder(chosen.scratch) as folder:
        figures = _manifest(chosen, folder)
        for kind in ("WAV", "FLAC"):
            figures |= _prepare(chosen, folder, kind)
    report(figures, chosen.out)


# ------------------------------------------------------------------------------------------------- manifest


def _manifest(chosen: Any, folder: Path) -> dict[str, Any]:
    say_row(
        "manifest",
        f"{chosen.clips:,} clips, {chosen.hours:,.0f} hours; batches of {chosen.batch_seconds:g} s",
    )
    job = {key: getattr(chosen, key) for key in ("hours", "clips", "batches", "batch_seconds")}
    job["cache"] = str(folder / "cache")
    for role in ("write", "clean", "load"):
        _child(role, job, folder)
    found = {
        key: value
        for role in ("clean", "load")
        for key, value in json.loads((folder / f"{role}.json").read_text()).items()
    }
    rows = [
        ["imports (torch, Lightning, pyarrow)", f"{found['imports_seconds']:.2f} s", ""],
        ["labels cleaned, once", f"{found['labels_seconds']:.1f} s", ""],
        ["manifest opened and cleaned", f"{found['load_seconds']:.2f} s", ""],
        ["vocabulary, labels against frames", f"{found['labels_check_seconds']:.2f} s", ""],
        ["batches planned, first one loaded", f"{found['plan_seconds']:.2f} s", ""],
        ["load to first batch", f"{found['first_batch_seconds']:.2f} s", "10 s"],
        ["process start to first batch", f"{found['process_seconds']:.2f} s", ""],
        ["resident at the first batch", f"{found['resident_first_gb']:.2f} GB", "1.5 GB"],
        [f"resident after {job['batches']:,} batches", f"{found['resident_gb']:.2f} GB", "1.5 GB"],
        ["resident at most", f"{found['resident_peak_gb']:.2f} GB", "1.5 GB"],
        ["of it before loading", f"{found['resident_before_gb']:.2f} GB", ""],
        ["of it pages of files, libraries too", f"{found['resident_file_gb']:.2f} GB", ""],
        ["drawing a batch, median", f"{found['draw_ms']:.3f} ms", "1 ms"],
        ["drawn, read and padded, median", f"{found['batch_ms']:.2f} ms", ""],
        ["the same, read the first time", f"{found['batch_first_ms']:.2f} ms", ""],
    ]
    say_table(["manifest", "measured", "goal"], rows)
    return {f"manifest_{key}": value for key, value in {**job, **found}.items() if key != "cache"}


def _simulated(job: dict[str, Any]) -> Any:
    """Return the data set whose cache entry is written here."""
    from speechexp.data import AudioData
    from speechexp.recognition import SpeechRecognition

    class Simulated(AudioData):
        """A manifest without sound."""

        def describe(self) -> str:
            return "a simulated manifest"

        def open_source(self, progress: Any) -> tuple[str, int]:
            return f"simulated|{job['clips']}|{job['hours']}", job["clips"]

        def rows(self, start: int = 0) -> Iterator[Any]:
            raise RuntimeError("the entry that was written is not the one that is looked for")

    return Simulated(SpeechRecognition(), cache_dir=job["cache"], batch_seconds=job["batch_seconds"])


def write_manifest(job: dict[str, Any]) -> dict[str, Any]:
    """Write the cache entry: a manifest, and audio that takes no room."""
    import pyarrow as pa

    from speechexp.manifest import manifest_schema
    from speechexp.prepare import entry_folder, write_summary

    data = _simulated(job)
    source, clips = data.open_source(None)
    folder = entry_folder(source, RATE, data.cache_dir)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    lengths = generator.lognormal(np.log(job["hours"] * 3600 / clips) - 0.08, 0.4, clips).clip(0.5, 19.9)
    samples = (lengths * RATE).astype(np.int64)
    texts = [" ".join(generator.choice(WORDS, 25)) for _ in range(1 << 14)]
    with (
        pa.OSFile(str(folder / "manifest.arrow"), "wb") as file,
        pa.ipc.new_file(file, manifest_schema()) as out,
    ):
        for start in range(0, clips, _BLOCK):
            numbers = range(start, min(start + _BLOCK, clips))
            speakers = [[("speaker", f"s{number % 2000}")] for number in numbers]
            columns = {
                "id": [f"corpus/recording-{number:08d}.flac" for number in numbers],
                "split": np.where(np.arange(len(numbers)) % 500 == 0, 1, 0).astype(np.int8),
                "reference": [texts[(number * 7919) % len(texts)] for number in numbers],
                "attributes": pa.array(speakers, pa.map_(pa.string(), pa.string())),
                "num_samples": samples[start : start + len(numbers)],
                "peak": np.full(len(numbers), 0.5, np.float32),
                "digest": [number.to_bytes(8, "big") for number in numbers],
            }
            out.write_batch(pa.record_batch(columns, schema=manifest_schema()))
    with (folder / "audio.int16").open("wb") as file:
        file.truncate(2 * int(samples.sum()))
    write_summary(folder, source, RATE, "simulated", clips)
    return {"hours": float(samples.sum()) / RATE / 3600}


def clean_labels(job: dict[str, Any]) -> dict[str, Any]:
    """Load it for the first time, which cleans its labels."""
    clock = time.perf_counter()
    _simulated(job).load(_quiet)
    return {"labels_seconds": time.perf_counter() - clock}


def load_manifest(job: dict[str, Any]) -> dict[str, Any]:
    """Load it as a run does, and draw batches."""
    process = time.time() - _process_age()
    import torch  # noqa: F401

    data = _simulated(job)
    import pyarrow.compute  # noqa: F401

    imports = time.time() - process
    before = _resident()
    times = [time.perf_counter()]
    data.load(_quiet)
    times.append(time.perf_counter())
    data.task.learn_labels(data.symbols("train"))
    data.drop_infeasible(lambda samples: samples // 320)
    times.append(time.perf_counter())
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    times.append(time.perf_counter())
    at_first = _resident()
    loading = []
    for _ in range(job["batches"]):
        clock = time.perf_counter()
        next(batches)
        loading.append(1000 * (time.perf_counter() - clock))
    again = []
    batches = iter(loader)  # the same ones: what they hold is in the kernel's cache now
    next(batches)
    for _ in range(job["batches"]):
        clock = time.perf_counter()
        next(batches)
        again.append(1000 * (time.perf_counter() - clock))
    drawing = []
    drawn = iter(loader.batch_sampler)
    next(drawn)  # shuffles the epoch
    for _ in range(job["batches"]):
        clock = time.perf_counter()
        next(drawn)
        drawing.append(1000 * (time.perf_counter() - clock))
    opened, checked, planned = np.diff(times).tolist()
    return {
        "imports_seconds": imports,
        "load_seconds": opened,
        "labels_check_seconds": checked,
        "plan_seconds": planned,
        "first_batch_seconds": times[-1] - times[0],
        "process_seconds": imports + times[-1] - times[0],
        "resident_first_gb": at_first["VmRSS"],
        "resident_gb": _resident()["VmRSS"],
        "resident_before_gb": before["VmRSS"],
        "resident_file_gb": _resident()["RssFile"],
        "resident_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "clips_in_training": data.count("train"),
        "batches_in_an_epoch": len(loader),
        "draw_ms": median(drawing),
        "batch_ms": median(again),
        "batch_first_ms": median(loading),
    }


def _quiet(*_: Any) -> None:
    pass


def _process_age() -> float:
    """Return the seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def _resident() -> dict[str, float]:
    """Return this process's resident memory, in GB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 / 1e9 for name in ("VmRSS", "RssFile")}


# ------------------------------------------------------------------------------------------------ preparing


def _prepare(chosen: Any, folder: Path, kind: str) -> dict[str, Any]:
    job = {"parquet": str(folder / kind), "format": kind, "clips": chosen.prepare_clips}
    job["core"] = min(os.sched_getaffinity(0))
    _child("write_clips", job, folder)
    written = json.loads((folder / "write_clips.json").read_text())
    say_row(
        "preparing",
        f"{chosen.prepare_clips:,} clips, {written['hours']:.2f} hours of {kind} in parquet, one core",
    )
    found: dict[str, list[dict[str, float]]] = {"prepare": [], "map": []}
    for repeat in range(chosen.repeats):
        for role, each in found.items():
            job["cache"] = str(folder / f"{kind}-{role}{repeat}")
            _child(role, job, folder)
            each.append(json.loads((folder / f"{role}.json").read_text()))
    figures: dict[str, Any] = {"prepare_hours": written["hours"]}
    rows = []
    for role, name in (("prepare", "stage=prepare"), ("map", "the recipe's map")):
        core, wall, size = (
            median([each[key] for each in found[role]]) for key in ("core_seconds", "wall_seconds", "gb")
        )
        rate = written["hours"] * 3600 / core
        rows.append([name, f"{core:.2f}", f"{wall:.2f}", f"{rate:,.0f}", f"{size:.2f} GB"])
        figures |= {f"{role}_core_seconds": core, f"{role}_wall_seconds": wall, f"{role}_gb": size}
        figures |= {f"{role}_audio_hours_per_hour_and_core": rate, f"{role}_all": found[role]}
    ratio = figures["map_core_seconds"] / figures["prepare_core_seconds"]
    say_table(["on one core", "core s", "wall s", "audio h/h", "on disk"], rows)
    say_row("ratio", f"{ratio:.1f} by core seconds (goal: at least 3)")
    return {f"{kind.lower()}_{key}": value for key, value in {**figures, "prepare_ratio": ratio}.items()}


def write_clips(job: dict[str, Any]) -> dict[str, Any]:
    """Write noise with FLEURS's lengths as parquet in its schema: mono at 16 kHz, with a text each."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile

    folder = Path(job["parquet"])
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    total, rows = 0, []
    for number in range(job["clips"]):
        samples = int(np.clip(generator.lognormal(np.log(12.0), 0.3), 5, 20) * RATE)
        total += samples
        speech = np.cumsum(generator.standard_normal(samples)) % 1.0 * np.sin(np.arange(samples) / 4000) * 0.3
        file = io.BytesIO()
        soundfile.write(file, speech, RATE, format=job["format"], subtype="PCM_16")
        rows.append(
            {
                "id": number,
                "path": f"{number}.audio",
                "audio": {"bytes": file.getvalue(), "path": f"{number}.audio"},
                "transcription": " ".join(generator.choice(WORDS, 25)).capitalize() + ".",
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000.parquet", row_group_size=100)
    return {"hours": total / RATE / 3600}


def prepare_ours(job: dict[str, Any]) -> dict[str, Any]:
    """Prepare the clips as a run does."""
    from speechexp.corpora.fleurs import Fleurs
    from speechexp.recognition import SpeechRecognition

    data = Fleurs(SpeechRecognition(), path=job["parquet"], cache_dir=job["cache"])
    import pandas  # noqa: F401  (which pyarrow imports; datasets has done so before the map)
    import pyarrow.parquet  # noqa: F401

    clock = _OneCore(job["core"])
    data.load(_quiet)
    assert data.count("train") == job["clips"]
    return {**clock.read(), "gb": _gigabytes(Path(job["cache"]))}


def prepare_theirs(job: dict[str, Any]) -> dict[str, Any]:
    """Prepare them as the recipe does: clean the texts, filter silent clips, extract features and label ids.

    It opens the audio twice, in its filter and in its map, by datasets' audio column; that needs FFmpeg's libraries,
    so soundfile stands in for it. The text is cleaned by our normaliser, since that is not what is compared.
    """
    import io

    import datasets
    import soundfile
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

    from speechexp.text import Vocabulary, normalise

    datasets.disable_progress_bars()
    folder = Path(job["cache"])
    folder.mkdir(parents=True)
    Vocabulary.from_texts(WORDS).save(folder / "vocab.json")
    processor = Wav2Vec2Processor(
        feature_extractor=Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True),
        tokenizer=Wav2Vec2CTCTokenizer(
            str(folder / "vocab.json"), bos_token=None, eos_token=None, unk_token="<unk>", pad_token="<pad>"
        ),
    )
    clock = _OneCore(job["core"])
    rows = datasets.load_dataset(
        "parquet", data_files=f"{job['parquet']}/train-*.parquet", split="train", cache_dir=str(folder)
    ).cast_column("audio", datasets.Audio(decode=False))

    def read(row: dict[str, Any]) -> Any:
        return soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0]

    def features_of(row: dict[str, Any]) -> dict[str, Any]:
        features = processor(read(row), sampling_rate=RATE).input_values[0]
        return {"input_values": features, "labels": processor.tokenizer(row["transcription"]).input_ids}

    cleaned = rows.map(lambda row: {"transcription": normalise(row["transcription"], "spanish")})
    loud = cleaned.filter(lambda row: np.abs(read(row)).max() > 1e-4)
    features = loud.map(features_of, remove_columns=loud.column_names)
    assert len(features) == job["clips"]
    return {**clock.read(), "gb": _gigabytes(folder)}


class _OneCore:
    """Keeps the process on one core and tells the time since then: its own, and the wall's."""

    def __init__(self, core: int) -> None:
        os.sched_setaffinity(0, {core})
        self._began = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, float]:
        """Return seconds."""
        return {
            "core_seconds": time.process_time() - self._began[0],
            "wall_seconds": time.perf_counter() - self._began[1],
        }


def _gigabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9


# ------------------------------------------------------------------------------------------------- children

_ROLES = {
    "write": write_manifest,
    "clean": clean_labels,
    "load": load_manifest,
    "write_clips": write_clips,
    "prepare": prepare_ours,
    "map": prepare_theirs,
}


def _child(role: str, job: dict[str, Any], folder: Path) -> None:
    """Run a part in a process of its own; it leaves ``<role>.json``."""
    command = [sys.executable, str(Path(__file__).resolve()), "--role", role, json.dumps(job)]
    run_child(command, environment(threads=1), folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        role, job = sys.argv[2:4]
        result = _ROLES[role](json.loads(job))
        Path(f"{role}.json").write_text(json.dumps(result))
    else:
        main()
