"""Paths as people type them, and files that are never seen half-written."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechexp.errors import UserError


def expand(path: str) -> Path:
    """Return a path with its ``~`` replaced; one of nobody's (``~x``) stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_folder(path: Path) -> bool:
    """Tell whether a folder is there; also of names too long for a file system, or with a NUL in them."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Tell whether a file is there; the same."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def require_folder(setting: str, path: Path, content: str) -> None:
    """Raise unless a setting names a folder that can be read.

    Args:
        setting: Such as ``data.path``.
        path: Its value.
        content: What the folder must hold, for the message.

    Raises:
        UserError: It is a file, is not there, or is closed to this user.
    """
    if not is_folder(path):
        found = "is a file" if is_file(path) else "does not exist"
    elif not os.access(path, os.R_OK | os.X_OK):
        found = "can't be read: see its permissions"
    else:
        return
    raise UserError(f"{setting}={path} must be a folder with {content}, but it {found}.")


def write_text(path: Path, content: str) -> None:
    """Write a text file that is never seen half-written, whichever processes write it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that is never seen half-written."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a file with a JSON line for each record."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
