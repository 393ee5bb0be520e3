"""Signals: what SIGTERM and Ctrl-C do, before and during training."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from speechexp.errors import Interrupted


class StopSignal:
    """Remembers a signal until the training loop is at a place where it can stop.

    Outside of `deferred` a signal raises `Interrupted` at once. Inside, the first one is only noted in
    `received`; a second one stops at once, without a checkpoint.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferring = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deferring and self.received is None:
            self.received = number
            from speechexp.console import say

            again = "; press Ctrl-C again to quit at once" if number == signal.SIGINT else ""
            say(f"\n[yellow]Stopping after this step to save a checkpoint{again}.[/yellow]")
            return
        raise Interrupted(number, saved=False)

    @contextmanager
    def installed(self) -> Iterator["StopSignal"]:
        """Handle SIGINT and SIGTERM while inside."""
        before: dict[int, Any] = {
            number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note signals instead of raising, while inside."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
