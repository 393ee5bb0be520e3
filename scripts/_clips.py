"""What both sides of bench_training begin with: the same clips on disk, and the same initial weights."""

import io
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _bench import WORDS, weights_digest

RATE = 16_000
_TEST_CLIPS = 8  # a run of ours ends with a test, which the recipe has not: as little of it as there can be

# The architecture of facebook/wav2vec2-large-xlsr-53 (its config.json), dropout left to the run.
XLSR53: dict[str, Any] = {
    "conv_bias": True,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_conv_pos_embedding_groups": 16,
    "num_conv_pos_embeddings": 128,
}


@dataclass(frozen=True)
class Utterance:
    """One clip: its name, ``(samples,)`` int16 at 16 kHz, and its text as the source has it."""

    name: str
    audio: npt.NDArray[np.int16]
    text: str


@dataclass(frozen=True)
class Written:
    """What was written of the clips.

    Attributes:
        seconds: Of audio, by split.
        references: Cleaned, by split.
    """

    seconds: dict[str, float]
    references: dict[str, list[str]]


def spanish_mini(
    train: int, validation: int, seed: int, network: Mapping[str, Any], cache: Path
) -> dict[str, list[Utterance]]:
    """Return the clips of spanish_mini that a run of ours keeps, by split."""
    from speechexp.corpora.spanish_mini import SpanishMini
    from speechexp.recognition import SpeechRecognition

    task = SpeechRecognition()
    data = SpanishMini(
        task,
        train_utterances=train,
        validation_utterances=validation,
        test_utterances=_TEST_CLIPS,
        corpus_seed=seed,
        cache_dir=str(cache),
    )
    data.load(lambda name, done, total: None)
    task.learn_labels(data.references("train"))
    data.drop_infeasible(lambda samples: _frames(samples, network))
    texts = dict(zip(data.manifest.ids, data.manifest.references, strict=True))
    kept = {split: data.clips(split) for split in ("train", "validation", "test")}
    return {
        split: [
            Utterance(clip.id, clip.audio, texts[clip.id]) for clip in (clips[i] for i in range(len(clips)))
        ]
        for split, clips in kept.items()
    }


def _frames(samples: int, network: Mapping[str, Any]) -> int:
    for kernel, stride in zip(network["conv_kernel"], network["conv_stride"], strict=True):
        samples = (samples - kernel) // stride + 1
    return max(samples, 0)


def noise_like_fleurs(train: int, validation: int, seed: int) -> dict[str, Iterable[Utterance]]:
    """Return noise with the lengths of FLEURS's clips (5 to 20 s, about 12), by split, made on demand."""

    def utterances(split: str, count: int) -> Iterator[Utterance]:
        rng, numbers = random.Random(f"{seed}/{split}"), np.random.default_rng((seed, len(split)))
        for number in range(count):
            seconds = min(max(rng.lognormvariate(np.log(12.0), 0.3), 5.0), 20.0)
            audio = (numbers.standard_normal(int(seconds * RATE), dtype=np.float32) * 3000).astype(np.int16)
            text = " ".join(rng.choices(WORDS, k=round(seconds * 2.1)))
            yield Utterance(f"{split}-{number:05d}", audio, text)

    counts = {"train": train, "validation": validation, "test": _TEST_CLIPS}
    return {split: utterances(split, count) for split, count in counts.items()}


def write(splits: Mapping[str, Iterable[Utterance]], folder: Path) -> Written:
    """Write clips as a local copy of a data set in FLEURS's schema, ``{split}-00000.parquet``, audio as WAV."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile

    from speechexp.recognition import SpeechRecognition

    clean = SpeechRecognition().clean_reference
    schema = pa.schema(
        [
            ("id", pa.int32()),
            ("path", pa.string()),
            ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("transcription", pa.string()),
        ]
    )
    folder.mkdir(parents=True)
    written = Written({}, {})
    for split, utterances in splits.items():
        seconds, references, rows = 0.0, list[str](), list[dict[str, Any]]()
        options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(folder / f"{split}-00000.parquet", schema, **options) as writer:
            for number, utterance in enumerate(utterances):
                reference = clean(utterance.text)
                assert reference is not None, "only clips with text are kept"
                file = io.BytesIO()
                soundfile.write(file, np.asarray(utterance.audio), RATE, format="WAV", subtype="PCM_16")
                path = f"{utterance.name}.wav"
                audio = {"bytes": file.getvalue(), "path": path}
                rows.append({"id": number, "path": path, "audio": audio, "transcription": utterance.text})
                seconds += len(utterance.audio) / RATE
                references.append(reference)
                if len(rows) == 100:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    rows.clear()
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        written.seconds[split], written.references[split] = seconds, references
    return written


def save_initial_weights(
    network: Mapping[str, Any], training_text: list[str], seed: int, folder: Path
) -> str:
    """Write a checkpoint with random weights, its head for our vocabulary, as ``save_pretrained`` does.

    Args:
        network: Settings of ``Wav2Vec2Config``.
        training_text: Cleaned references, whose characters are the vocabulary.
        seed: Of the weights.
        folder: Where to.

    Returns:
        The weights' `weights_digest`.
    """
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
    from transformers.utils import logging

    from speechexp.text import Vocabulary

    logging.disable_progress_bar()
    vocabulary = Vocabulary.from_texts(training_text)
    labels = {"pad_token_id": vocabulary.blank_id, "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(seed)
    config = Wav2Vec2Config(**network, vocab_size=len(vocabulary), **labels)
    model = Wav2Vec2ForCTC(config)
    model.save_pretrained(folder)
    vocabulary.save(folder / "vocab.json")
    return weights_digest(model.state_dict())
