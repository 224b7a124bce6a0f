"""Signals in a chat: Ctrl-C stops what is running, a second within a second leaves; SIGTERM and SIGHUP end it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

TWICE_WITHIN_S = 1.0


class EndedError(KeyboardInterrupt):
    """The process was told to end; `code` is its exit code."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into EndedError, so that the terminal and an editor's file are seen to."""
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise EndedError(number)


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
