"""A packed model: one file of dense tensors and one of expert blobs, mapped as they are. See docs/pack.md."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from kernels.formats import FLOATS, Matrix
from kernels.ops import ExpertPool
from kernels.registry import Announce
from runtime.config import ModelConfig
from runtime.errors import PROBLEMS_SHOWN, CheckpointError
from runtime.experts.store import ExpertStore
from runtime.inventory import EMBEDDING, dense_matrices, expert_layers, plain_tensors
from runtime.memory import ModelSizes
from runtime.pack_layout import PAGE, DenseEntry, ExpertGeometry
from runtime.pack_manifest import DENSE, EXPERTS, MANIFEST, PACK_AGAIN, PACK_VERSION, Manifest

__all__ = ["PACK_VERSION", "Pack", "is_pack"]


def is_pack(directory: str | Path) -> bool:
    """Whether a directory is a finished pack."""
    return (Path(directory) / MANIFEST).is_file()


class Pack:
    """An open pack. Its tensors are views of the mapped files and must not be written to."""

    def __init__(self, directory: Path, config: ModelConfig, manifest: Manifest) -> None:
        self.config = config
        self.manifest = manifest
        self._directory = directory
        self._entries = {entry.name: entry for entry in manifest.dense}
        self._dense_region, self._dense = _mapped(directory / DENSE)
        _, self._experts = _mapped(directory / EXPERTS)

    @classmethod
    def open(cls, directory: str | Path, config: ModelConfig | None = None) -> Self:
        """Checks the manifest, the sizes of all files and the geometry; hashes nothing. Raises CheckpointError."""
        directory = Path(directory)
        manifest = Manifest.read(directory)
        config = config or ModelConfig.from_directory(directory)
        config = replace(config, num_nextn_predict_layers=manifest.mtp_layers)
        problems = [*_file_problems(directory, manifest), *_dense_problems(config, manifest)]
        problems += _expert_problems(config, manifest)
        if problems:
            raise CheckpointError(
                f"{directory} is no complete pack: " + "; ".join(problems[:PROBLEMS_SHOWN]), PACK_AGAIN
            )
        return cls(directory, config, manifest)

    @property
    def nbytes(self) -> int:
        return self._dense.numel() + self._experts.numel()

    @property
    def sizes(self) -> ModelSizes:
        return ModelSizes.of_entries(self.config, self.manifest.dense, self.manifest.experts)

    @property
    def pageable(self) -> bool:
        return True

    def store(self, announce: Announce | None = None) -> ExpertStore:
        """The experts at rest, to be read one by one. Raises ExpertReadError."""
        return ExpertStore(self._directory / EXPERTS, self.manifest.experts, self.manifest.checksums[EXPERTS], announce)

    def fetch_dense(self) -> None:
        """Has what every token needs read from disk, in the background."""
        start = self._entries[EMBEDDING].end
        if start < len(self._dense):
            self._dense_region.madvise(mmap.MADV_WILLNEED, start, len(self._dense) - start)

    def release(self, name: str) -> None:
        """Takes the pages of an entry out of this process's memory; they are mapped again when they are touched."""
        entry = self._entries[name]
        self._dense_region.madvise(mmap.MADV_DONTNEED, entry.offset, entry.end - entry.offset)

    def tensor(self, name: str) -> Tensor:
        """An embedding, norm, router or bias. Raises KeyError."""
        entry = self._entry(name, is_matrix=False)
        return self._bytes(entry).view(FLOATS[entry.format.scale]).view(entry.shape)

    def matrix(self, name: str) -> Matrix:
        """A matrix that is no routed expert's. Raises KeyError."""
        entry = self._entry(name, is_matrix=True)
        rows, columns = entry.shape
        return Matrix(entry.format, rows, columns, self._bytes(entry))

    def experts(self, layer: int) -> ExpertPool:
        """The routed experts of a layer. Raises KeyError."""
        geometry = self.manifest.experts
        if layer not in geometry.layers:
            raise KeyError(f"layer {layer} has no experts")
        first = geometry.layers.index(layer) * geometry.count * geometry.blob_bytes
        blobs = self._experts[first : first + geometry.count * geometry.blob_bytes].view(geometry.count, -1)
        return geometry.pool(blobs)

    def _entry(self, name: str, *, is_matrix: bool) -> DenseEntry:
        entry = self._entries[name]
        if entry.is_matrix != is_matrix:
            raise KeyError(f"{name} is a {'matrix' if entry.is_matrix else 'plain tensor'}")
        return entry

    def _bytes(self, entry: DenseEntry) -> Tensor:
        return self._dense[entry.offset : entry.offset + entry.nbytes]


def _mapped(path: Path) -> tuple[mmap.mmap, Tensor]:
    """A file as bytes. It is mapped for reading only, so that it may be larger than the memory."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return mmap.mmap(-1, PAGE), torch.empty(0, dtype=torch.uint8)
            region = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be mapped: {error}", PACK_AGAIN) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return region, torch.frombuffer(region, dtype=torch.uint8)


def _file_problems(directory: Path, manifest: Manifest) -> Iterator[str]:
    for name, file in manifest.files.items():
        path = directory / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != file.nbytes:
            yield f"{name} has {path.stat().st_size} bytes instead of {file.nbytes}"
    yield from (f"{name} is not listed" for name in (DENSE, EXPERTS, "config.json") if name not in manifest.files)


def _dense_problems(config: ModelConfig, manifest: Manifest) -> Iterator[str]:
    wanted = {tensor.name: (False, tensor.shape) for tensor in plain_tensors(config)}
    wanted |= {matrix.name: (True, (matrix.rows, matrix.columns)) for matrix in dense_matrices(config)}
    found = {entry.name: (entry.is_matrix, entry.shape) for entry in manifest.dense}
    size = manifest.files[DENSE].nbytes if DENSE in manifest.files else 0
    for name in wanted.keys() | found.keys():
        if wanted.get(name) != found.get(name):
            yield f"{name}: its config calls for {wanted.get(name)}, the manifest lists {found.get(name)}"
    for entry in manifest.dense:
        if entry.offset % PAGE or entry.offset < 0 or entry.end > size:
            yield f"{entry.name} lies at {entry.offset}, outside {DENSE}"


def _expert_problems(config: ModelConfig, manifest: Manifest) -> Iterator[str]:
    found = manifest.experts
    wanted = ExpertGeometry(
        expert_layers(config),
        config.num_experts,
        found.gate_up,
        found.down,
        config.hidden_size,
        config.moe_intermediate_size,
    )
    if found != wanted:
        yield f"experts: its config calls for {wanted}, the manifest lists {found}"
    if EXPERTS in manifest.files and manifest.files[EXPERTS].nbytes != found.nbytes:
        yield f"{EXPERTS} is listed with {manifest.files[EXPERTS].nbytes} bytes, and its blobs have {found.nbytes}"
    for name, parts in ((DENSE, len(manifest.dense)), (EXPERTS, found.blobs)):
        if len(manifest.checksums[name]) != parts:
            yield f"there are {len(manifest.checksums[name])} checksums of the {parts} parts of {name}"
