"""Networks of transformers: their settings checked, their weights fetched and compared one for one."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging as transformers_logging

from speechexp.errors import UserError, nearest, read_errors
from speechexp.hub import contact, hub_errors, hub_file, require_hub_id
from speechexp.paths import expand, is_file, is_folder

Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        config: The class of its configuration.
        called: What the user knows it as, with an article, such as ``a wav2vec2 network``.
        page: Where its settings are listed.
        offline: A model that needs no network, such as ``model=wav2vec2_tiny``.
    """

    config: Any
    called: str
    page: str
    offline: str

    def require_known(self, settings: Iterable[str]) -> None:
        """Raise unless each of ``model.network`` is a setting of the configuration.

        Raises:
            UserError: One isn't.
        """
        known = set(self.config().to_dict())
        for name in settings:
            if name not in known:
                close = nearest(name, known)
                hint = f"Did you mean {close}?" if close else f"See {self.page}."
                raise UserError(f"model.network.{name} is not a setting of {self.config.__name__}. {hint}")

    def build(self, network: Callable[[Any], Network], settings: Mapping[str, Any]) -> Network:
        """Build a network with random weights.

        Args:
            network: Its class.
            settings: Of its configuration.

        Raises:
            UserError: The settings describe no network.
        """
        try:
            return network(self.config(**settings))
        except Exception as error:  # transformers has a class of error for each kind of mistake
            told = "; ".join(line.strip() for line in str(error).splitlines())
            raise UserError(
                f"model.network does not describe a network ({type(error).__name__}: {told}). See {self.page}."
            ) from error


@dataclass(frozen=True)
class Fitted:
    """Which weights of a checkpoint did not fit a network, by the network's names.

    Attributes:
        reshaped: Of another shape in the checkpoint.
        missing: Not in the checkpoint.
        unused: In the checkpoint alone.
    """

    reshaped: list[str]
    missing: list[str]
    unused: list[str]

    def only(self, wanted: Callable[[str], bool]) -> "Fitted":
        """Return those that ``wanted`` is true of."""
        return Fitted(*([name for name in names if wanted(name)] for names in self._parts()))

    def names(self) -> list[str]:
        """Return all of them, sorted."""
        return sorted(name for names in self._parts() for name in names)

    def require_none(self, pretrained: str) -> None:
        """Raise if there is one.

        Raises:
            UserError: There is.
        """
        if self.names():
            raise UserError(
                f"The weights of model.pretrained={pretrained} do not fit the network that model.network describes: "
                f"{len(self.reshaped)} of another shape, {len(self.missing)} missing, {len(self.unused)} left over "
                f"(for example {self.names()[0]}). Leave the settings that change shapes out of model.network."
            )

    def _parts(self) -> tuple[list[str], list[str], list[str]]:
        return self.reshaped, self.missing, self.unused


class Source:
    """Where pretrained weights come from: a hub id, or a directory that save_pretrained wrote.

    Args:
        pretrained: ``model.pretrained``.
        revision: Of the hub id; None for its main branch.
        kind: What it must hold.
    """

    def __init__(self, pretrained: str, revision: str | None, kind: Kind) -> None:
        self.pretrained = pretrained
        self.kind = kind
        self._revision = revision or "main"
        self._directory = expand(pretrained) if is_folder(expand(pretrained)) else None
        self._from = pretrained if self._directory is None else str(self._directory)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what goes wrong while something is read into one message; transformers is quiet meanwhile.

        Raises:
            UserError: It can't be found, or can't be read.
        """
        before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()  # what it would warn of is in the loading report
        transformers_logging.disable_progress_bar()  # of weights that are read from the disk
        what = f"model.pretrained={self.pretrained}"
        try:
            if self._directory is not None:
                if not is_file(self._directory / "config.json"):
                    raise UserError(
                        f"{what} must be a directory that save_pretrained wrote, but it holds no config.json."
                    )
                with read_errors(what):
                    yield
            else:
                require_hub_id("model.pretrained", self.pretrained, "Check the path of a local copy.")
                offline = (
                    f"Without a network: {self.kind.offline}, or model.pretrained=DIR with a local copy."
                )
                hub = hub_errors("model", self.pretrained, offline)
                with read_errors(what), hub, contact(self.pretrained):
                    yield
        finally:
            transformers_logging.set_verbosity(before[0])
            if before[1]:
                transformers_logging.enable_progress_bar()

    def file(self, name: str) -> Path | None:
        """Return a file beside the weights; None if there is none."""
        if self._directory is None:
            return hub_file(self.pretrained, self._revision, name)
        return self._directory / name if is_file(self._directory / name) else None

    def json(self, name: str) -> Any:
        """Return what a JSON file beside the weights holds; None if there is no such file.

        Raises:
            ValueError: It is not JSON.
        """
        path = self.file(name)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    def config(self) -> Any:
        """Return the configuration.

        Raises:
            UserError: It is of another kind of network.
        """
        found, _ = PreTrainedConfig.get_config_dict(self._from, revision=self._revision)
        wanted = self.kind.config.model_type
        kind = found.get("model_type", wanted)
        if kind != wanted:
            raise UserError(
                f"model.pretrained={self.pretrained} must be {self.kind.called}, but is {kind} instead."
            )
        return self.kind.config.from_dict(found)

    def load(self, network: Any, settings: Mapping[str, Any]) -> tuple[Any, Fitted]:
        """Return a network with the weights that fit, in 32 bits, and which did not.

        Args:
            network: Its class.
            settings: What its configuration is to have instead of its own.

        Raises:
            UserError: The settings describe no network.
        """
        with torch.device("meta"):  # so that settings that can't be are not blamed on the weights
            self.kind.build(network, {**self.config().to_dict(), **settings})
        model, report = network.from_pretrained(
            self._from,
            revision=self._revision,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the caller compares: what does not fit is random now, or zero
            dtype=torch.float32,
            **settings,
        )
        reshaped = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
        return model, Fitted(reshaped, list(report["missing_keys"]), list(report["unexpected_keys"]))
