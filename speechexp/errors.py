"""What goes wrong through no defect of ours, and how it is worded."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can mend: shown as one message without a traceback, exit code 2.

    The message names the setting, its value, what was expected and what to type next.
    """


class OutOfMemory(UserError):
    """Memory ran out while a run was at work; what it has written is kept.

    Args:
        message: As of any `UserError`.
        settings: What to go on with from the run's last checkpoint.
    """

    def __init__(self, message: str, settings: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.settings = dict(settings or {})


class Interrupted(BaseException):
    """The run was asked to stop by a signal, and did, at a place it can go on from.

    Like KeyboardInterrupt it is no Exception, so that no library takes it for a failure of its own.

    Args:
        signal_number: ``signal.SIGINT`` or ``signal.SIGTERM``; the exit code is 128 more.
        saved: Whether a checkpoint was saved that ``resume=`` goes on from.
    """

    def __init__(self, signal_number: int, saved: bool) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
        self.saved = saved


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


def nearest(word: str, choices: Iterable[str], count: int = 3) -> str:
    """Return the ``count`` choices most like ``word``, as text; empty if none is alike."""
    return ", ".join(difflib.get_close_matches(word, list(choices), n=count, cutoff=0.5))


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return " Did you mean …?" with the nearest of ``choices``, or all of them if none is alike."""
    options = sorted(choices)
    close = nearest(word, options)
    if close:
        return f" Did you mean {close}?"
    return f" There is: {', '.join(options)}." if options else ""
