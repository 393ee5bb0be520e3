"""ASTForAudioClassification: built from scratch, from a hub id or a directory, or from a checkpoint of ours."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import ASTConfig, ASTForAudioClassification

from speechexp.ast_window import frames_of, grid, resize_positions
from speechexp.errors import UserError
from speechexp.labels import SoundClass
from speechexp.pretrained import Kind, Source

Head = Literal["own", "new"]
_KIND = Kind(
    config=ASTConfig,
    called="an Audio Spectrogram Transformer",
    page=(
        "https://huggingface.co/docs/transformers/model_doc/audio-spectrogram-transformer#transformers.ASTConfig"
    ),
    offline="model=ast_tiny",
)
_DENSE = frozenset({"classifier.dense.weight", "classifier.dense.bias"})
_ELSEWHERE = {
    "max_length": "model.window_seconds sets it",
    **dict.fromkeys(("num_labels", "id2label", "label2id"), "the classes set it"),
    "problem_type": "the task sets it",
}
_MID = re.compile(r"/[a-z]/\S+")
_UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls classes without a name


@dataclass(frozen=True)
class Normalisation:
    """How a network wants its log-mel features: ``(features - mean) / (2 * std)`` (Gong et al. 2021, section 3.1).

    Attributes:
        mean: Of the data; AudioSet's unless a checkpoint says otherwise.
        std: The same.
    """

    mean: float = -4.2677393
    std: float = 4.5689974


@dataclass(frozen=True)
class Built:
    """A network, and what has to be known to use it.

    Attributes:
        network: In training mode; its configuration holds the window (``max_length`` frames) and ``num_mel_bins``.
        classes: What its outputs stand for, in their order.
        normalisation: Of its input.
        notes: What the user should know of how it was loaded.
    """

    network: ASTForAudioClassification
    classes: list[SoundClass]
    normalisation: Normalisation
    notes: list[str]


def build_network(
    classes: Sequence[SoundClass] | None,
    single_label: bool,
    network: Mapping[str, Any] | None = None,
    pretrained: str | None = None,
    revision: str | None = None,
    head: Head = "new",
    window_seconds: float | None = None,
    sample_rate: int = 16_000,
) -> Built:
    """Build the network.

    Args:
        classes: What the outputs shall stand for; with ``head="own"`` None or the checkpoint's own, in their order.
        single_label: Whether a clip has exactly one class (softmax), or any number of them (sigmoids).
        network: Settings of ``ASTConfig`` to override.
        pretrained: A hub id or a local directory; None for random weights.
        revision: Of the hub id.
        head: Whether the checkpoint's head is kept, or a new one put on its body.
        window_seconds: Length of the input; None for that of the checkpoint, or ``ASTConfig``'s 10.24 s. See
            `resize_positions` for what another one does to pretrained weights.
        sample_rate: Of the task, in Hz.

    Raises:
        UserError: The weights can't be found or do not fit; a setting is unknown or out of its range.
    """
    given = dict(network or {})
    if head not in ("own", "new"):
        raise UserError(f"model.head={head} must be own or new.")
    for name in given:
        if name in _ELSEWHERE:
            raise UserError(f"model.network.{name} can't be set: {_ELSEWHERE[name]}. Leave it out.")
    _KIND.require_known(given)
    given["problem_type"] = "single_label_classification" if single_label else "multi_label_classification"
    if pretrained is not None:
        return _load(Source(pretrained, revision, _KIND), classes, given, head, window_seconds, sample_rate)
    if head == "own":
        raise UserError("model.head=own keeps a pretrained head: set model.pretrained, or model.head=new.")
    if not classes:
        raise ValueError("`classes` must name at least one class for a network with random weights.")
    with torch.device("meta"):
        config = _KIND.build(ASTForAudioClassification, given).config
    if grid(config)[0] < 1:
        raise UserError(
            f"model.network.num_mel_bins={config.num_mel_bins} must be at least patch_size={config.patch_size}."
        )
    if window_seconds is not None:
        given["max_length"] = frames_of(config, window_seconds, None)
    model = _KIND.build(ASTForAudioClassification, {**given, **_outputs(classes)})
    embeddings = model.audio_spectrogram_transformer.embeddings
    # transformers leaves them zero. The two tokens would then stay equal for good, since all that tells them apart
    # is their weights; as in ViT, they begin at random.
    for token in (embeddings.cls_token, embeddings.distillation_token, embeddings.position_embeddings):
        nn.init.trunc_normal_(token, std=model.config.initializer_range)
    return Built(model.train(), list(classes), Normalisation(), ["random weights"])


def classes_of(pretrained: str, revision: str | None = None) -> tuple[list[SoundClass], bool | None]:
    """Return what a checkpoint's head tells apart, from its configuration alone.

    A class that the configuration knows by its AudioSet id alone has that id as its name too.

    Args:
        pretrained: A hub id or a local directory.
        revision: Of the hub id.

    Returns:
        The classes in the order of its outputs, and whether it tells exactly one of a clip; None if it does not say.

    Raises:
        UserError: It can't be read, is another kind of network, or does not name its classes.
    """
    source = Source(pretrained, revision, _KIND)
    with source.reading():
        config = source.config()
    modes = {"single_label_classification": True, "multi_label_classification": False}
    return _classes(config, pretrained), modes.get(str(config.problem_type))


def network_from_config(config: Mapping[str, Any]) -> ASTForAudioClassification:
    """Build an empty network for a checkpoint's weights."""
    return ASTForAudioClassification(ASTConfig.from_dict(dict(config)))


def _outputs(classes: Sequence[SoundClass]) -> dict[str, Any]:
    names = [str(each) for each in classes]
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def _classes(config: ASTConfig, pretrained: str) -> list[SoundClass]:
    names = [str(config.id2label.get(number, "")) for number in range(len(config.id2label))]
    otherwise = "Put a new head on it: model.head=new."
    if not all(names) or all(_UNNAMED.fullmatch(name) for name in names):
        raise UserError(
            f"model.pretrained={pretrained} must name its classes for model.head=own, but the id2label of its "
            f"config.json names none for some or all of its outputs. {otherwise}"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"model.pretrained={pretrained} must have a class for each output for model.head=own, but calls more "
            f"than one {twice}. {otherwise}"
        )
    return [SoundClass(name, name) if _MID.fullmatch(name) else SoundClass.parse(name) for name in names]


# ----------------------------------------------------------------------------------------------- loading


def _load(
    source: Source,
    classes: Sequence[SoundClass] | None,
    settings: dict[str, Any],
    head: Head,
    window_seconds: float | None,
    sample_rate: int,
) -> Built:
    """Load a network from the hub or a directory."""
    pretrained = source.pretrained
    with source.reading():
        config = source.config()
        if head == "own":
            wanted = _classes(config, pretrained)
            if classes is not None and list(classes) != wanted:
                raise ValueError("`classes` must be None or those of the checkpoint with a head of its own.")
        elif classes:
            wanted = list(classes)
            settings = {**settings, **_outputs(wanted)}
        else:
            raise ValueError("`classes` must name at least one class for a new head.")
        frames = config.max_length
        if window_seconds is not None:
            frames = frames_of(config, window_seconds, pretrained)
        preprocessor = source.json("preprocessor_config.json")
        model, unfit = source.load(ASTForAudioClassification, settings)
    normalisation, notes = _normalisation(preprocessor, pretrained, sample_rate, model.config.num_mel_bins)
    headless = not _DENSE - set(unfit.missing)
    part = "classifier." if headless else "classifier.dense."
    unfit.only(lambda name: not name.startswith(part)).require_none(pretrained)
    if head == "own" and unfit.names():
        found = "has none" if headless else "has weights for another number of them"
        raise UserError(
            f"model.pretrained={pretrained} must have a head for the {len(wanted)} classes that its config.json "
            f"names for model.head=own, but {found}. Put a new head on it: model.head=new."
        )
    if head == "new":
        nn.init.normal_(model.classifier.dense.weight, std=model.config.initializer_range)
        nn.init.zeros_(model.classifier.dense.bias)
    notes = [f"weights of {pretrained}", "its own head" if head == "own" else "a new head", *notes]
    if frames != model.config.max_length:
        notes.append(resize_positions(model, frames))
    return Built(model.train(), wanted, normalisation, notes)


def _normalisation(
    found: Any, pretrained: str, sample_rate: int, num_mel_bins: int
) -> tuple[Normalisation, list[str]]:
    """Read a ``preprocessor_config.json``.

    Raises:
        UserError: The network was trained on features of another kind.
    """
    usual = Normalisation()
    if found is None:
        return usual, [f"no preprocessor_config.json: AudioSet's mean {usual.mean:g} and std {usual.std:g}"]
    where = f"The preprocessor_config.json of model.pretrained={pretrained}"
    if not isinstance(found, dict):
        raise UserError(
            f"{where} must hold a JSON object. Write it with ASTFeatureExtractor.save_pretrained."
        )
    for name, wanted, unit in (("sampling_rate", sample_rate, " Hz"), ("num_mel_bins", num_mel_bins, "")):
        if found.get(name, wanted) != wanted:
            raise UserError(
                f"{where} must have {name}={wanted}{unit}, but it is {found[name]!r} instead: the network was "
                "trained on other features than it would get here. Choose another model.pretrained."
            )
    if not found.get("do_normalize", True):
        return Normalisation(mean=0.0, std=0.5), ["features not normalised"]
    values = [found.get("mean", usual.mean), found.get("std", usual.std)]
    numbers = all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        for value in values
    )
    if not numbers or values[1] <= 0:
        raise UserError(
            f"{where} must have a number as mean and one above 0 as std, but they are {values[0]!r} and "
            f"{values[1]!r} instead. Mend it, or remove it for AudioSet's."
        )
    if "mean" in found and "std" in found:
        return Normalisation(float(values[0]), float(values[1])), []
    return Normalisation(float(values[0]), float(values[1])), [
        f"features by mean {values[0]:g}, std {values[1]:g}"
    ]
