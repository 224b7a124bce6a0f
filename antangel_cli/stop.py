"""Signals in a batch: the first stops the reading, the second stops at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from antangel_cli.errors import INTERRUPTED, TERMINATED

_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


class Stop:
    """Whether the run was asked to stop, and the exit code that then goes with it."""

    def __init__(self) -> None:
        self.code: int | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.code is not None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Listen for SIGINT and SIGTERM."""
        previous = {number: signal.signal(number, self._on_signal) for number in _CODES}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise SystemExit(_CODES[signal.Signals(number)])
        self.code = _CODES[signal.Signals(number)]
