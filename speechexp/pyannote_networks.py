"""The networks of a pyannote pipeline: read from a checkpoint, described in plain containers, built again, written."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from pyannote.audio import Model
from pyannote.audio import __version__ as pyannote_version
from pyannote.audio.core.task import Problem, Resolution, Specifications

from speechexp.errors import UserError, read_errors
from speechexp.pyannote_quiet import quiet_pyannote

SAMPLE_RATE = 16_000
# Only these are built from a description: a file's word for a class is never imported.
_SEGMENTATION = {"PyanNet": "pyannote.audio.models.segmentation"}
_EMBEDDING = {
    "WeSpeakerResNet34": "pyannote.audio.models.embedding",
    "WeSpeakerResNet152": "pyannote.audio.models.embedding",
    "WeSpeakerResNet221": "pyannote.audio.models.embedding",
    "WeSpeakerResNet293": "pyannote.audio.models.embedding",
    "VoiceEncoder": "speechexp.voice_encoder",
}


def load_network(file: Path) -> Model:
    """Load a network from a checkpoint of pyannote's, in evaluation mode.

    Like pyannote, this runs what the file says: load only files whose source you trust.

    Raises:
        UserError: It is missing or broken.
    """
    if not file.is_file():
        raise UserError(f"{file} must be a checkpoint of pyannote.audio, but it does not exist.")
    with read_errors(str(file)), quiet_pyannote():
        return Model.from_pretrained(file, strict=False).eval()


def check_segmentation(model: Model, source: str) -> None:
    """Raise unless a network can be the segmentation of a pipeline.

    Args:
        model: The network.
        source: Where it is from, for the message.

    Raises:
        UserError: It is of another kind, or takes another sampling rate.
    """
    _check_common(model, source, _SEGMENTATION)
    what = model.specifications
    speakers = what.problem is Problem.MULTI_LABEL_CLASSIFICATION or what.powerset
    if what.resolution is not Resolution.FRAME or not speakers or len(what.classes or ()) < 2:
        raise UserError(
            f"{source} must be a speaker segmentation network, but is made for {what.problem.name.lower()} "
            f"with the classes {', '.join(what.classes or ())} instead. pyannote/segmentation-3.0 is one."
        )


def check_embedding(model: Model, source: str) -> None:
    """Raise unless a network can be the speaker embedding of a pipeline.

    Args:
        model: The network.
        source: Where it is from, for the message.

    Raises:
        UserError: It is of another kind, or takes another sampling rate.
    """
    _check_common(model, source, _EMBEDDING)


def _check_common(model: Model, source: str, known: Mapping[str, str]) -> None:
    name = type(model).__name__
    if name not in known or type(model).__module__.partition(".")[0] != known[name].partition(".")[0]:
        raise UserError(f"{source} must be one of {', '.join(known)}, but is a {name} instead.")
    rate = model.hparams.sample_rate
    if rate != SAMPLE_RATE:
        raise UserError(f"{source} must take audio of {SAMPLE_RATE} Hz, but takes {rate} Hz instead.")


def describe_network(model: Model) -> dict[str, Any]:
    """Return what `build_network` needs, in plain containers."""
    what = model.specifications
    specifications = {each.name: _plain(getattr(what, each.name)) for each in fields(Specifications)}
    return {
        "architecture": type(model).__name__,
        "hyper_parameters": _plain(dict(model.hparams)),
        "specifications": specifications | {"problem": what.problem.name, "resolution": what.resolution.name},
    }


def build_network(description: Mapping[str, Any]) -> Model:
    """Build a network with unset weights from what `describe_network` has returned, in evaluation mode.

    Raises:
        UserError: It is of no known architecture.
    """
    name = description["architecture"]
    known = _SEGMENTATION | _EMBEDDING
    if name not in known:
        raise UserError(f"The network of the checkpoint must be one of {', '.join(known)}, but is {name}.")
    architecture = getattr(importlib.import_module(known[name]), name)
    taken = inspect.signature(architecture).parameters  # WeSpeaker's classes record more than they take
    given = description["hyper_parameters"].items()
    model = architecture(**{key: value for key, value in given if key in taken})
    specifications = dict(description["specifications"])
    specifications["problem"] = Problem[specifications["problem"]]
    specifications["resolution"] = Resolution[specifications["resolution"]]
    if specifications["warm_up"] is not None:
        specifications["warm_up"] = tuple(specifications["warm_up"])
    model.specifications = Specifications(**specifications)
    model.setup()  # adds the layers that depend on the specifications
    return model.eval()


def write_network(model: Model, file: Path) -> None:
    """Write a checkpoint that ``pyannote.audio.Model.from_pretrained`` loads."""
    import lightning

    content = {
        "state_dict": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        "hyper_parameters": _plain(dict(model.hparams)),
        "pytorch-lightning_version": lightning.__version__,
        "pyannote.audio": {
            "versions": {"pyannote.audio": pyannote_version},
            "architecture": {"module": type(model).__module__, "class": type(model).__name__},
            "specifications": model.specifications,
        },
    }
    torch.save(content, file)


def _plain(value: Any) -> Any:
    """Return a value with the containers in it as dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
