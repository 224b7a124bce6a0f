"""All experts of a pack at rest in host memory: read once, in frames that a GPU reads as they are."""

from __future__ import annotations

import contextlib
import mmap
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.registry import Announce
from runtime.errors import gib
from runtime.experts.store import ExpertStore
from runtime.experts.transfer import Cause, ExpertTransfer
from runtime.hardware import large_pages, large_pages_for

# Bytes that are registered with the driver at a time, at most, in whole frames: Ctrl-C is heard in between.
PIECE = 1 << 30

# Is told how many experts have been read, and of how many.
Progress = Callable[[int, int], None]

# Has an expert's bytes, uint8 [blob bytes] and good for the time of the call, copied to a slot: (slot, blob, bytes).
Place = Callable[[int, int, Tensor], None]


class Pinner(Protocol):
    """What keeps pages where they are and lets a GPU read them. Raises RuntimeError where the driver refuses."""

    def register(self, address: int, nbytes: int) -> None: ...

    def unregister(self, address: int) -> None: ...

    def device_pointer(self, address: int) -> int:
        """What a kernel finds registered memory by."""
        ...


class HostPool:
    """Experts in frames of one size, in one region of host memory; there is never a second copy of it.

    With as many frames as experts, expert b has frame b. With fewer each expert is in a slot or in a frame, once; where
    all have slots there may be no frame. Close it when nothing reads its memory any more.
    """

    def __init__(self, frames: int, blob_bytes: int, location: NDArray[np.int32]) -> None:
        """Frames that are empty. Raises CapacityError where there is no address space for them."""
        self.frames = frames
        self.blob_bytes = blob_bytes
        self.location = torch.from_numpy(location)  # int32 [B]: slot s as s, frame f as -1 - f
        self._region = _region(frames * blob_bytes) if frames else None
        self._memory: Tensor | None = torch.empty(0, blob_bytes, dtype=torch.uint8)
        if self._region is not None:
            self._memory = torch.frombuffer(self._region, dtype=torch.uint8).view(frames, blob_bytes)
        self.base = self._memory.data_ptr()
        self.device_base = 0  # the address of frame 0 as a GPU sees it, 0 where it does not
        self._pinner: Pinner | None = None
        self._pieces: list[int] = []  # addresses of what is registered

    @classmethod
    def load(
        cls,
        store: ExpertStore,
        frames: int,
        slots: int = 0,
        *,
        readers: int = 4,
        place: Place | None = None,
        totals: NDArray[np.int64] | None = None,
        pinner: Pinner | None = None,
        progress: Progress | None = None,
        announce: Announce | None = None,
    ) -> Self:
        """Reads every expert, compares it with its checksum, and pins the frames where there is a `pinner`.

        With fewer frames than experts the experts that were used the most by `totals`, else the first, go to the slots:
        `place` is called for each, from threads of its own but one at a time. Where pinning is refused nothing stays
        pinned, and `announce` is told. On an error or Ctrl-C no thread, pin or memory is left behind.

        Raises ExpertReadError, CapacityError, and ValueError where experts are left over.
        """
        location = initial_locations(store.geometry.blobs, frames, slots, totals)
        if place is None and (location >= 0).any():
            raise ValueError(f"{frames} frames do not hold all experts, and nothing places the others")
        pool = cls(frames, store.geometry.blob_bytes, location)
        try:
            pool._fill(store, readers, place, progress)
            pool._pin(pinner, announce)
        except BaseException:
            pool.close()
            raise
        return pool

    @property
    def memory(self) -> Tensor:
        """The frames, uint8 [frames, blob bytes]. Raises ValueError when the pool is closed."""
        if self._memory is None:
            raise ValueError("the host pool is closed")
        return self._memory

    @property
    def nbytes(self) -> int:
        return self.frames * self.blob_bytes

    @property
    def exclusive(self) -> bool:
        return self.frames < len(self.location)

    @property
    def pinned(self) -> bool:
        """Whether the driver keeps the frames in place for the GPU."""
        return bool(self._pieces)

    @property
    def piece_frames(self) -> int:
        """Frames that were registered together: one copy by the driver should not go beyond a multiple of these."""
        return max(1, PIECE // self.blob_bytes)

    def owner(self, slots: int) -> Tensor:
        """The expert in each of so many slots at first, -1 for none: int32 [N]."""
        owner = torch.full((slots,), -1, dtype=torch.int32)
        placed = (self.location >= 0).nonzero().squeeze(1)
        owner[self.location[placed].long()] = placed.int()
        return owner

    def close(self) -> None:
        """Takes back what is pinned, and gives back the memory, even where a view of it is still held."""
        self._unpin()
        if self._region is not None:
            self._region.madvise(mmap.MADV_DONTNEED)
        self._region = self._memory = None

    def _fill(self, store: ExpertStore, readers: int, place: Place | None, progress: Progress | None) -> None:
        """In the order of the file."""
        read = _Reading(self.memory, store, readers, place)
        transfer = ExpertTransfer(read, readers)
        try:
            for blob, location in enumerate(self.location.tolist()):
                transfer.request(blob, location, Cause.PREWARM)
            done, total = 0, len(self.location)
            while done < total:
                for arrival in transfer.wait():
                    if arrival.error is not None:
                        raise arrival.error
                    done += 1
                if progress is not None:
                    progress(done * self.blob_bytes, total * self.blob_bytes)
        finally:
            transfer.close()

    def _pin(self, pinner: Pinner | None, announce: Announce | None) -> None:
        if pinner is None:
            # The device is the host itself.
            self.device_base = self.base
            return
        self._pinner = pinner
        try:
            self._register(pinner)
        except RuntimeError as error:
            self._unpin()
            if announce is not None:
                announce(_refused(self.nbytes, error))

    def _register(self, pinner: Pinner) -> None:
        for start, nbytes in self._parts():
            # Listed first: Ctrl-C may come as soon as it is registered.
            self._pieces.append(self.base + start)
            try:
                pinner.register(self.base + start, nbytes)
            except RuntimeError:
                self._pieces.pop()
                raise
            on_device = pinner.device_pointer(self.base + start) - start
            if start and on_device != self.device_base:
                raise RuntimeError("the driver sees parts of it at addresses that do not follow one another")
            self.device_base = on_device

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Where pieces start, and their bytes: whole frames, so that none lies in two."""
        piece = self.piece_frames * self.blob_bytes
        for start in range(0, self.nbytes, piece):
            yield start, min(piece, self.nbytes - start)

    def _unpin(self) -> None:
        self.device_base = 0
        while self._pinner is not None and self._pieces:
            # Refused for what was broken off before it was registered, and by a GPU that is lost.
            with contextlib.suppress(RuntimeError):
                self._pinner.unregister(self._pieces.pop())


def initial_locations(
    experts: int, frames: int, slots: int, totals: NDArray[np.int64] | None = None
) -> NDArray[np.int32]:
    """Where each expert is at first, int32 [experts]: slot s as s, frame f as -1 - f. Raises ValueError.

    Each has its own frame where there are as many; else the most used by `totals`, or the first, fill the slots.
    """
    if frames + slots < experts:
        raise ValueError(f"{frames} frames and {slots} slots do not hold {experts} experts")
    in_slots = min(slots, experts) if frames < experts else 0
    order = np.arange(experts) if totals is None else np.argsort(-totals, kind="stable")
    location = np.full(experts, -1, dtype=np.int32)
    location[order[:in_slots]] = np.arange(in_slots)
    in_frames = location < 0
    location[in_frames] = -1 - np.arange(experts - in_slots)
    return location


class _Reading:
    """Reads an expert into its frame, or aside and has it placed in its slot."""

    def __init__(self, memory: Tensor, store: ExpertStore, readers: int, place: Place | None) -> None:
        self._memory = memory
        self._store = store
        self._place = place
        self._placing = threading.Lock()
        self._aside: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        size = store.geometry.blob_bytes
        for row in torch.frombuffer(large_pages(readers * size), dtype=torch.uint8).view(readers, size):
            self._aside.put(row)

    def __call__(self, blob: int, location: int) -> None:
        if location < 0:
            self._read(blob, self._memory[-1 - location])
            return
        aside = self._aside.get()
        try:
            self._read(blob, aside)
            # As where slots come from: what is made in that mode is written in it.
            with self._placing, torch.inference_mode():
                assert self._place is not None
                self._place(location, blob, aside)
        finally:
            self._aside.put(aside)

    def _read(self, blob: int, row: Tensor) -> None:
        self._store.read(blob, row.numpy().data)


def _region(nbytes: int) -> mmap.mmap:
    """Memory that a child process does not get: a copy of its page table would be made, and pinned pages moved."""
    region = large_pages_for(
        "experts",
        nbytes,
        "Raise the limit of address space (ulimit -v) or of overcommitted memory, or leave the GPU out.",
    )
    if hasattr(mmap, "MADV_DONTFORK"):
        region.madvise(mmap.MADV_DONTFORK)
    return region


def _refused(nbytes: int, error: RuntimeError) -> str:
    reason = str(error).partition("\n")[0]
    return (
        f"{gib(nbytes)} of experts could not be pinned ({reason}), so they go to the GPU through a staging "
        "ring, which is slower: raise the limit of locked memory (ulimit -l, memlock in /etc/security/limits.conf)"
    )
