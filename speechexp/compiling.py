"""Compiled layers: what can be compiled here, and how."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch
from transformers import ASTForAudioClassification, Wav2Vec2ForCTC

from speechexp.errors import UserError


def compile_layers(network: Wav2Vec2ForCTC | ASTForAudioClassification, device: torch.device) -> None:
    """Compile a waveform's convolutions and each transformer layer, in place: the names of weights stay.

    Layers are alike, so one is compiled for all of them; which of them are dropped is decided outside. Batch sizes
    and lengths are symbols in the compiled code: otherwise each padded length with each size of a last batch would
    be compiled anew.

    Args:
        network: Compiled as it is called, not now.
        device: Where it will run.

    Raises:
        UserError: What compiling needs is not installed.
    """
    missing = missing_to_compile(device)
    if missing:
        raise UserError(
            f"model.compile=true needs {' and '.join(missing)}, which this machine lacks. Install what is missing, "
            "or set model.compile=false."
        )
    # Training or not, padding or not, one clip or several: that alone is torch's limit of eight versions of a
    # function, behind which it would go on uncompiled.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    if isinstance(network, Wav2Vec2ForCTC):
        network.wav2vec2.feature_extractor.compile(dynamic=True)
        layers = network.wav2vec2.encoder.layers
    else:
        layers = network.audio_spectrogram_transformer.layers
    for layer in layers:
        layer.compile(dynamic=True)


def missing_to_compile(device: torch.device) -> list[str]:
    """Name what inductor needs on a device and can't find: nothing where it can compile."""
    if device.type == "cpu":
        found = shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
        missing = [] if found else ["a C++ compiler (Debian: apt install g++; or CXX=PATH)"]
    else:
        from torch.utils._triton import has_triton

        missing = [] if has_triton() else ["Triton, and a GPU that it has code for"]
        if not any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang") if name):
            missing.append("a C compiler for Triton (Debian: apt install gcc; or CC=PATH)")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing.append("Python's headers (Debian: apt install python3-dev)")
    return missing
