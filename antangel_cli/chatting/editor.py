"""A message written in the user's editor, in a file that only they can read and that never outlives the editing."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from antangel_cli.errors import UsageError


def edit(text: str) -> str:
    """The text as $VISUAL, or $EDITOR, left it. Raises UsageError where the editor cannot be started, or fails."""
    with _undisturbed(), tempfile.TemporaryDirectory(prefix="antangel-", dir=_memory()) as folder:
        path = Path(folder) / "message.md"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        _run(path)
        return _read(path)


def _run(path: Path) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        with _screen() as screen:
            # Messages that are piped in are not the editor's keys.
            keys = None if sys.stdin.isatty() else subprocess.DEVNULL
            code = subprocess.call([*shlex.split(command), str(path)], stdin=keys, stdout=screen)
    except (OSError, ValueError):
        raise UsageError("The editor cannot be started.", "Name one in VISUAL or EDITOR.") from None
    if code:
        raise UsageError(f"The editor ended with exit code {code}; nothing is sent.", "Write it again.")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    except OSError:
        raise UsageError("The editor left no file; nothing is sent.", "Write it again.") from None


@contextlib.contextmanager
def _screen() -> Iterator[IO[bytes] | None]:
    """Where the editor draws: stdout, or the terminal where stdout is not one."""
    with contextlib.ExitStack() as held:
        file = None
        if not sys.stdout.isatty():
            with contextlib.suppress(OSError):
                file = held.enter_context(Path("/dev/tty").open("wb", buffering=0))
        yield file


def _memory() -> str | None:
    """The user's runtime directory, which is in memory; otherwise the folder for temporary files."""
    place = os.environ.get("XDG_RUNTIME_DIR", "")
    return place if place.startswith("/") and os.access(place, os.W_OK | os.X_OK) else None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C is the editor's: the terminal sends it to both. A child does not inherit this handler."""
    previous = signal.signal(signal.SIGINT, _pass_over)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _pass_over(number: int, frame: FrameType | None) -> None:
    """Do nothing, unlike SIG_IGN, which a child would inherit."""
