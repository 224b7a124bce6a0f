"""Packs whose weights are damaged although every checksum is right: what a fault in quantisation leaves behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.formats import Format
from runtime.pack import Pack
from runtime.pack_check import file_parts, hash_files
from runtime.pack_layout import DenseEntry, ExpertGeometry
from runtime.pack_manifest import DENSE, EXPERTS, MANIFEST, FileEntry

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Planes:
    """A pack's experts as bytes [blobs, blob_bytes], and its dense file; both may be changed."""

    geometry: ExpertGeometry
    entries: tuple[DenseEntry, ...]
    blobs: Bytes
    dense: Bytes

    def nibbles(self) -> list[Bytes]:
        """The planes of weights of gate_up and down, [blobs, bytes] each: views."""
        return [self.blobs[:, at : at + scales] for at, scales, _ in self._matrices()]

    def scales(self) -> list[Bytes]:
        """The planes of bf16 scales, [blobs, bytes] each: views."""
        return [self.blobs[:, at + scales : at + nbytes] for at, scales, nbytes in self._matrices()]

    def dense_scales(self, name: str) -> Bytes:
        """The scales of the matrix with this name: a view."""
        entry = next(entry for entry in self.entries if entry.name == name)
        at = entry.offset + entry.format.planes(*entry.shape).scales
        return self.dense[at : entry.offset + entry.nbytes]

    def layer(self, number: int) -> slice:
        """The blobs of the layer that is the so-manyth with experts."""
        return slice(number * self.geometry.count, (number + 1) * self.geometry.count)

    def _matrices(self) -> list[tuple[int, int, int]]:
        g = self.geometry
        shapes: list[tuple[int, Format, int, int]] = [
            (0, g.gate_up, 2 * g.inner, g.hidden),
            (g.down_offset, g.down, g.hidden, g.inner),
        ]
        return [(at, f.planes(rows, columns).scales, f.nbytes(rows, columns)) for at, f, rows, columns in shapes]


Damage = Callable[[Planes], object]


def damaged(pack: Path, made: Path, damage: Damage, *, kind: str = "") -> Path:
    """A copy of a pack with a damage, and with a manifest to match; `kind` says what its weights are."""
    shutil.copytree(pack, made)
    manifest = Pack.open(pack).manifest
    dense, experts = (np.fromfile(pack / name, dtype=np.uint8) for name in (DENSE, EXPERTS))
    damage(Planes(manifest.experts, manifest.dense, experts.reshape(manifest.experts.blobs, -1), dense))
    dense.tofile(made / DENSE)
    experts.tofile(made / EXPERTS)
    hashes = hash_files(made, file_parts(manifest.dense, manifest.experts))
    files = dict(manifest.files) | {name: FileEntry(manifest.files[name].nbytes, hashes[name].whole) for name in hashes}
    checksums = {name: found.parts for name, found in hashes.items()}
    source = dict(manifest.source) | ({"kind": kind} if kind else {})
    changed = replace(manifest, source=source, files=files, checksums=checksums)
    (made / MANIFEST).write_text(changed.to_json(), encoding="utf-8")
    return made


def scaled(scales: Bytes, factor: float) -> None:
    """Multiply bf16 numbers in place."""
    numbers = torch.from_numpy(np.ascontiguousarray(scales)).view(torch.bfloat16)
    scales[...] = (numbers * factor).view(torch.uint8).numpy()
