"""Ctrl-C in a chat: the first stops what is running, a second within a second leaves."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

TWICE_WITHIN_S = 1.0


class Interrupts:
    """When Ctrl-C was pressed, and whether what is running should stop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = float("-inf")
        self._stopped = False

    def press(self) -> bool:
        """Note a Ctrl-C; whether it is the second within a second."""
        now = self._clock()
        again = now - self._last < TWICE_WITHIN_S
        self._last = now
        return again

    def asked(self) -> bool:
        """Whether what is being done should stop."""
        return self._stopped

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While a message is taken, turn Ctrl-C into `asked`, so that no step and no file is cut in two."""
        self._stopped = False
        previous = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True
        if self.press():
            raise KeyboardInterrupt
