"""The hub: what it refuses, said as one message that tells what to fetch where."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechexp.errors import UserError


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
    except Exception as error:
        chain = list(_causes(error))
        text = " ".join(str(each) for each in chain)
        if any(isinstance(each, errors.GatedRepoError) for each in chain) or "gated" in text.lower():
            raise UserError(
                f"The {kind} {name} is gated. Accept its conditions at {page}, then set HF_TOKEN to a token of "
                f"that account (or run `hf auth login`). {offline}"
            ) from error
        if any(isinstance(each, errors.RevisionNotFoundError) for each in chain):
            raise UserError(
                f"The {kind} {name} has no such revision. See {page}/tree/main. {offline}"
            ) from error
        if any(isinstance(each, errors.RepositoryNotFoundError) for each in chain):
            raise UserError(
                f"The hub has no {kind} {name}, or it is private. Check the name at {page}; for a private one set "
                f"HF_TOKEN to a token that may read it. {offline}"
            ) from error
        if isinstance(error, (OSError, ConnectionError, ValueError, RuntimeError)) and _is_unreachable(
            chain, text
        ):
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


def dataset_from_hub(
    name: str, config: str, revision: str | None, path: Path | None, splits: Iterable[str]
) -> dict[str, Any]:
    """Load a data set with its audio left encoded, from the hub or from a ``save_to_disk`` folder.

    Returns:
        The splits that are there, as ``datasets.Dataset`` whose ``audio`` is ``{"bytes", "path"}``.

    Raises:
        UserError: It can't be fetched.
    """
    import datasets

    offline = "Without a network: data=spanish_mini, or data.path=DIR with a local copy."
    datasets.disable_progress_bars()
    if path is not None:
        loaded = datasets.load_from_disk(str(path))
    else:
        with hub_errors("dataset", name, offline):
            try:
                loaded = datasets.load_dataset(name, config, revision=revision)
            except RuntimeError as error:
                if "scripts are no longer supported" not in str(error):
                    raise
                # The repository's main branch is a script; the hub keeps a converted copy beside it.
                loaded = datasets.load_dataset(name, config, revision="refs/convert/parquet")
            except ValueError as error:
                if "BuilderConfig" not in str(error):
                    raise
                raise UserError(f"data.config={config} is not a part of {name}: {error}") from error
    return {
        split: loaded[split].cast_column("audio", datasets.Audio(decode=False))
        for split in splits
        if split in loaded
    }
