"""A small Audio Spectrogram Transformer, as save_pretrained writes it."""

from pathlib import Path
from typing import Any

import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from speechexp.labels import SoundClass

NAMES = ["Speech", "/m/04rlf", "Dog (/m/0bt9lr)", *(f"Sound {number}" for number in range(3, 527))]
# 2 patches along frequency, 12 along time; steep enough that every part shows in the outputs
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_mel_bins": 26,
    "initializer_range": 0.2,
}
FRAMES = 128
FEW = [SoundClass("Speech", "/m/09x0r"), SoundClass("Dog", "/m/0bt9lr"), SoundClass("Rain")]


def save(folder: Path, names: list[str] | None = None, **network: Any) -> ASTForAudioClassification:
    """Write a network with weights of its own, and return it."""
    torch.manual_seed(1)
    names = NAMES if names is None else names
    config = ASTConfig(
        **{**TINY, "max_length": FRAMES, **network},
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    model = ASTForAudioClassification(config)
    embeddings = model.audio_spectrogram_transformer.embeddings
    tables = embeddings.position_embeddings, embeddings.cls_token, embeddings.distillation_token
    for weight in (*tables, model.classifier.dense.bias):  # zero from transformers
        torch.nn.init.normal_(weight)
    model.save_pretrained(folder)
    return model.eval()


def save_preprocessor(folder: Path, **settings: Any) -> None:
    ASTFeatureExtractor(**{"num_mel_bins": 26, "max_length": FRAMES, **settings}).save_pretrained(folder)
