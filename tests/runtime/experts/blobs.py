"""A file of small experts, each of whose bytes can be told from any other's; and what pages them."""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels.formats import Format
from runtime.experts.policy import EvictionPolicy, Rhythm, make_policy
from runtime.experts.store import ExpertStore
from runtime.pack_layout import ExpertGeometry

FLOATS = Format.parse("bf16")
LAYERS, COUNT = 3, 6
GEOMETRY = ExpertGeometry((1, 2, 3), COUNT, FLOATS, FLOATS, 16, 16)
BLOB = GEOMETRY.blob_bytes


def pattern(expert: int, version: int = 0) -> NDArray[np.uint8]:
    """One blob of bytes that no other expert has, nor another version of the same."""
    return np.full(BLOB // 8, 1 + expert + 1000 * version, dtype=np.int64).view(np.uint8)


def write_blobs(path: Path) -> list[str]:
    """Writes all experts, and returns their checksums."""
    blobs = [pattern(expert).tobytes() for expert in range(GEOMETRY.blobs)]
    path.write_bytes(b"".join(blobs))
    return [hashlib.sha256(blob).hexdigest() for blob in blobs]


def stored(path: Path) -> ExpertStore:
    """All experts, in a new file."""
    return ExpertStore(path, GEOMETRY, write_blobs(path))


def named_policy(name: str) -> EvictionPolicy:
    return make_policy(name, Rhythm.of(LAYERS, COUNT, 2))


def bytes_at(address: int) -> bytes:
    """A blob as a kernel finds it."""
    return ctypes.string_at(address, BLOB)
