"""Packs a checkpoint, and checks what was packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from antangel_cli.errors import UsageError
from antangel_cli.load.problems import pack_problems
from antangel_cli.meter import Advance

if TYPE_CHECKING:
    import runtime


@dataclass(frozen=True)
class MadePack:
    """A pack that was verified: where it is and what is in it. `errors` are relative, by part."""

    directory: str
    formats: dict[str, str]
    bytes: int
    blobs: int
    errors: dict[str, float]


def write_pack(
    checkpoint: str,
    directory: str,
    formats: Mapping[str, str],
    *,
    packing: Advance,
    verifying: Advance,
    announce: Callable[[str], None],
) -> MadePack:
    """Pack a checkpoint in the formats asked for, by part. Raises UsageError or ModelError."""
    import runtime

    telling = runtime.Telling(packing, verifying, announce)
    try:
        with pack_problems():
            return _made_pack(directory, runtime.write_pack(checkpoint, directory, telling=telling, **formats))
    except OSError as error:
        raise UsageError(f"{error.filename or directory}: {error.strerror}.", "Name another directory.") from error


def check_pack(directory: str, verifying: Advance) -> MadePack:
    """Read a pack to its last byte. Raises ModelError where one is not as it was written."""
    import runtime

    with pack_problems():
        return _made_pack(directory, runtime.check_pack(directory, verifying))


def _made_pack(directory: str, manifest: runtime.Manifest) -> MadePack:
    size = sum(file.nbytes for file in manifest.files.values())
    return MadePack(directory, dict(manifest.formats), size, manifest.experts.blobs, dict(manifest.errors))
