"""What pyannote.audio prints that tells a user of ours nothing."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_MEANINGLESS = (
    r"\s*torchcodec is not installed correctly",  # files are not decoded by pyannote here
    r"std\(\): degrees of freedom is <= 0",  # a mask of a single frame
    r"Mean of empty slice",  # nobody speaks long enough to be clustered
    r"invalid value encountered in divide",  # the same
)


@contextmanager
def quiet_pyannote() -> Iterator[None]:
    """Leave out the warnings and hints above while pyannote is imported, loads networks or runs."""
    migration = logging.getLogger("lightning.pytorch.utilities.migration.utils")
    level = migration.level
    with warnings.catch_warnings():
        for message in _MEANINGLESS:
            warnings.filterwarnings("ignore", message=message)
        migration.setLevel(logging.WARNING)  # it hints at rewriting a file that is not ours
        try:
            yield
        finally:
            migration.setLevel(level)
