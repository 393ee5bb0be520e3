"""The hub: what it refuses, said as one message that tells what to fetch where."""

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape

from speechexp.console import say
from speechexp.errors import UserError
from speechexp.paths import expand, is_folder

_CONVERTED = "refs/convert/parquet"  # the branch where the hub keeps a data set's copy in parquet


@contextmanager
def read_errors(what: str) -> Iterator[None]:
    """Turn whatever a library raises while it reads something of the user's into a `UserError`.

    Args:
        what: The setting with its value, or the file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        texts = [(str(each).strip() or type(each).__name__).splitlines()[0] for each in (error, root)]
        raise UserError(f"{what} can't be read: {': '.join(dict.fromkeys(texts)).rstrip('.')}.") from error


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
        "resolve",
        "timed out",
        "max retries",
    )
    return any(isinstance(each, (ConnectionError, TimeoutError)) for each in chain) or any(
        mark in text.lower() for mark in marks
    )


@contextmanager
def contact(name: str) -> Iterator[None]:
    """Say that the hub is asked; while it is, its libraries are quiet.

    Where it does not answer at all, they go straight to what they have cached: left alone, they try again for
    half a minute, and have no setting for it.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        yield
        return
    switches = [constants, *(sys.modules[each] for each in ["datasets.config"] if each in sys.modules)]
    loggers = [logging.getLogger(library) for library in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    say(f"contacting the hub for {escape(name)}")
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception:  # of which class depends on the HTTP library below
            say("the hub does not answer: what is cached on this machine is used")
            for switch in switches:
                setattr(switch, "HF_HUB_OFFLINE", True)  # noqa: B010
        yield
    finally:
        for switch in switches:
            setattr(switch, "HF_HUB_OFFLINE", False)  # noqa: B010
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def require_hub_id(setting: str, name: str) -> None:
    """Raise unless a setting that names no folder can be an id on the hub.

    Raises:
        UserError: It looks like a path, or holds what no id does.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII) or name.startswith((".", "-")):
        raise UserError(
            f"{setting}={name} must be a hub id (OWNER/NAME) or a folder, but that folder does not exist."
        )


def hub_file(repository: str, revision: str, name: str) -> Path | None:
    """Return a model repository's file, fetched; None if it has no such file."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception:  # missing, or neither cached nor reachable
        return None


def dataset_from_hub(name: str, config: str, revision: str | None) -> dict[str, Any]:
    """Load a data set from the hub, or from a folder that holds what a repository would.

    Returns:
        ``datasets.Dataset`` by the name of its split.

    Raises:
        UserError: It can't be fetched, or can't be read.
    """
    import datasets

    datasets.disable_progress_bars()
    offline = "Without a network: data=spanish_mini, or data.path=DIR with a local copy."
    with read_errors(f"data.name={name}"):
        if is_folder(expand(name)):
            return _load_dataset(str(expand(name)), config, revision)
        require_hub_id("data.name", name)
        with hub_errors("dataset", name, offline), contact(name):
            return _load_dataset(name, config, revision)


def _load_dataset(name: str, config: str, revision: str | None) -> dict[str, Any]:
    import datasets

    try:
        if revision == _CONVERTED:
            # Its folders are the configs; it has no README that would list them.
            return dict(datasets.load_dataset(name, data_dir=config, revision=revision))
        return dict(datasets.load_dataset(name, config, revision=revision))
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        if revision is None:
            return _load_dataset(name, config, _CONVERTED)
        raise UserError(
            f"data.revision={revision} of {name} is a script, which `datasets` no longer runs. "
            f"Leave data.revision out, or set data.revision={_CONVERTED}."
        ) from error
    except ValueError as error:
        if "BuilderConfig" not in str(error):
            raise
        raise UserError(f"data.config={config} is not a part of {name}: {error}") from error
