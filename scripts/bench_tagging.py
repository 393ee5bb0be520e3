"""Audio tagging with AST: filter banks against ASTFeatureExtractor, and inference against the loop over clips."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

from _bench import arguments, fail, median, report, say_row, say_table

_EPILOG = """\
Both sides get the same clips, sounds of 16 bits made by seed, and take turns within one process. Both must give the
same numbers, or the benchmark fails.

  filter banks   ours: FilterBank.network_input, in batches of --batch clips of like length; theirs:
                 ASTFeatureExtractor, one call with all clips. Once for --bank-clips clips of 10 s, once for as many
                 of 0.5 to 10 s. On a GPU ours begins with the audio there, and theirs ends with the features there.
  inference      AST as it was published (87 M parameters, 527 classes) with random weights, from a clip to its
                 classes' probabilities. theirs: the extractor and the network for one clip after the other, in
                 32 bits; ours: filter banks and network in batches, in --precision.

The goal is five times the extractor's throughput. Memory that torch frees is kept for both sides as a CPU run of
speechexp keeps it. The ratio of inference on few cores is near 1: the network is all there is.

  python scripts/bench_tagging.py --out tagging.json
  python scripts/bench_tagging.py --device cuda --clips 512 --batch 64 --precision bf16
"""

RATE = 16_000
_GOAL_RATIO = 5.0
_LENGTH = 1024  # frames
_MEAN, _STD = -4.2677393, 4.5689974
_PRECISIONS = {"32": None, "bf16": "bfloat16", "fp16": "float16"}
_ALLOWED = {"32": 1e-3, "bf16": 0.05, "fp16": 0.01}  # between probabilities


def main() -> None:
    parser = arguments(__doc__ or "", _EPILOG)
    parser.add_argument(
        "--bank-clips", type=int, default=64, metavar="N", help="for filter banks (default: %(default)s)"
    )
    parser.add_argument(
        "--clips", type=int, default=8, metavar="N", help="for inference (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="clips in a batch of ours (default: %(default)s)"
    )
    parser.add_argument(
        "--layers", type=int, default=12, metavar="N", help="of the network (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=7,
        metavar="N",
        help="turns of each side with filter banks (default: %(default)s)",
    )
    parser.add_argument(
        "--inference-repeats",
        type=int,
        default=1,
        metavar="N",
        help="turns of inference (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=_PRECISIONS, default="32", help="of our inference (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    numbers = ("bank_clips", "clips", "batch", "layers", "repeats", "inference_repeats", "threads")
    for name in numbers:
        if getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")

    import torch

    from speechexp.hardware import keep_freed_memory

    if chosen.device == "cuda" and not torch.cuda.is_available():
        fail("--device cuda: torch sees no GPU here; leave it out for the CPU")
    keep_freed_memory()
    torch.set_num_threads(chosen.threads)
    figures: dict[str, Any] = {"benchmark": "tagging", "ratio_goal": _GOAL_RATIO}
    figures |= {name: getattr(chosen, name) for name in (*numbers, "device", "precision", "seed")}
    say_row("threads", f"{chosen.threads} of torch, on {chosen.device}")
    with torch.inference_mode():
        _filter_banks(chosen, figures)
        _inference(chosen, figures)
    report(figures, chosen.out)


# ---------------------------------------------------------------------------------------------------- sides


def _filter_banks(chosen: argparse.Namespace, figures: dict[str, Any]) -> None:
    import numpy as np
    import torch
    from transformers import ASTFeatureExtractor

    extractor = ASTFeatureExtractor()
    ours = _Banks(chosen.device)
    rng = np.random.default_rng(chosen.seed)
    sets = {
        "10s": [10.0] * chosen.bank_clips,
        "mixed": sorted(rng.uniform(0.5, 10.0, chosen.bank_clips).tolist()),
    }
    rows = []
    for name, seconds in sets.items():
        clips = _sounds(seconds, chosen.seed)
        batches = [ours.batch(clips[i : i + chosen.batch]) for i in range(0, len(clips), chosen.batch)]

        def banks(batches: list[Any] = batches) -> Any:
            return [ours(*batch) for batch in batches]

        def extract(clips: list[Any] = clips) -> Any:
            found = extractor(clips, sampling_rate=RATE, return_tensors="pt")["input_values"]
            return found.to(chosen.device)

        furthest = float((torch.cat(banks()) - extract()).abs().max())
        if furthest > 1e-3:
            fail(f"the filter banks of {name} differ from the extractor's by up to {furthest:g}")
        figures[f"{name}_furthest"] = furthest
        mine, other = _turns(banks, extract, chosen.repeats, chosen.device)
        _say(figures, name, mine, other, len(clips), sum(seconds))
        rows.append(_row(figures, f"filter banks, {name}", name, f"{_GOAL_RATIO:g}"))
    _table(rows)


def _inference(chosen: argparse.Namespace, figures: dict[str, Any]) -> None:
    import torch
    from transformers import ASTFeatureExtractor

    from speechexp.ast_tagger import AudioTagger
    from speechexp.labels import SoundClass
    from speechexp.tagging import AudioTagging

    torch.manual_seed(chosen.seed)
    task = AudioTagging(mode="multi_label")
    task.adopt([SoundClass(f"Sound {number}") for number in range(527)], "the benchmark")
    tagger = AudioTagger(task, network={"num_hidden_layers": chosen.layers}).eval().to(chosen.device)
    network, extractor, banks = tagger.network, ASTFeatureExtractor(), _Banks(chosen.device)
    clips = _sounds([10.0] * chosen.clips, chosen.seed)
    batches = [banks.batch(clips[i : i + chosen.batch]) for i in range(0, len(clips), chosen.batch)]
    dtype = getattr(torch, _PRECISIONS[chosen.precision] or "float32")
    short = chosen.precision != "32"

    def batched() -> Any:
        found = []
        with torch.autocast(chosen.device, dtype=dtype if short else None, enabled=short):
            for audio, samples in batches:
                found.append(tagger(tagger.features(audio, samples), samples).sigmoid())
        return torch.cat(found).cpu()

    def loop() -> Any:
        found = []
        for clip in clips:
            inputs = extractor(clip, sampling_rate=RATE, return_tensors="pt").to(chosen.device)
            probabilities = network(**inputs).logits.sigmoid()
            probabilities.argmax(dim=-1).item()
            found.append(probabilities.cpu())
        return torch.cat(found)

    # the first turn, of one clip each side, is for what is made once
    extractor(clips[0], sampling_rate=RATE, return_tensors="pt")
    if chosen.device == "cuda":
        batched(), loop()
    seen: dict[str, Any] = {}
    mine, other = _turns(
        lambda: seen.update(ours=batched()),
        lambda: seen.update(theirs=loop()),
        chosen.inference_repeats,
        chosen.device,
    )
    furthest = float((seen["ours"] - seen["theirs"]).abs().max())
    if furthest > _ALLOWED[chosen.precision]:
        fail(f"probabilities differ from those of the loop by up to {furthest:g}")
    figures["inference_furthest"] = furthest
    figures["parameters"] = sum(weight.numel() for weight in network.parameters())
    _say(figures, "inference", mine, other, len(clips), 10.0 * len(clips))
    _table([_row(figures, f"inference, {figures['parameters'] / 1e6:.0f} M", "inference", "")])
    say_row("same", f"probabilities to {furthest:.1e}, filter banks to {figures['10s_furthest']:.1e}")


class _Banks:
    """Our filter banks, and the batches that they take."""

    def __init__(self, device: str) -> None:
        from speechexp.filterbank import FilterBank

        self._banks, self._device = FilterBank().to(device), device

    def batch(self, clips: Sequence[Any]) -> tuple[Any, list[int]]:
        """Return ``(batch, samples)`` float32 and each clip's samples."""
        import torch

        samples = [len(clip) for clip in clips]
        audio = torch.zeros(len(clips), max(samples))
        for row, clip in zip(audio, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        return audio.to(self._device), samples

    def __call__(self, audio: Any, samples: Sequence[int]) -> Any:
        return self._banks.network_input(audio, samples, _LENGTH, _MEAN, _STD)


# ------------------------------------------------------------------------------------------ clips and times


def _sounds(seconds: Sequence[float], seed: int) -> list[Any]:
    """Return clips of 16 bits as ``(samples,)`` float32: a buzz that comes and goes, in noise."""
    import numpy as np

    rng = np.random.default_rng(seed)
    clips = []
    for length in seconds:
        at = np.arange(round(length * RATE)) / RATE
        buzz = np.sign(np.sin(2 * np.pi * rng.uniform(80, 800) * at)) * np.abs(
            np.sin(rng.uniform(1, 20) * at)
        )
        clip = rng.uniform(0.02, 0.4) * buzz + rng.uniform(0.002, 0.1) * rng.standard_normal(len(at))
        clips.append((np.clip(np.round(clip * 32768), -32768, 32767) / 32768).astype(np.float32))
    return clips


def _turns(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, device: str
) -> tuple[list[float], list[float]]:
    """Return the seconds of each turn of either side, one after the other."""
    import torch

    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, times in zip((ours, theirs), seconds, strict=True):
            started = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return seconds


def _say(
    figures: dict[str, Any], name: str, ours: list[float], theirs: list[float], clips: int, audio: float
) -> None:
    for side, values in (("ours", ours), ("theirs", theirs)):
        figures[f"{name}_{side}_seconds"] = median(values)
        figures[f"{name}_{side}_seconds_min"] = min(values)
        figures[f"{name}_{side}_clips_per_second"] = clips / median(values)
        figures[f"{name}_{side}_audio_seconds_per_second"] = audio / median(values)
    figures[f"{name}_ratio"] = median(theirs) / median(ours)
    figures[f"{name}_ratio_of_fastest"] = min(theirs) / min(ours)


def _row(figures: dict[str, Any], title: str, name: str, goal: str) -> list[str]:
    rates = [f"{figures[f'{name}_{side}_clips_per_second']:.2f}" for side in ("ours", "theirs")]
    ratios = [f"{figures[f'{name}_{ratio}']:.2f}" for ratio in ("ratio", "ratio_of_fastest")]
    return [title, *rates, *ratios, goal]


def _table(rows: list[list[str]]) -> None:
    say_table(["clips per second, median", "ours", "theirs", "ours/theirs", "of the fastest", "goal"], rows)


if __name__ == "__main__":
    main()
