"""Reading inputs and writing outputs whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from antangel_cli.errors import BusyError, RejectedError, UsageError
from antangel_cli.terminal import Terminal

STDIN = "-"
MOST_BYTES = 64 << 20
LONGEST_NAME = 64
"""Characters of a file's name that a message repeats."""


def read_input(place: str, no_input: bool = False) -> bytes:
    """The bytes of a file, or of stdin for `-`. Raises UsageError, or RejectedError above 64 MiB."""
    if place == STDIN:
        if sys.stdin.isatty():
            _ask_for_text(no_input)
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        data = _read(Path(place))
    if len(data) > MOST_BYTES:
        raise RejectedError(f"{place} is larger than 64 MiB.", "Give a smaller file.", code="too_large", stage="input")
    return data


def _ask_for_text(no_input: bool) -> None:
    """Say on a terminal what is waited for. Raises UsageError where nothing may be asked."""
    if no_input:
        raise UsageError("Nothing is piped into stdin.", "Pipe the input in, or name a file.")
    Terminal().note("Write or paste the text; Enter, then Ctrl-D ends it.")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder.", "Name a file in it.") from None
    except OSError as error:
        raise _unreadable(str(path), error) from None


def _unreadable(place: str, error: OSError) -> UsageError:
    """Why a file cannot be read. A patient's words that were given in place of a name are not repeated."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return UsageError(f"{place} cannot be read: {error.strerror}.", "Check the file and its permissions.")
    if _is_like_a_name(place):
        return UsageError(f"{place} does not exist.", "Check the name.", code="no_such_file")
    remedy = 'Check the name. To give text instead of a file, pipe it in: echo "..." | antangel COMMAND -'
    return UsageError("There is no such file.", remedy, code="no_such_file")


def _is_like_a_name(place: str) -> bool:
    named = place.isascii() or Path(place).suffix != ""
    return named and not any(map(str.isspace, place)) and len(Path(place).name) <= LONGEST_NAME


def decode(data: bytes, place: str) -> str:
    """UTF-8 text without a byte order mark. Raises RejectedError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        from antangel_cli.clinic.readers.kinds import not_utf8

        message, remedy = not_utf8(data, error.start)
        raise RejectedError(f"{place}: {message}", remedy, stage="input") from None


def require_writable(output: str | None, force: bool) -> None:
    """Refuse an output that exists, before any work is done for it. Raises UsageError."""
    if output is None or output == STDIN or _is_device(Path(output)):
        return
    path = Path(output)
    try:
        beside, folder, there = path.parent.is_dir(), path.is_dir(), path.exists()
    except OSError as error:
        raise _unwritable(path, error) from None
    if not beside:
        raise UsageError(f"The folder of {path} does not exist.", "Make it first.")
    if folder:
        raise UsageError(f"{path} is a folder.", "Name a file.")
    if there and not force:
        raise _exists(path)


def _unwritable(path: Path, error: OSError) -> UsageError:
    """Why a file cannot be written. A name that is too long may be a patient's words, and is not repeated."""
    if error.errno == errno.ENAMETOOLONG:
        return UsageError("The name of the output is too long.", "Name it in 255 bytes or less.", code="name_too_long")
    return UsageError(f"{path} cannot be written: {error.strerror}.", "Choose another place.")


def require_appendable(output: str) -> None:
    """Refuse an output that cannot be gone on with: no file, or in no folder. Raises UsageError."""
    require_writable(output, force=True)
    if _is_device(Path(output)):
        raise UsageError(f"{output} is no file.", "Name a file, or use --skip-done.")


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists already.", "Name another file, or overwrite it with --force.", code="exists")


def _is_device(path: Path) -> bool:
    """Whether a path is a terminal, pipe or null device: something to write into, not to replace."""
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


def write_whole(output: str, content: str | bytes, force: bool) -> None:
    """Write a file so that it is there whole or not at all, readable by its owner only. Raises UsageError."""
    path = Path(os.path.realpath(output))
    data = content.encode() if isinstance(content, str) else content
    try:
        if _is_device(Path(output)):
            Path(output).write_bytes(data)
            return
        aside, _ = _write_aside(path, lambda file: file.write(data))
        try:
            _move(aside, path, force)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None


def replace_whole(path: Path, write: Callable[[BinaryIO], int]) -> int:
    """Put what is written in place of a file, whole or not at all, for its owner only; what `write` returns.

    At 0 the file is left as it was. Raises OSError.
    """
    aside, returned = _write_aside(path, write)
    try:
        if returned:
            aside.replace(path)
            sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)
    return returned


def _write_aside(path: Path, write: Callable[[BinaryIO], int]) -> tuple[Path, int]:
    """A new file beside another, on disk, and what `write` returns."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            returned = write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name), returned


def _move(aside: Path, path: Path, force: bool) -> None:
    if force:
        aside.replace(path)
        return
    try:
        # A link, unlike a rename, fails when someone made the file meanwhile.
        os.link(aside, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        if path.exists():
            raise _exists(path) from None
        aside.replace(path)


def sync_folder(folder: Path) -> None:
    """Make sure that what was renamed in a folder is on disk under its new name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def open_lines(output: str | None, force: bool) -> Iterator[Callable[[str], None]]:
    """Something that writes a line and flushes it: to stdout, or to a file that only its owner reads."""
    if output is None or output == STDIN:
        yield _writer(sys.stdout, "stdout")
        return
    with _open_new(Path(output), force) as file:
        yield _writer(file, output)
        file.flush()
        if not _is_device(Path(output)):
            os.fsync(file.fileno())


def _open_new(path: Path, force: bool) -> TextIO:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force or _is_device(path) else os.O_EXCL)
    try:
        file = os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    if not _is_device(path):
        lock(file, path)
    return file


def lock(file: IO[Any], path: Path) -> None:
    """Make a file of lines ours alone until it is closed. Raises BusyError where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise BusyError(f"Another process writes {path}.", "Wait until it ends.") from None


def _writer(stream: TextIO, place: str) -> Callable[[str], None]:
    def write(line: str) -> None:
        try:
            stream.write(f"{line}\n")
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"{place} cannot be written: {error.strerror}.", "Make room, or move it.") from None

    return write


def open_input(place: str) -> BinaryIO:
    """An input to read as it comes. Raises UsageError."""
    if place == STDIN:
        return sys.stdin.buffer
    try:
        return cast(BinaryIO, Path(place).open("rb", buffering=0))
    except OSError as error:
        raise _unreadable(place, error) from None
