"""The hub: what it refuses, said as one message that tells what to fetch where."""

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.markup import escape

from speechexp.console import say
from speechexp.errors import UserError, read_errors
from speechexp.paths import expand, is_folder

_CONVERTED = "refs/convert/parquet"  # the branch where the hub keeps a data set's copy in parquet


@contextmanager
def hub_errors(kind: str, name: str, offline: str) -> Iterator[None]:
    """Turn whatever the hub's libraries raise into a `UserError`.

    Args:
        kind: ``dataset`` or ``model``.
        name: The repository's id.
        offline: What works without a network, to be named in the message.
    """
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        chain = list(_causes(error))
        text = " ".join(str(each) for each in chain)

        def means(kind_of_error: type[Exception], words: str) -> bool:
            """Look for a cause; `datasets` raises some errors without one, so their words count too."""
            return any(isinstance(each, kind_of_error) for each in chain) or bool(re.search(words, text))

        if means(errors.GatedRepoError, r"\bis a gated (dataset|repo)"):
            raise UserError(
                f"The {kind} {name} is gated. Accept its conditions at {page}, then set HF_TOKEN to a token of "
                f"that account (or run `hf auth login`). {offline}"
            ) from error
        if means(errors.RevisionNotFoundError, r"^Revision '.*' doesn't exist"):
            raise UserError(
                f"The {kind} {name} has no such revision. See {page}/tree/main. {offline}"
            ) from error
        if means(errors.RepositoryNotFoundError, r"doesn't exist on the Hub"):
            raise UserError(
                f"The hub has no {kind} {name}, or it is private. Check the name at {page}; for a private one set "
                f"HF_TOKEN to a token that may read it. {offline}"
            ) from error
        if isinstance(error, (OSError, ValueError, RuntimeError)) and _is_unreachable(chain, text):
            raise UserError(
                f"The {kind} {name} can't be fetched: the hub is not reachable, and it is not in the local cache. "
                f"With a network, it comes from {page} (set HF_HOME for where it is kept, HF_ENDPOINT for a "
                f"mirror). {offline}"
            ) from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_unreachable(chain: Iterable[BaseException], text: str) -> bool:
    marks = (
        "couldn't reach",
        "can't reach",
        "offline",
        "connect",
        "couldn't find",
        "failed to resolve",
        "name resolution",
        "name or service not known",
        "timed out",
        "max retries",
    )
    return any(isinstance(each, (ConnectionError, TimeoutError)) for each in chain) or any(
        mark in text.lower() for mark in marks
    )


@contextmanager
def contact(repository: str) -> Iterator[None]:
    """Say that the hub is asked; while it is, its library is quiet.

    Where it does not answer at all, what is cached is looked up at once: left alone, the library tries again for
    half a minute, and has no setting for it.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        yield
        return
    # Each library reads its environment once, into a module of constants.
    switches = [constants, *(sys.modules[name] for name in ("datasets.config",) if name in sys.modules)]
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    say(f"contacting the hub for {escape(repository)}")
    try:
        logger.setLevel(logging.ERROR)
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception:  # of which class depends on the HTTP library below
            say("the hub does not answer: what is cached on this machine is used")
            for switch in switches:
                switch.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]
        logger.setLevel(level)


def require_hub_id(setting: str, name: str, otherwise: str) -> None:
    """Raise unless a setting that names no folder can be an id on the hub.

    Args:
        setting: Such as ``model.pretrained``.
        name: Its value.
        otherwise: What to do with a local copy.

    Raises:
        UserError: It looks like a path, or holds what no id does.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"{setting}={name} must be a hub id (OWNER/NAME), but can't be one, and as a folder it does not exist. "
            f"{otherwise}"
        ) from error


def hub_file(repository: str, revision: str, name: str) -> Path | None:
    """Return a model repository's file, fetched; None if it has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except EntryNotFoundError:  # also where it is neither cached nor reachable
        return None


def dataset_from_hub(
    name: str, config: str, revision: str | None, stand_in: str = "data=spanish_mini"
) -> dict[str, Any]:
    """Load a data set from the hub.

    Args:
        name: Its id.
        config: The part of it.
        revision: A branch, tag or commit.
        stand_in: What works without a network, for the message.

    Returns:
        ``datasets.Dataset`` by the name of its split.

    Raises:
        UserError: It can't be fetched, or can't be read.
    """
    import datasets

    datasets.disable_progress_bars()
    if is_folder(expand(name)):  # datasets would read it, and go on giving what it had read once
        raise UserError(f"data.name={name} must be a hub id, but is a folder. Give it as data.path={name}.")
    require_hub_id("data.name", name, "Give a local copy as data.path=DIR.")
    offline = f"Without a network: {stand_in}, or data.path=DIR with a local copy."
    with read_errors(f"data.name={name}"), hub_errors("dataset", name, offline), contact(name):
        return _load_dataset(name, config, revision)


def _load_dataset(name: str, config: str, revision: str | None) -> dict[str, Any]:
    """Load a data set from the branch that has its data."""
    import datasets
    from huggingface_hub import constants

    script = _is_script(name, revision)
    if script and revision is not None:
        raise UserError(
            f"data.revision={revision} of {name} is a script, which datasets no longer runs. "
            f"Leave data.revision out, or set data.revision={_CONVERTED}."
        )
    if script or revision == _CONVERTED:
        return _load_converted(name, config)
    try:
        return dict(datasets.load_dataset(name, config, revision=revision))
    except Exception as error:
        if isinstance(error, ValueError) and "BuilderConfig" in str(error):
            raise UserError(f"data.config={config} is not a part of {name}: {error}") from error
        if revision is None and constants.HF_HUB_OFFLINE:
            with suppress(Exception):  # it may be the converted copy that is cached
                return _load_converted(name, config)
        raise


def _load_converted(name: str, config: str) -> dict[str, Any]:
    """Load the copy in parquet that the hub makes: a folder for each config, in it one for each split."""
    import datasets
    from huggingface_hub import constants, snapshot_download

    snapshot = snapshot_download(
        name, repo_type="dataset", revision=_CONVERTED, allow_patterns=f"{config}/*/*.parquet"
    )
    files: dict[str, list[str]] = {}
    for file in sorted(Path(snapshot, config).glob("*/*.parquet")):
        files.setdefault(file.parent.name, []).append(str(file))
    if not files and constants.HF_HUB_OFFLINE:
        raise ConnectionError(f"couldn't reach the hub for {name}, {config}")
    if not files:
        raise UserError(f"data.config={config} is not a part of {name}. See its branch {_CONVERTED}.")
    return dict(datasets.load_dataset("parquet", data_files=files))


def _is_script(name: str, revision: str | None) -> bool:
    """Tell whether a repository is of the older kind: a script in the place of data."""
    from huggingface_hub import file_exists

    try:
        script = f"{name.rpartition('/')[2]}.py"
        return bool(file_exists(name, script, repo_type="dataset", revision=revision))
    except Exception:  # what is wrong, loading says better
        return False
