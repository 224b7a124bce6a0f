"""Where sessions lie: `$XDG_DATA_HOME/antangel/sessions`, a file each that only its owner reads."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

from antangel_cli.chatting.session import Session
from antangel_cli.errors import UsageError
from antangel_cli.files import read_input, write_whole
from antangel_cli.places import home, private

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_DAY_S = 86_400.0

Mark = tuple[int, int, int] | None
"""What tells one state of a file from another: inode, size, time of change in ns; None where there is no file."""


def folder() -> Path:
    """The folder of all sessions."""
    return home("data") / "sessions"


def path_of(name: str) -> Path:
    """The file of a session. Raises UsageError for what is no name; it is not repeated."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            "That is no name of a session.", "Use up to 64 letters, digits, dots, hyphens and underscores."
        )
    return folder() / f"{name}.json"


def computed_path(name: str) -> Path:
    """The file of what a model computed of a session (computed.py)."""
    return path_of(name).with_name(f"{name}.safetensors")


def names() -> list[str]:
    """The sessions there are, the last one changed first."""
    files = [(file.stat().st_mtime_ns, file.stem) for file in folder().glob("*.json") if _NAME.fullmatch(file.stem)]
    return [name for _, name in sorted(files, reverse=True)]


def changed(name: str) -> float:
    """When a session was last written, in seconds since the epoch."""
    return path_of(name).stat().st_mtime


def mark(name: str) -> Mark:
    """The state of a session's file."""
    try:
        found = path_of(name).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def read(name: str) -> Session:
    """A session. Raises UsageError where there is none, or it is damaged."""
    path = path_of(name)
    if not path.is_file():
        raise UsageError("There is no such session.", "/sessions lists them.", code="no_such_session")
    return Session.from_json(read_input(str(path)), name)


def write(name: str, session: Session, known: Mark) -> Mark:
    """Write a session whole, in place of the state that is known; the new state. Raises UsageError for another one."""
    path = path_of(name)
    try:
        private(path.parent)
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be made: {error.strerror}.", "Check its permissions.") from None
    if mark(name) != known:
        raise UsageError(
            "The session was changed or deleted by another process; this turn is not in it.",
            "Keep what is here under another name: /save NAME",
            code="session_changed",
        )
    write_whole(str(path), session.to_json(), force=True)
    return mark(name)


def delete(name: str) -> None:
    """Delete a session with all that is beside it. Raises UsageError where there is none."""
    path = path_of(name)
    if not path.is_file():
        raise UsageError("There is no such session.", "/sessions lists them.", code="no_such_session")
    delete_computed(name)
    for file in (*_asides(path), path):
        file.unlink(missing_ok=True)


def delete_computed(name: str) -> None:
    """Delete what was computed of a session, if it is there, and what a killed process left of that."""
    path = computed_path(name)
    for file in (*_asides(path), path):
        file.unlink(missing_ok=True)


def _asides(path: Path) -> list[Path]:
    """Files that were being written when a process ended (files.py)."""
    return [*path.parent.glob(f".{path.name[:40]}.*")]


def delete_older(max_age_days: int | None) -> int:
    """Delete the sessions that nobody has changed for so many days; how many those were."""
    if max_age_days is None or not folder().is_dir():
        return 0
    old = time.time() - max_age_days * _DAY_S
    expired = [name for name in names() if changed(name) < old]
    for name in expired:
        delete(name)
    return len(expired)


def delete_left_over() -> None:
    """Delete what was computed of sessions that are gone, and what killed processes left a day ago or longer."""
    for file in folder().glob("*.safetensors"):
        if not file.with_suffix(".json").exists():
            file.unlink(missing_ok=True)
    for aside in folder().glob(".*"):
        with contextlib.suppress(OSError):
            if aside.stat().st_mtime < time.time() - _DAY_S:
                aside.unlink()
