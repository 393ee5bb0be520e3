"""Making a generated corpus: its folder once, by a child process, whatever ends the making early.

A corpus module runs itself in the child (`run_child`), whose main function is `serve`.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from filelock import FileLock

_PROGRESS_ROWS = 50


def make_once(folder: Path, prefix: str, fill: Callable[[Path], None]) -> Path:
    """Return a corpus folder, which is filled first if it is not there.

    A process that wants a corpus while another makes one with the same prefix waits. A folder is published by a
    rename, so that it is complete if it exists.

    Args:
        folder: where the corpus is to be; its name begins with `prefix`.
        prefix: what the names of all corpora of this kind begin with, ending in a hyphen.
        fill: writes the corpus into the empty folder it is given.

    Raises:
        OSError: when the folder cannot be made.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One lock for all recipes: its holder knows that every unfinished folder is abandoned.
    with FileLock(folder.parent / f"{prefix.rstrip('-')}.lock"):
        if folder.is_dir():
            return folder
        for abandoned in folder.parent.glob(f".{prefix}*.partial"):
            shutil.rmtree(abandoned, ignore_errors=True)
        partial = folder.parent / f".{folder.name}-{os.getpid()}.partial"
        try:
            partial.mkdir()
            fill(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def run_child(
    module: str, arguments: Sequence[str], name: str, progress: Callable[[int, int], None] | None
) -> None:
    """Run a module in a fresh process, which never outlives this call.

    Args:
        module: its main function is `serve`.
        arguments: of its command line.
        name: of the corpus, for messages.
        progress: called with the rows done and the rows in all.

    Raises:
        OSError: as raised in the child.
        ValueError: as raised in the child.
        RuntimeError: when the child fails otherwise; the message has the end of its stderr.
    """
    # The child must find what this process found, from whatever folder it was started.
    package_root = str(Path(__file__).resolve().parents[2])
    search_path = [package_root, *(str(Path(entry).absolute()) for entry in sys.path if entry)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(search_path)),
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
    }
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            encoding="utf-8",
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                message = json.loads(line)
                if "os_error" in message:
                    number, text, filename = message["os_error"]
                    raise OSError(number, text, filename)
                if "value_error" in message:
                    raise ValueError(message["value_error"])
                if progress is not None:
                    progress(message["done"], message["total"])
            status = child.wait()
        finally:
            # Also after Ctrl-C, and after an exception in `progress`.
            child.kill()
        if status != 0:
            errors.seek(0)
            end = errors.read()[-2000:].strip()
            raise RuntimeError(f"Making the {name} failed with exit status {status}: {end}")


def serve(write: Callable[[Path], None], folder: Path) -> int:
    """Write a corpus as the child of `run_child`, and tell the parent what fails.

    Args:
        write: writes the corpus into the folder, and calls `count_rows`.
        folder: where to.

    Returns:
        The exit status.
    """
    # Ctrl-C reaches both processes, and the parent ends this one. Taken here, it could be raised inside the
    # callback that collects samples, where ctypes drops exceptions, and a piece of speech with them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        write(folder)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            message: dict[str, object] = {
                "os_error": [error.errno or errno.EIO, reason, error.filename or str(folder)]
            }
        else:
            message = {"value_error": str(error)}
        # When the parent is gone nobody reads this.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(message), flush=True)
        return 1
    return 0


def count_rows(rows: Iterable[object], total: int, every: int = _PROGRESS_ROWS) -> None:
    """Go through rows as they are made, and tell the parent how many are done, after so many each."""
    for done, _ in enumerate(rows, start=1):
        if done % every == 0 or done == total:
            # Were the parent gone, this would break the pipe, and so end this process.
            print(json.dumps({"done": done, "total": total}), flush=True)
