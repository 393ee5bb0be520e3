"""A diarization pipeline written to a folder that pyannote opens, or described for a checkpoint and built again."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from pyannote.audio.pipelines import SpeakerDiarization

from speechexp.errors import UserError
from speechexp.paths import is_file
from speechexp.pyannote_models import (
    OPTIONS,
    embedding_of,
    make_pipeline,
    parameters_of_pipeline,
    segmentation_of,
    set_parameters,
)
from speechexp.pyannote_networks import build_network, describe_network, write_network
from speechexp.pyannote_plda import KeptPLDA


def save_pipeline(pipeline: SpeakerDiarization, folder: Path) -> None:
    """Write a pipeline into a folder that ``pyannote.audio.Pipeline.from_pretrained`` opens without a network.

    A folder that holds a pipeline is replaced; it is never seen half-written.

    Args:
        pipeline: As `speechexp.pyannote_models` opens it.
        folder: Of any name.

    Raises:
        UserError: The folder holds something else.
    """
    if folder.exists() and not is_file(folder / "config.yaml"):
        raise UserError(f"{folder} must be a new folder or one with a pipeline, but holds something else.")
    partial, before = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("partial", "old"))
    partial.mkdir(parents=True)
    try:
        for part, network in (
            ("segmentation", segmentation_of(pipeline)),
            ("embedding", embedding_of(pipeline)),
        ):
            (partial / part).mkdir()
            write_network(network, partial / part / "pytorch_model.bin")
        (partial / "plda").mkdir()
        _plda_of(pipeline).write(partial / "plda")
        nested: dict[str, dict[str, Any]] = {}
        for name, value in parameters_of_pipeline(pipeline).items():
            block, _, key = name.partition(".")
            nested.setdefault(block, {})[key] = value
        parts = {part: f"$model/{part}" for part in ("segmentation", "embedding", "plda")}
        config = {
            "pipeline": {
                "name": "pyannote.audio.pipelines.SpeakerDiarization",
                "params": parts | _options_of(pipeline),
            },
            "params": nested,
        }
        (partial / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        if folder.exists():
            folder.rename(before)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def describe_pipeline(pipeline: SpeakerDiarization) -> dict[str, Any]:
    """Return all of a pipeline but its weights: plain containers and tensors, as a checkpoint can hold them."""
    return {
        "segmentation": describe_network(segmentation_of(pipeline)),
        "embedding": describe_network(embedding_of(pipeline)),
        "options": _options_of(pipeline),
        "parameters": parameters_of_pipeline(pipeline),
        "plda": {name: torch.from_numpy(value.copy()) for name, value in _plda_of(pipeline).arrays.items()},
    }


def rebuild_pipeline(description: Mapping[str, Any]) -> SpeakerDiarization:
    """Build a pipeline from what `describe_pipeline` has returned, its networks' weights unset.

    Raises:
        UserError: A network is of no known architecture.
    """
    pipeline = make_pipeline(
        build_network(description["segmentation"]),
        build_network(description["embedding"]),
        KeptPLDA({name: value.numpy() for name, value in description["plda"].items()}),
        description["options"],
    )
    set_parameters(pipeline, description["parameters"])
    return pipeline


def _options_of(pipeline: SpeakerDiarization) -> dict[str, Any]:
    own = {"clustering": pipeline.klustering}
    return {name: own[name] if name in own else getattr(pipeline, name) for name in OPTIONS}


def _plda_of(pipeline: SpeakerDiarization) -> KeptPLDA:
    plda = pipeline._plda
    if not isinstance(plda, KeptPLDA):
        raise TypeError(
            f"`pipeline` must be one that open_pipeline has opened, but its PLDA is a {type(plda)}."
        )
    return plda
