"""Where a batch's lines go: a stream, or a file that is gone on with."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from antangel_cli.batching.earlier import Earlier
from antangel_cli.batching.fingerprint import Fingerprints
from antangel_cli.errors import UsageError
from antangel_cli.files import lock, open_lines, sync_folder

Write = Callable[[str], None]


class Output(Protocol):
    """Takes lines, in the order in which they are to be."""

    @property
    def earlier(self) -> Earlier | None:
        """What an earlier run has written, if it is gone on with."""

    def write(self, line: str) -> None:
        """Put a new line out, at once."""

    def keep(self, offset: int) -> None:
        """Take the line that is there already, at `offset`, as the next one."""

    def finish(self, reached: int | None) -> None:
        """All is written: up to input line `reached`, or (None) all of the input."""


class Stream:
    """Lines to stdout or into a new file; what was done earlier (`--skip-done`) is left out."""

    def __init__(self, write: Write, earlier: Earlier | None = None) -> None:
        self.earlier = earlier
        self._write = write

    def write(self, line: str) -> None:
        """Put a line out."""
        self._write(line)

    def keep(self, offset: int) -> None:
        """Nothing: the line is elsewhere."""

    def finish(self, reached: int | None) -> None:
        """Nothing: every line went out as it came."""


class Journal:
    """An output file that is gone on with.

    New lines are appended, so that whenever the process is killed all that was done is there. At the end, where the
    lines are not in order or some are no longer needed, the file is written anew beside itself and renamed.
    """

    def __init__(self, path: Path, reading: BinaryIO, appending: BinaryIO, earlier: Earlier) -> None:
        self.earlier = earlier
        self._path = path
        self._reading = reading
        self._appending = appending
        self._end = earlier.end
        self._order = array("Q")

    def write(self, line: str) -> None:
        """Append a line."""
        data = f"{line}\n".encode()
        try:
            self._appending.write(data)
            self._appending.flush()
        except OSError as error:
            raise unwritable(self._path, error) from None
        self._order.append(self._end)
        self._end += len(data)

    def keep(self, offset: int) -> None:
        """Take a line that is there."""
        self._order.append(offset)

    def finish(self, reached: int | None) -> None:
        """Put the lines in order: those of this run, then those of an earlier one that are still needed."""
        os.fsync(self._appending.fileno())
        there = len(self.earlier) + sum(offset >= self.earlier.end for offset in self._order)
        self._order.extend(self.earlier.left(reached))
        ascending = all(a < b for a, b in zip(self._order, self._order[1:], strict=False))
        if not (ascending and len(self._order) == there):
            self._rewrite()

    def _rewrite(self) -> None:
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self._path.name[:40]}.", dir=self._path.parent)
            try:
                with os.fdopen(handle, "wb") as aside:
                    aside.writelines(self._lines())
                    aside.flush()
                    os.fsync(aside.fileno())
                os.replace(name, self._path)
            finally:
                Path(name).unlink(missing_ok=True)
            sync_folder(self._path.parent)
        except OSError as error:
            raise unwritable(self._path, error) from None

    def _lines(self) -> Iterator[bytes]:
        for offset in self._order:
            self._reading.seek(offset)
            yield self._reading.readline()


@contextlib.contextmanager
def resumed(output: str, prints: Fingerprints) -> Iterator[Journal]:
    """The file to go on with, made if it is not there, its torn last line cut off.

    Raises UsageError where it is no output of a batch under these settings, BusyError where another batch writes it.
    """
    path = Path(os.path.realpath(output))
    with _open(path) as appending, path.open("rb") as reading:
        lock(appending, path)
        earlier = Earlier(reading, output, prints)
        os.ftruncate(appending.fileno(), earlier.end)
        yield Journal(path, reading, appending, earlier)


@contextlib.contextmanager
def streamed(output: str | None, force: bool, done: str | None, prints: Fingerprints | None) -> Iterator[Stream]:
    """A new file or stdout, without what the file `done` has. Raises UsageError."""
    with contextlib.ExitStack() as stack:
        earlier = None
        if done is not None and prints is not None:
            earlier = Earlier(stack.enter_context(_open_done(done)), done, prints)
            _cut_torn_line(done, earlier)
        yield Stream(stack.enter_context(open_lines(output, force)), earlier)


def unwritable(path: Path, error: OSError) -> UsageError:
    """Why a file cannot be written."""
    return UsageError(f"{path} cannot be written: {error.strerror}.", "Choose another place, or make room.")


def _open(path: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab"))
    except OSError as error:
        raise unwritable(path, error) from None


def _open_done(place: str) -> BinaryIO:
    try:
        return Path(place).open("rb")
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror}.", "Name the output of a batch.") from None


def _cut_torn_line(place: str, earlier: Earlier) -> None:
    """With `--skip-done out >> out`, cut a torn last line off: ours would be read as a part of it."""
    with contextlib.suppress(OSError, ValueError):
        stdout = sys.stdout.fileno()
        if os.path.samestat(os.stat(place), os.fstat(stdout)):
            os.ftruncate(stdout, earlier.end)
