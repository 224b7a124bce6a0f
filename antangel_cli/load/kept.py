"""What is kept of a model in the user's cache: its routing profile, and the pack of the embedded one."""

from __future__ import annotations

import atexit
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from antangel_cli.places import home, private
from antangel_cli.source import EMBEDDED, Source


def cache_home() -> Path:
    """Where all that can be made again is kept."""
    return home("cache")


def profile_place(source: Source, weights: str) -> Path:
    """Where the routing totals of a model are kept: nothing per token, so nothing of a patient."""
    folder = cache_home() / "profiles"
    with contextlib.suppress(OSError):
        private(folder)
    return folder / f"{source.name}-{weights[:16]}.json"


def pack_of(source: Source, weights: str, announce: Callable[[str], None] | None) -> Path:
    """What is opened of a model: the directory itself, or what was packed of the embedded checkpoint.

    That one, whose hash is `weights`, is packed into the user's cache at the first use; where the cache cannot be
    written, the pack lives as long as this process.
    """
    import runtime

    if source.path != EMBEDDED:
        return source.path
    place = cache_home() / "packs" / f"{source.name}-{runtime.PACK_VERSION}-{weights[:16]}"
    if runtime.is_pack(place):
        return place
    if announce is not None:
        announce(f"Packing the {source.name} model, once: {place}")
    try:
        return _pack_aside(source.path, place)
    except OSError:
        folder = tempfile.TemporaryDirectory(prefix="antangel-pack-")
        atexit.register(folder.cleanup)
        return _pack_aside(source.path, Path(folder.name) / place.name)


def _pack_aside(source: Path, place: Path) -> Path:
    """Pack beside the place, then rename: two processes may do so at once, and the first one's stays."""
    import runtime

    private(place.parent)
    with tempfile.TemporaryDirectory(prefix=f"{place.name}.", dir=place.parent) as folder:
        made = Path(folder) / place.name
        runtime.write_pack(source, made)
        made.chmod(0o700)
        try:
            made.rename(place)
        except OSError:
            if not runtime.is_pack(place):
                raise
    return place
