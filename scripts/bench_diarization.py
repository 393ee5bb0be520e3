"""Speaker diarization: our pipeline against pyannote's own with its default batches, on one recording."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _bench import arguments, environment, fail, median, report, run_child, say_row, say_table

_EPILOG = """\
Both sides have the same networks, settings and audio, and take turns within one process. Both must give the same
turns, exclusive ones too, or the benchmark fails. The audio is the recording of 30 s that comes with pyannote.audio
(two people, real speech), repeated to --seconds.

  theirs   SpeakerDiarization with the batches that it has by default (1 and 1)
  ours     FastDiarization with the batches that it has for the device

--pretrained is what model.pretrained= takes: local, a folder or an id on the hub; or random, for networks of the sizes
of pyannote's 3.1 with random weights (their scores are noise, so many more people "speak").
The goal is half of the plain pipeline's time. The real-time factor is seconds of work for a second of audio.
Memory is the peak of a child process that does one side once. --long SECONDS also does ours once for so much audio.

  python scripts/bench_diarization.py --out diarization.json
"""

RATE = 16_000
_GOAL_RATIO = 0.5
_STEPS = ("segmentation", "embedding", "clustering", "reconstruction")
_SIDES = ("ours", "theirs")


def main() -> None:
    parser = arguments(__doc__ or "", _EPILOG)
    parser.add_argument("--seconds", type=float, default=120, help="of audio (default: %(default)s)")
    parser.add_argument("--pretrained", default="local", help="local, DIR, ID, random (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="turns (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--long", type=float, metavar="SECONDS", help="memory and time of ours for so much")
    parser.add_argument("--no-memory", action="store_true", help="no child processes")
    parser.add_argument("--child", choices=_SIDES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if min(chosen.seconds, chosen.repeats, chosen.threads) < 1:
        parser.error("--seconds, --repeats and --threads must be at least 1")

    import torch

    from speechexp.hardware import keep_freed_memory

    if chosen.device == "cuda" and not torch.cuda.is_available():
        fail("--device cuda: torch sees no GPU here; leave it out for the CPU")
    keep_freed_memory()
    torch.set_num_threads(chosen.threads)
    sides = {"ours": _ours(chosen), "theirs": _theirs(chosen)}
    audio = _recording(chosen.seconds)
    if chosen.child:
        _, costs = sides[chosen.child](audio)
        print(json.dumps(costs))
        return
    figures: dict[str, Any] = {"benchmark": "diarization", "ratio_goal": _GOAL_RATIO}
    names = ("seconds", "pretrained", "repeats", "threads", "device")
    figures |= {name: getattr(chosen, name) for name in names}
    say_row("threads", f"{chosen.threads} of torch, on {chosen.device}")
    _times(figures, sides, audio, chosen)
    if not chosen.no_memory:
        _memory(figures, chosen)
    report(figures, chosen.out)


Side = Callable[[Any], tuple[Any, dict[str, float]]]


def _times(figures: dict[str, Any], sides: dict[str, Side], audio: Any, chosen: argparse.Namespace) -> None:
    import torch

    for work in sides.values():  # what is made once
        work(audio[: 6 * RATE])
    taken: dict[str, list[dict[str, float]]] = {side: [] for side in _SIDES}
    for _ in range(chosen.repeats):
        found = {}
        for side, work in sides.items():
            started = time.perf_counter()
            found[side], costs = work(audio)
            if chosen.device == "cuda":
                torch.cuda.synchronize()
            taken[side].append({**costs, "all": time.perf_counter() - started})
        if found["ours"] != found["theirs"]:
            fail("the turns of ours are not those of pyannote's pipeline")
    figures["turns"], figures["exclusive_turns"] = (len(turns) for turns in found["ours"])
    rows = []
    for step in (*_STEPS, "all"):
        for side in _SIDES:
            figures[f"{side}_{step}_seconds"] = median([costs[step] for costs in taken[side]])
        ours, theirs = (figures[f"{side}_{step}_seconds"] for side in _SIDES)
        rows.append([step, f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}", ""])
    for side in _SIDES:
        figures[f"{side}_real_time_factor"] = figures[f"{side}_all_seconds"] / chosen.seconds
    figures["ratio"] = figures["ours_all_seconds"] / figures["theirs_all_seconds"]
    rows[-1][-1] = f"{_GOAL_RATIO:g}"
    factors = [f"{figures[f'{side}_real_time_factor']:.3f}" for side in _SIDES]
    rows.append(["real-time factor", *factors, f"{figures['ratio']:.2f}", f"{_GOAL_RATIO:g}"])
    say_table(["seconds, median", "ours", "theirs", "ours/theirs", "goal"], rows)
    say_row("same", f"{figures['turns']} turns, {figures['exclusive_turns']} exclusive")


def _memory(figures: dict[str, Any], chosen: argparse.Namespace) -> None:
    runs = [("ours", "ours", chosen.seconds), ("theirs", "theirs", chosen.seconds)]
    if chosen.long:
        runs.append(("ours_long", "ours", chosen.long))
    rows = []
    with tempfile.TemporaryDirectory(prefix="speechexp-bench-") as folder:
        for name, side, seconds in runs:
            options = ["--child", side, "--seconds", f"{seconds:g}", "--threads", str(chosen.threads)]
            source = (
                str(Path(chosen.pretrained).resolve())
                if Path(chosen.pretrained).exists()
                else chosen.pretrained
            )
            options += ["--device", chosen.device, "--pretrained", source]
            command = [sys.executable, str(Path(__file__).resolve()), *options]
            ended = run_child(command, environment(chosen.threads), Path(folder))
            figures[f"{name}_peak_bytes"] = ended.peak_bytes
            figures[f"{name}_child_seconds"] = ended.seconds
            rows.append([name, f"{seconds:g}", f"{ended.peak_bytes / 2**20:.0f}", f"{ended.seconds:.1f}"])
    say_table(["a process", "s of audio", "peak MiB", "s"], rows)


# ---------------------------------------------------------------------------------------------------- sides


def _ours(chosen: argparse.Namespace) -> Side:
    import torch

    from speechexp.fast_diarization import FastDiarization, batch_sizes

    pipeline = _pipeline(chosen)
    fast = FastDiarization(pipeline, *batch_sizes(torch.device(chosen.device)))

    def work(audio: Any) -> tuple[Any, dict[str, float]]:
        found = fast(audio)
        both = (found.turns, found.exclusive)
        return [[(turn.start, turn.end, turn.speaker) for turn in turns] for turns in both], found.costs

    return work


def _theirs(chosen: argparse.Namespace) -> Side:
    pipeline = _pipeline(chosen)

    def work(audio: Any) -> tuple[Any, dict[str, float]]:
        # The hook is told of each step's end; of the clustering's, by the next one's beginning.
        ends = {"start": time.perf_counter()}

        def hook(name: str, artifact: Any = None, **_: Any) -> None:
            if artifact is not None:
                ends[name] = time.perf_counter()

        def reconstruct(*arguments: Any) -> Any:
            ends.setdefault("clustering", time.perf_counter())
            return type(pipeline).reconstruct(pipeline, *arguments)

        pipeline.reconstruct = reconstruct
        found = pipeline({"waveform": audio[None], "sample_rate": RATE}, hook=hook)
        end = time.perf_counter()
        at = [ends["start"]]
        for name in ("segmentation", "embeddings", "clustering"):
            at.append(ends.get(name, end))
        seconds = [later - earlier for earlier, later in zip(at, [*at[1:], end], strict=True)]
        both = (found.speaker_diarization, found.exclusive_speaker_diarization)
        turns = [
            sorted(
                (segment.start, segment.end, name) for segment, _, name in one.itertracks(yield_label=True)
            )
            for one in both
        ]
        return turns, dict(zip(_STEPS, seconds, strict=True))

    return work


def _pipeline(chosen: argparse.Namespace) -> Any:
    import torch

    from speechexp.errors import UserError
    from speechexp.prepare import default_cache_dir
    from speechexp.pyannote_models import open_pipeline

    if chosen.pretrained == "random":
        pipeline = _random_pipeline()
    else:
        try:
            pipeline = open_pipeline(chosen.pretrained, None, default_cache_dir(), lambda *_: None)
        except UserError as error:
            fail(str(error))
    pipeline.segmentation_batch_size = pipeline.embedding_batch_size = 1
    return pipeline.to(torch.device(chosen.device))


def _random_pipeline() -> Any:
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34
    from pyannote.audio.models.segmentation import PyanNet

    from speechexp.pyannote_models import LOCAL_OPTIONS, LOCAL_PARAMETERS, make_pipeline, set_parameters
    from speechexp.pyannote_plda import neutral_plda

    torch.manual_seed(1)
    segmentation: Any = PyanNet(lstm={"num_layers": 4})
    segmentation.specifications = Specifications(
        problem=Problem.MULTI_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=5.0,
        classes=["a", "b", "c"],
        permutation_invariant=True,
    )
    segmentation.build()
    embedding: Any = WeSpeakerResNet34().eval()
    pipeline = make_pipeline(segmentation.eval(), embedding, neutral_plda(embedding.dimension), LOCAL_OPTIONS)
    set_parameters(pipeline, LOCAL_PARAMETERS)
    return pipeline


def _recording(seconds: float) -> Any:
    """Return the recording, repeated to a length, ``(samples,)``."""
    import pyannote.audio
    import torch

    from speechexp.audio import decode

    file = Path(pyannote.audio.__file__).parent / "sample" / "sample.wav"
    audio = torch.from_numpy(decode(file, RATE)).float() / 2**15
    samples = round(seconds * RATE)
    return audio.repeat(-(-samples // len(audio)))[:samples]


if __name__ == "__main__":
    main()
