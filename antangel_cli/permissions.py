"""Where antangel keeps things, and who else may look: for `antangel doctor`."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from antangel_cli.places import HOMES, home


@dataclass(frozen=True)
class Place:
    """A directory as it is; `warning` is empty where nothing is wrong with it."""

    use: str
    path: str
    state: str
    warning: str


def examine_places(environ: Mapping[str, str], kernels: Path, model: Path | None = None) -> list[Place]:
    """The directories that antangel writes to and reads from; `kernels` is where compiled ones are run from."""
    places = [_place(use, path, _privacy(path)) for use in HOMES for path in [home(use, environ)]]
    places.append(_place("kernels", kernels, _execution(kernels)))
    return places if model is None else [*places, _place("model", model, _reading(model))]


def _place(use: str, path: Path, warnings: Iterator[str]) -> Place:
    return Place(use, str(path), _state(path), "; ".join(warnings))


def _state(path: Path) -> str:
    """Owner and mode, or that it is not there."""
    try:
        found = path.stat()
    except OSError as error:
        return "not there yet" if isinstance(error, FileNotFoundError) else str(error.strerror)
    return f"{_owner(found.st_uid)} {stat.filemode(found.st_mode)}"


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _privacy(path: Path) -> Iterator[str]:
    if not path.exists():
        return
    found = path.stat()
    if found.st_uid != os.getuid():
        yield f"it belongs to {_owner(found.st_uid)}"
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield f"others can enter it: chmod 700 {path}"
    if not os.access(path, os.W_OK):
        yield "it cannot be written"


def _execution(path: Path) -> Iterator[str]:
    existing = next(place for place in (path, *path.parents) if place.exists())
    if os.statvfs(existing).f_flag & os.ST_NOEXEC:
        yield "nothing can be run from there (noexec): set XDG_CACHE_HOME to another file system"
    yield from _privacy(path)


def _reading(path: Path) -> Iterator[str]:
    if not os.access(path, os.R_OK | os.X_OK):
        yield "it cannot be read"
        return
    closed = [file.name for file in sorted(path.iterdir()) if file.is_file() and not os.access(file, os.R_OK)]
    if closed:
        yield f"{len(closed)} files cannot be read, the first {closed[0]}"
