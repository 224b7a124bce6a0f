"""A model of random weights that is never written: its experts and other weights are drawn as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from kernels.formats import FLOATS, Matrix
from kernels.ops import ExpertPool
from kernels.registry import Announce
from runtime.config import ModelConfig
from runtime.experts.store import ExpertStore
from runtime.inventory import EMBEDDING
from runtime.measuring.random_pack import Blobs, RandomModel, dense_pieces
from runtime.measuring.random_weights import Bytes
from runtime.memory import ModelSizes
from runtime.pack_layout import DenseEntry, ExpertGeometry


class RandomStore(ExpertStore):
    """The experts that a random pack would have, by number; nothing is compared with a checksum.

    Blobs may be read by many threads at once: they are copied from banks, and numpy lets others run meanwhile.
    """

    def __init__(self, geometry: ExpertGeometry) -> None:
        self.geometry = geometry
        self._blobs = Blobs(geometry)

    @property
    def verified(self) -> int:
        return 0

    def read(self, blob: int, place: memoryview) -> None:
        _write(np.frombuffer(place, dtype=np.uint8), self._blobs.pieces(blob))

    def close(self) -> None:
        pass


class RandomWeights:
    """The weights of a random pack without the pack.

    All but the experts are drawn at once, by so many threads, and each is let go of when it is taken: a GPU has its own
    copy. What is asked for again is drawn again, with the same bytes; the embedding stays.
    """

    def __init__(self, model: RandomModel, threads: int = 1) -> None:
        self.config: ModelConfig = model.config
        self._model = model
        self._geometry = model.geometry
        self._entries = {entry.name: (index, entry) for index, entry in enumerate(model.entries)}
        self._embedding: Tensor | None = None
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="random weights")
        self._drawn: dict[str, Future[Tensor]] = {
            name: self._pool.submit(_drawn, entry, index) for name, (index, entry) in self._entries.items()
        }

    @property
    def nbytes(self) -> int:
        return self._model.nbytes

    @property
    def sizes(self) -> ModelSizes:
        return ModelSizes.of_entries(self.config, self._model.entries, self._geometry)

    @property
    def pageable(self) -> bool:
        return True

    def store(self, announce: Announce | None = None) -> RandomStore:
        return RandomStore(self._geometry)

    def release(self, name: str) -> None:
        pass

    def tensor(self, name: str) -> Tensor:
        entry = self._entry(name, is_matrix=False)
        if name == EMBEDDING and self._embedding is not None:
            return self._embedding
        tensor = self._take(name).view(FLOATS[entry.format.scale]).view(entry.shape)
        if name == EMBEDDING:
            self._embedding = tensor
        return tensor

    def matrix(self, name: str) -> Matrix:
        entry = self._entry(name, is_matrix=True)
        rows, columns = entry.shape
        return Matrix(entry.format, rows, columns, self._take(name))

    def experts(self, layer: int) -> ExpertPool:
        """The routed experts of a layer, drawn for this call. Raises KeyError."""
        geometry = self._geometry
        if layer not in geometry.layers:
            raise KeyError(f"layer {layer} has no experts")
        first, store = geometry.layers.index(layer) * geometry.count, self.store()
        blobs = torch.empty(geometry.count, geometry.blob_bytes, dtype=torch.uint8)
        for row, place in enumerate(blobs.numpy()):
            store.read(first + row, place.data)
        return geometry.pool(blobs)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)
        self._drawn.clear()

    def _entry(self, name: str, *, is_matrix: bool) -> DenseEntry:
        entry = self._entries[name][1]
        if entry.is_matrix != is_matrix:
            raise KeyError(f"{name} is a {'matrix' if entry.is_matrix else 'plain tensor'}")
        return entry

    def _take(self, name: str) -> Tensor:
        drawn = self._drawn.pop(name, None)
        index, entry = self._entries[name]
        return drawn.result() if drawn is not None else _drawn(entry, index)


def _drawn(entry: DenseEntry, index: int) -> Tensor:
    """The bytes of an entry, at a multiple of 64."""
    place = torch.empty(entry.end - entry.offset, dtype=torch.uint8)
    _write(place.numpy(), dense_pieces(entry, index))
    return place[: entry.nbytes]


def _write(place: Bytes, pieces: Iterable[Bytes]) -> None:
    at = 0
    for piece in pieces:
        place[at : at + piece.size] = piece
        at += piece.size
