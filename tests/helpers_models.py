"""A small network, and batches of noise for it."""

from typing import Any

import numpy as np
import torch

from speechexp.asr import SpeechRecognizer
from speechexp.batch import AudioBatch, Clip
from speechexp.recognition import SpeechRecognition
from speechexp.text import Vocabulary

RATE = 16_000
TEXT = "la calle y el perro leen"
VOCABULARY = Vocabulary.from_texts([TEXT])
# Small, with everything random switched off, and steep enough that padding would show.
TINY: dict[str, Any] = {
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 4, 4],
    "num_feat_extract_layers": 3,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.2,
    "ctc_loss_reduction": "mean",
    **dict.fromkeys(
        (
            *("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"),
            *("final_dropout", "layerdrop", "mask_time_prob"),
        ),
        0.0,
    ),
}
NORMS = {
    "group": {"feat_extract_norm": "group", "do_stable_layer_norm": False},
    "group, pre-norm": {"feat_extract_norm": "group", "do_stable_layer_norm": True},
    "layer, post-norm": {"feat_extract_norm": "layer", "do_stable_layer_norm": False, "conv_bias": True},
    "layer": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}


def recogniser(seed: int = 0, **settings: Any) -> SpeechRecognizer:
    torch.manual_seed(seed)
    task = SpeechRecognition()
    task.learn_labels([TEXT])
    network = {**TINY, **settings.pop("network", {})}
    return SpeechRecognizer(task, network=network, **settings).eval()


def clips(*seconds: float, seed: int = 0) -> list[Clip]:
    """Return clips of noise with a moving loudness and an offset, each with a label."""
    rng = np.random.default_rng(seed)
    made = []
    for number, duration in enumerate(seconds):
        samples = rng.standard_normal(round(duration * RATE)) * (1 + number) * 500
        samples *= 1 + np.sin(np.arange(len(samples)) / 900) ** 2
        audio = (samples + 300).astype(np.int16)
        made.append(Clip(f"clip{number}", audio, TEXT, VOCABULARY.encode(TEXT[: 4 + 3 * number]), {}))
    return made


def collate(given: list[Clip], padded_seconds: float | None = None) -> AudioBatch:
    longest = max(len(clip.audio) for clip in given)
    return AudioBatch.collate(given, round(padded_seconds * RATE) if padded_seconds else longest, RATE)
