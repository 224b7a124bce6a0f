"""Input lines as they come: numbered, bounded in size, and without waiting longer than asked."""

from __future__ import annotations

import io
import os
import select
from collections import deque
from dataclasses import dataclass, field
from typing import BinaryIO

CHUNK = 1 << 16
LONG = 1 << 20
"""Above this a line is an error."""
LONGEST = 4 << 20
"""Above this a line is skipped."""


@dataclass(frozen=True)
class Line:
    """One line of the input, without its end. `data` is None when it is longer than 4 MiB."""

    number: int
    data: bytes | None = field(repr=False)

    @property
    def blank(self) -> bool:
        """Whether there is nothing in it; a byte order mark is nothing."""
        return self.data is not None and not self.data.removeprefix(b"\xef\xbb\xbf").strip()


class Lines:
    """Reads lines without holding up what is in flight: `next` returns None when none has come in time.

    A line of more than 4 MiB is given out as soon as it is known to be one: its end may never come.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._file = _descriptor(stream)
        self._ready: deque[Line] = deque()
        self._part = bytearray()
        self._too_long = False
        self._number = 0
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether every line has been given out."""
        return self._ended and not self._ready

    def known_empty(self) -> bool:
        """Whether the input has ended before its first line, as far as that shows without waiting."""
        if not (self._ready or self._part or self._ended) and self._has_come(0.0):
            self._take(self._read())
        return self.ended

    def next(self, timeout_s: float) -> Line | None:
        """The next line, or None at the end or after `timeout_s` without one."""
        if not self._ready and not self._ended and self._has_come(timeout_s):
            self._take(self._read())
        return self._ready.popleft() if self._ready else None

    def _has_come(self, timeout_s: float) -> bool:
        return self._file is None or bool(select.select([self._file], [], [], timeout_s)[0])

    def _read(self) -> bytes:
        return self._stream.read(CHUNK) if self._file is None else os.read(self._file, CHUNK)

    def _take(self, chunk: bytes) -> None:
        if not chunk:
            self._ended = True
            if self._part:
                self._finish()
            return
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            self._extend(piece)
            self._finish()
        self._extend(rest)

    def _extend(self, piece: bytes) -> None:
        if self._too_long:
            return
        self._part += piece
        if len(self._part) > LONGEST:
            self._too_long = True
            self._give(None)

    def _finish(self) -> None:
        if not self._too_long:
            self._give(bytes(self._part).removesuffix(b"\r"))
        self._too_long = False

    def _give(self, data: bytes | None) -> None:
        self._number += 1
        self._ready.append(Line(self._number, data))
        self._part.clear()


def _descriptor(stream: BinaryIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
