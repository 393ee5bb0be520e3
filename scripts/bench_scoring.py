"""Decoding and scoring: ours against Wav2Vec2CTCTokenizer.batch_decode with torchmetrics."""

import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _bench import WORDS, arguments, fail, median, report, say_row, say_table

_EPILOG = """\
Both sides get the same logits, (clips, frames, vocabulary), and the same references, made by seed: some 25 words a
clip, a tenth of them written wrong, each letter held for some frames with blanks between. Both must give the same
texts, WER and CER, or the benchmark fails. The sides take turns within one process.

  argmax   frame ids of the logits: torch on ours, numpy on theirs, as the reference recipe has it
  decode   from frame ids to texts: Vocabulary.decode_ctc; Wav2Vec2CTCTokenizer.batch_decode
  score    WER and CER: speechexp's ErrorRate, in batches of 8 as a validation has them; torchmetrics' WordErrorRate
           and CharErrorRate, all clips at once

The ratio that has a goal is decode and score together, without argmax, theirs over ours; the one with argmax stands
beside it. ours_transcribe is SpeechRecognizer.transcribe, which is argmax and decode together, and ours_records what
a test does besides: a record for each clip, and the rates with their 95 % interval. Neither is in a ratio.

  python scripts/bench_scoring.py --repeats 7 --out scoring.json
"""

_GOAL_RATIO = 10.0
_EVALUATION_BATCH = 8  # 96 s of audio, clips of 12 s


@dataclass(frozen=True)
class Side:
    """What one side does: logits to ids, ids to texts, texts to WER and CER."""

    argmax: Callable[[], Any]
    decode: Callable[[Any], list[str]]
    score: Callable[[list[str]], tuple[float, float]]


def main() -> None:
    parser = arguments(__doc__ or "", _EPILOG)
    parser.add_argument("--clips", type=int, default=900, help="(default 900)")
    parser.add_argument("--frames", type=int, default=600, help="of each clip (default 600)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each side (default 5)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default 1)")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    if min(chosen.clips, chosen.repeats, chosen.threads) < 1:
        parser.error("--clips, --repeats and --threads must be at least 1")
    if chosen.frames < 50:
        parser.error("--frames must be at least 50: a clip needs a frame for each letter")

    import torch

    torch.set_num_threads(chosen.threads)
    references, logits, vocabulary = _material(chosen.clips, chosen.frames, chosen.seed)
    ours, transcribe, records = _ours(references, logits, vocabulary)
    theirs = _theirs(references, logits.numpy(), vocabulary)
    _compare(ours, theirs, transcribe)

    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    for _ in range(chosen.repeats):
        for name, side in (("ours", ours), ("theirs", theirs)):
            ids = timed(f"{name}_argmax", side.argmax)
            texts = timed(f"{name}_decode", partial(side.decode, ids))
            rates = timed(f"{name}_score", partial(side.score, texts))
        timed("ours_transcribe", transcribe)
        timed("ours_records", partial(records, texts))

    figures: dict[str, Any] = {
        "benchmark": "scoring",
        "clips": chosen.clips,
        "frames": chosen.frames,
        "repeats": chosen.repeats,
        "threads": chosen.threads,
        "vocabulary": len(vocabulary),
        "words": sum(len(reference.split()) for reference in references),
        "wer": rates[0],
        "cer": rates[1],
    }
    for name in ("ours", "theirs"):
        parts = [seconds[f"{name}_{part}"] for part in ("argmax", "decode", "score")]
        seconds[f"{name}_decode_and_score"] = [sum(turn) for turn in zip(*parts[1:], strict=True)]
        seconds[f"{name}_with_argmax"] = [sum(turn) for turn in zip(*parts, strict=True)]
    figures |= {f"{name}_seconds": median(values) for name, values in sorted(seconds.items())}
    rows = []
    for part in ("argmax", "decode", "score", "decode_and_score", "with_argmax"):
        mine, other = (figures[f"{name}_{part}_seconds"] for name in ("ours", "theirs"))
        ratio = "ratio" if part == "decode_and_score" else f"ratio_{part}"
        figures[ratio] = other / mine
        goal = f"{_GOAL_RATIO:g}" if ratio == "ratio" else ""
        rows.append([part.replace("_", " "), f"{mine:.4f}", f"{other:.4f}", f"{other / mine:.1f}", goal])
    figures["ratio_goal"] = _GOAL_RATIO
    for part in ("transcribe", "records"):
        rows.append([part, f"{figures[f'ours_{part}_seconds']:.4f}", "", "", ""])
    say_table(["seconds, median", "ours", "theirs", "theirs/ours", "goal"], rows)
    say_row("same", f"texts, WER {rates[0]:.4f} and CER {rates[1]:.4f} on both sides")
    report(figures, chosen.out)


# ------------------------------------------------------------------------------------------------- material


def _material(clips: int, frames: int, seed: int) -> tuple[list[str], Any, Any]:
    """Return references, ``(clips, frames, vocabulary)`` float32 logits, and the vocabulary."""
    import numpy as np
    import torch

    from speechexp.text import Vocabulary

    rng = random.Random(seed)
    limit = frames // 3  # letters: a frame each, and as much again for blanks and for holding them
    references, spoken = [], []
    for _ in range(clips):
        words = rng.choices(WORDS, k=min(max(round(rng.gauss(25, 7)), 5), 50))
        while len(" ".join(words)) > limit:
            words.pop()
        references.append(" ".join(words))
        heard = " ".join(_misheard(word, rng) for word in words).split()
        spoken.append(" ".join(heard)[:limit].strip())
    vocabulary = Vocabulary.from_texts([*references, *spoken])
    ids = np.array([_frame_ids(vocabulary.encode(text), frames, rng, vocabulary.blank_id) for text in spoken])
    noise = np.random.default_rng(seed).standard_normal((clips, frames, len(vocabulary)), dtype=np.float32)
    np.put_along_axis(noise, ids[..., None], 20.0, axis=-1)  # noise never comes near it
    return references, torch.from_numpy(noise), vocabulary


def _misheard(word: str, rng: random.Random) -> str:
    """Return a word as a network would write it: mostly right."""
    kind = rng.random()
    if kind > 0.1:
        return word
    if kind > 0.03:  # a letter of it
        place = rng.randrange(len(word))
        return word[:place] + rng.choice("aeiounlrst") + word[place + 1 :]
    return "" if kind > 0.015 else f"{word} {rng.choice(WORDS)}"


def _frame_ids(label: list[int], frames: int, rng: random.Random, blank: int) -> list[int]:
    """Return a path through the frames that CTC collapses to a label."""
    path: list[int] = []  # with a blank before each letter, and one at the end
    for one in label:
        path += [blank, one]
    path.append(blank)
    needed = set(range(1, len(path), 2))
    needed |= {i + 1 for i in needed if i + 2 < len(path) and path[i] == path[i + 2]}
    held = [int(i in needed) for i in range(len(path))]
    for place in rng.choices(range(len(path)), k=frames - sum(held)):
        held[place] += 1
    return [one for one, times in zip(path, held, strict=True) for _ in range(times)]


# ---------------------------------------------------------------------------------------------------- sides


def _ours(
    references: list[str], logits: Any, vocabulary: Any
) -> tuple[Side, Callable[[], list[str]], Callable[[list[str]], None]]:
    """Return our side, and what a run does beside it."""
    import torch

    from speechexp.asr import SpeechRecognizer
    from speechexp.recognition import SpeechRecognition

    with tempfile.TemporaryDirectory() as folder:
        vocabulary.save(Path(folder) / "vocab.json")
        task = SpeechRecognition(vocabulary=f"{folder}/vocab.json")
    small = {
        "conv_dim": [8], "conv_kernel": [10], "conv_stride": [5], "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip
    module = SpeechRecognizer(task, network=small)  # never run: its logits are given
    batches = [
        slice(start, start + _EVALUATION_BATCH) for start in range(0, len(references), _EVALUATION_BATCH)
    ]
    lengths = torch.full((len(references),), logits.shape[1])

    def argmax() -> list[Any]:
        return [logits[batch].argmax(dim=-1).cpu().numpy() for batch in batches]

    def decode(ids: list[Any]) -> list[str]:
        return [task.vocabulary.decode_ctc(row) for batch in ids for row in batch]

    def score(texts: list[str]) -> tuple[float, float]:
        metrics = task.metrics()
        for batch in batches:
            for metric in metrics.values():
                metric.update(references[batch], texts[batch])
        return float(metrics["wer"].compute()), float(metrics["cer"].compute())

    def transcribe() -> list[str]:
        return [text for batch in batches for text in module.transcribe(logits[batch], lengths[batch])]

    def records(texts: list[str]) -> None:
        beside = {"duration_seconds": logits.shape[1] / 50, "attributes": {}}
        pairs = zip(references, texts, strict=True)
        task.score([{**task.record(reference, text), **beside} for reference, text in pairs], 1)

    return Side(argmax, decode, score), transcribe, records


def _theirs(references: list[str], logits: Any, vocabulary: Any) -> Side:
    """Return the reference's side."""
    import numpy as np
    from torchmetrics.text import CharErrorRate, WordErrorRate
    from transformers import Wav2Vec2CTCTokenizer

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({token: i for i, token in enumerate(vocabulary.tokens)}), encoding="utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(
            str(file),
            bos_token=None,
            eos_token=None,
            unk_token="<unk>",
            pad_token="<pad>",
            word_delimiter_token="|",
        )

    def argmax() -> Any:
        return np.argmax(logits, axis=-1)

    def decode(ids: Any) -> list[str]:
        texts: list[str] = tokenizer.batch_decode(ids)
        return texts

    def score(texts: list[str]) -> tuple[float, float]:
        return float(WordErrorRate()(texts, references)), float(CharErrorRate()(texts, references))

    return Side(argmax, decode, score)


def _compare(ours: Side, theirs: Side, transcribe: Callable[[], list[str]]) -> None:
    """Go through each side once, untimed; end unless they agree."""
    mine, other = ours.decode(ours.argmax()), theirs.decode(theirs.argmax())
    for one, two in zip(mine, other, strict=True):
        if one != two:
            fail(f"the texts differ: ours {one!r}, theirs {two!r}")
    if transcribe() != mine:
        fail("SpeechRecognizer.transcribe differs from Vocabulary.decode_ctc of the same frames")
    for rate, a, b in zip(("WER", "CER"), ours.score(mine), theirs.score(mine), strict=True):
        if abs(a - b) > 1e-6:  # torchmetrics counts in 32-bit
            fail(f"{rate} differs: ours {a}, theirs {b}")


if __name__ == "__main__":
    main()
