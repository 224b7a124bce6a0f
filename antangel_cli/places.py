"""Where antangel keeps things: the XDG Base Directory Specification's directories, and how a private one is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

NAME = "antangel"
# The variable that moves each, and where it is otherwise, in the home directory.
HOMES = {
    "config": ("XDG_CONFIG_HOME", ".config"),
    "cache": ("XDG_CACHE_HOME", ".cache"),
    "state": ("XDG_STATE_HOME", ".local/state"),
    "data": ("XDG_DATA_HOME", ".local/share"),
}


def home(use: str, environ: Mapping[str, str] | None = None) -> Path:
    """The directory for one use. A relative path in a variable is ignored: it would mean the working directory."""
    variable, otherwise = HOMES[use]
    named = (os.environ if environ is None else environ).get(variable, "")
    base = Path(named) if named.startswith("/") else Path.home() / otherwise
    return base / NAME


def private(folder: Path) -> Path:
    """Make a directory, and what is missing above it, enterable by its owner only. Raises OSError.

    `mkdir(parents=True)` gives its mode to the last directory alone.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)
    return folder
