"""The configuration: composed by Hydra, and checked before anything heavy is imported."""

import ast
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from speechexp.errors import UserError, did_you_mean, nearest
from speechexp.paths import expand, is_file, is_folder, require_folder
from speechexp.signature import UnknownTarget, aliases_of, expected, parameters_of

STAGES = ("fit", "test", "predict", "prepare")
SETTINGS = ("stage", "seed", "ckpt", "inputs", "resume")
GROUPS = ("task", "model", "data", "trainer")
CONFIG_MODULE = "speechexp.conf"
# What run() hands to each object beside its settings.
INJECTED = {
    "task": set[str](),
    "data": {"task", "seed"},
    "model": {"task"},
    "trainer": {"run_folder", "seed", "stop"},
}
_WHOLE = ("speechexp.diarizer.Diarizer",)  # networks that come with their head, and have no other
_PARTIAL_TAKES = {"optimizer": {"module"}, "schedule": {"optimizer", "steps"}}
_HELP = "All settings: python -m speechexp --cfg job"


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse what was typed.

    Raises:
        UserError: Something is not of the form name=value.
    """
    parsed = []
    for text in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([text])
        except HydraException as error:
            quoted = ""
            if "=" in text and re.search(r"[=,\s(){}\[\]]", text.split("=", 1)[1]):
                quoted = f" Quote a value that holds special characters: {_quoted(text)}."
            raise UserError(
                f"{text!r} is not a setting: settings are written name=value (options such as -m come first)."
                f"{quoted} {_HELP}"
            ) from error
    return parsed


def _quoted(text: str) -> str:
    """Return an override as a shell and Hydra both take it, each item of a list by itself."""
    name, value = text.split("=", 1)
    if value.startswith("[") and value.endswith("]"):
        items = ",".join(f"'{item.strip()}'" for item in value[1:-1].split(","))
        return f'"{name}=[{items}]"'
    return f"\"{name}='{value}'\""


def variants(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Yield the overrides of enough jobs of a sweep to meet each swept value once."""
    swept: list[list[str]] = []
    for text, override in zip(overrides, parse(overrides), strict=True):
        values = [text]
        if override.is_sweep_override():
            values = []
            if override.is_discrete_sweep():
                name = override.input_line.split("=", 1)[0] if override.input_line else override.key_or_group
                values = [f"{name}={value}" for value in override.sweep_string_iterator()]
        swept.append(values)
    first = [values[0] for values in swept if values]
    yield first
    for place, values in enumerate(swept):
        for value in values[1:]:
            yield [
                *(each[0] for each in swept[:place] if each),
                value,
                *(each[0] for each in swept[place + 1 :] if each),
            ]


def compose_config(overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    """Compose the configuration of one job, Hydra's own part included.

    Raises:
        UserError: A setting, a group or an option does not exist.
    """
    search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            return compose("config", overrides=[*overrides, *search], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_explain(error, overrides)) from error


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Say what is wrong with an override, and what is like it."""
    text = str(error)
    group = re.search(r"Could not find '([\w./-]+)/([^'/]+)'", text)
    if group:
        name, option = group[1], group[2]
        found = re.search(r"Available options in '[^']*':((?:\s+\S+)+?)(?:\nConfig search path|\Z)", text)
        options = found[1].split() if found else []
        return f"{name}={option} is not there.{did_you_mean(option, options)}"
    missing = re.search(r"Could not override '([^'@]+)", text) or re.search(
        r"Key '(\S+)' is not in struct", text
    )
    if missing:
        name = missing[1]
        for override in parse(overrides):  # Hydra names the last part of some keys only
            if override.key_or_group.split(".")[-1] == name or override.key_or_group == name:
                name = override.key_or_group
        known = {*_keys(_groups_of(overrides)), *GROUPS, "experiment"} - {name}
        close = nearest(name, known)
        hint = f" Did you mean {close}?" if close else ""
        return f"There is no setting {name!r}.{hint} {_HELP}"
    ambiguous = re.search(r"Ambiguous value for argument '([^']+)'", text)
    if ambiguous:
        return (
            f"{ambiguous[1]} holds a comma: for one value, quote it: {_quoted(ambiguous[1])}; "
            "for a sweep over several, add -m."
        )
    present = re.search(r"An item is already at '([^']+)'", text)
    if present:
        return f"{present[1]} is a setting already: leave the + out, {present[1]}=…"
    multiple = re.search(r"Multiple values for (\S+?)\.", text)
    if multiple:
        return f"{multiple[1]} is given more than once. Give it once."
    return f"The configuration can't be composed: {text.strip().splitlines()[0]} {_HELP}"


def _groups_of(overrides: Sequence[str]) -> DictConfig:
    """Compose the chosen groups alone, so that what is like a wrong setting comes from them."""
    rest = [text for text in overrides if text.split("=", 1)[0] in (*GROUPS, "experiment")]
    try:
        return compose("config", overrides=rest)
    except (HydraException, OmegaConfBaseException):
        return compose("config")


def _keys(cfg: DictConfig) -> Iterator[str]:
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    container.pop("hydra", None)

    def walk(node: Mapping[Any, Any], prefix: str) -> Iterator[str]:
        for key, value in node.items():
            if not str(key).startswith("_"):
                yield f"{prefix}{key}"
                if isinstance(value, Mapping):
                    yield from walk(value, f"{prefix}{key}.")

    yield from walk(container, "")


def flatten(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting by its dotted name."""
    node: Any = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# ------------------------------------------------------------------------------------------------- checking


def check(cfg: DictConfig) -> None:
    """Refuse what can be seen to be wrong without importing torch.

    Raises:
        UserError: A setting is missing, misspelt, of the wrong type, or names a path that isn't there.
    """
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    for key in cfg:
        if key not in (*GROUPS, *SETTINGS):
            raise UserError(
                f"There is no setting {key!r}.{did_you_mean(str(key), (*GROUPS, *SETTINGS))} {_HELP}"
            )
    if cfg.stage not in STAGES:
        raise UserError(f"stage={cfg.stage} must be one of {', '.join(STAGES)}.")
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed must be a whole number from 0 to {2**32 - 1}, but is {cfg.seed!r} instead.")
    for group in GROUPS:
        _check_missing(cfg, group)
        node: Any = OmegaConf.to_container(cfg[group], resolve=True)
        _check_node(group, node, INJECTED[group])
    _check_stage(cfg)
    _check_pairing(cfg)
    _check_bounds(cfg)


def _check_missing(cfg: DictConfig, group: str) -> None:
    for name in sorted(OmegaConf.missing_keys(cfg)):
        if name.startswith(f"{group}."):
            raise UserError(f"{name} must be given: add {name}=…")
    try:
        OmegaConf.to_container(cfg[group], resolve=True, throw_on_missing=True)
    except (MissingMandatoryValue, OmegaConfBaseException) as error:
        raise UserError(f"{group} can't be resolved: {str(error).splitlines()[0]}") from error


def _check_node(where: str, node: Mapping[str, Any], injected: set[str]) -> None:
    target = node.get("_target_")
    if not isinstance(target, str):
        raise UserError(f"{where}._target_ must name a class, but is {target!r} instead.")
    try:
        parameters = parameters_of(target)
    except UnknownTarget as error:
        raise UserError(
            f"{where}._target_={target} does not exist.{did_you_mean(target.split('.')[-1], error.choices)}"
        ) from None
    if parameters is None:
        return  # its own constructor must judge
    aliases = aliases_of(target)
    settings = [name for name in parameters if name not in injected]
    for name, value in node.items():
        if name.startswith("_"):
            continue
        if name not in settings:
            raise UserError(f"{where}.{name} is not a setting of {target}.{did_you_mean(name, settings)}")
        if isinstance(value, Mapping) and "_target_" in value:
            _check_node(f"{where}.{name}", value, _PARTIAL_TAKES.get(name, set()))
            continue
        wanted = expected(parameters[name].annotation, value, aliases)
        if wanted:
            raise UserError(f"{where}.{name} must be {wanted}, but is {value!r} instead.")
    for name, parameter in parameters.items():
        if parameter.required and name not in injected and name not in node:
            raise UserError(f"{where}.{name} must be given: {target} needs it.")


def _check_stage(cfg: DictConfig) -> None:
    if cfg.stage in ("test", "predict") and not (cfg.ckpt is None and _is_whole(cfg.model)):
        if cfg.ckpt is None:
            raise UserError(
                f"stage={cfg.stage} needs a checkpoint: add ckpt=FILE, for example "
                f"ckpt=outputs/{cfg.task.name}/TIME/checkpoints/best.ckpt"
            )
        if is_folder(expand(str(cfg.ckpt))):
            raise UserError(
                f"ckpt={cfg.ckpt} must be a file, but is a folder. A run's is RUN/checkpoints/best.ckpt."
            )
        if not is_file(expand(str(cfg.ckpt))):
            raise UserError(f"ckpt={cfg.ckpt} must be a checkpoint, but there is no such file.")
    elif cfg.ckpt is not None and cfg.stage not in ("test", "predict"):
        raise UserError(
            f"ckpt={cfg.ckpt} is for stage=test and stage=predict, but stage is {cfg.stage}. "
            "To go on training a run: resume=RUN-FOLDER."
        )
    if cfg.stage == "predict":
        if cfg.inputs is None:
            raise UserError(
                "stage=predict needs audio: add inputs=FOLDER, inputs=FILE or inputs=[FILE,FILE]."
            )
        for each in input_paths(cfg.inputs):
            if not is_file(each) and not is_folder(each):
                raise UserError(f"inputs={each} must be a file or a folder, but does not exist.")
    elif cfg.inputs is not None:
        raise UserError(f"inputs={cfg.inputs} is for stage=predict, but stage is {cfg.stage}.")
    path = cfg.data.get("path")
    if path is not None and cfg.stage != "predict":
        require_folder("data.path", expand(str(path)), "audio")


def _is_whole(model: DictConfig) -> bool:
    """Tell whether a network comes with its head, so that it can be used as it is."""
    own = model.get("head") == "own" or model["_target_"] in _WHOLE
    return model.get("pretrained") is not None and own


def input_paths(inputs: Any) -> list[Path]:
    """Return what ``inputs`` names: one path, or a list of them."""
    each = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    return [expand(str(path)) for path in each]


def _check_pairing(cfg: DictConfig) -> None:
    """Refuse data or a network of another task, and text that would be normalised in the wrong language."""
    task = str(cfg.task["_target_"]).rpartition(".")[2]
    for group in ("data", "model"):
        if _serves(str(cfg[group]["_target_"]), task):
            continue
        targets = _targets(group)
        chosen = [name for name, target in targets.items() if target == cfg[group]["_target_"]]
        fitting = [name for name, target in targets.items() if _serves(target, task)]
        raise UserError(
            f"{group}={' or '.join(chosen) or cfg[group]['_target_']} is not for task={cfg.task.name}. For it there "
            f"is {group}={', '.join(fitting)}; or choose another task=."
        )
    language = cfg.data.get("config")
    if (
        cfg.task.get("normaliser") == "spanish"
        and isinstance(language, str)
        and not language.startswith("es")
    ):
        raise UserError(
            f"task.normaliser=spanish spells numbers in Spanish, but data.config={language}. "
            "Add task.normaliser=plain (any language) or task.normaliser=unidecode."
        )


def _serves(target: str, task: str) -> bool:
    """Tell whether a data set or a network takes a task, as its signature has it."""
    parameters = parameters_of(target) or {}
    annotation = parameters["task"].annotation if "task" in parameters else None
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)} if annotation else set()
    return not names or bool(names & {task, "Task", "Any"})


def _targets(group: str) -> dict[str, str]:
    """Return the class of each option of a group that comes with speechexp."""
    spec = importlib.util.find_spec(CONFIG_MODULE)
    folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path()
    files = sorted((folder / group).glob("*.yaml"))
    return {file.stem: str(OmegaConf.select(OmegaConf.load(file), "_target_")) for file in files}


_BOUNDS = {
    "model.segmentation_threshold": (0.0, 1.0),
    "model.min_duration_off": (0.0, float("inf")),
    "model.clustering_threshold": (0.0, 2.0),
    "model.min_cluster_size": (1, float("inf")),
    "model.segmentation_batch": (1, float("inf")),
    "model.embedding_batch": (1, float("inf")),
    "model.tune_trials": (0, float("inf")),
    "task.timelines": (0, float("inf")),
    "model.mixup_share": (0.0, 1.0),
    "model.mixup_alpha": (0.0, float("inf")),
    "model.mask_frames": (0, float("inf")),
    "model.mask_bins": (0, float("inf")),
    "data.validation_share": (0.0, 1.0),
    "data.test_share": (0.0, 1.0),
}


def _check_bounds(cfg: DictConfig) -> None:
    """Refuse numbers that can't be, which the classes themselves would do only once the data is there."""
    for name, (low, high) in _BOUNDS.items():
        value = OmegaConf.select(cfg, name)
        if value is not None and value != "auto" and not low <= value <= high:
            room = f"from {low:g} to {high:g}" if high < float("inf") else f"at least {low:g}"
            raise UserError(f"{name}={value} must be {room}.")
