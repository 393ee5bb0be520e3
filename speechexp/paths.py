"""Paths as people type them: whatever was typed, a question about it has an answer."""

import os
from pathlib import Path

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
