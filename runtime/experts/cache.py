"""The experts that have a slot: slots of one size, a page table over all experts, pins, and what leaves."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.ops import ExpertPool
from runtime.experts.layer_blobs import LayerBlobs
from runtime.experts.policy import EvictionPolicy
from runtime.hardware import large_pages
from runtime.pack_layout import ExpertGeometry

NONE = -1


class ExpertCache:
    """Global slots: every expert of every layer competes with every other for them.

    A slot is free, or has an expert that is arriving, or one that is resident. Experts are numbered layer by layer; the
    page table has their addresses, 0 for one that is not resident, and is what the kernels read. Only resident experts
    that are not pinned leave. One thread uses it.
    """

    def __init__(self, geometry: ExpertGeometry, slots: int, policy: EvictionPolicy) -> None:
        self.geometry = geometry
        self.policy = policy
        self.memory = _slot_memory(slots, geometry.blob_bytes)  # uint8 [N, blob bytes]
        self.addresses = torch.zeros(len(geometry.layers), geometry.count, dtype=torch.int64)
        self.evictions = 0
        self._base = self.memory.data_ptr()
        self._table: NDArray[np.int64] = self.addresses.numpy().reshape(-1)
        self._slot_of = np.full(geometry.blobs, NONE, dtype=np.int64)
        self._blob_of = np.full(slots, NONE, dtype=np.int64)
        self._pins = np.zeros(slots, dtype=np.int64)
        self._scores = np.zeros((policy.rows, geometry.blobs))
        # The layer step after the one in which a pass brought what a slot has, which leaves before all else; else 0.
        self._passing = np.zeros(slots, dtype=np.int64)
        self._free = list(range(slots))

    @property
    def slots(self) -> int:
        return len(self._blob_of)

    @property
    def resident(self) -> int:
        return int(np.count_nonzero(self._table))

    def pool(self, layer: int) -> ExpertPool:
        """The experts of the layer at this position among those that have any; its addresses change as they come."""
        geometry = self.geometry
        return ExpertPool(
            gate_up=geometry.gate_up,
            down=geometry.down,
            hidden=geometry.hidden,
            inner=geometry.inner,
            down_offset=geometry.down_offset,
            blobs=LayerBlobs(lambda expert: self.blob(layer * geometry.count + expert), geometry.count),
            addresses=self.addresses[layer],
        )

    def blob(self, expert: int) -> Tensor:
        """A resident expert's bytes. Raises LookupError."""
        if not self.is_resident(expert):
            raise LookupError(f"{self.geometry.named(expert)} is not in memory")
        return self.memory[self._slot_of[expert]]

    def is_resident(self, expert: int) -> bool:
        return bool(self._table[expert])

    def resident_of(self, experts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of them are resident."""
        there: NDArray[np.bool_] = self._table[experts] != 0
        return there

    def has_slot(self, expert: int) -> bool:
        """Whether it is resident or arriving."""
        return bool(self._slot_of[expert] != NONE)

    @property
    def has_free(self) -> bool:
        return bool(self._free)

    @property
    def pinned(self) -> int:
        """Slots that are pinned."""
        return int(np.count_nonzero(self._pins))

    def reserve(self, expert: int, now: int, *, passing: bool = False) -> int | None:
        """A slot for an expert that has none, which is then arriving; None while nothing may leave.

        With `passing` what comes belongs to a pass over whole layers.
        """
        slot = heapq.heappop(self._free) if self._free else self._evict(now, passing)
        if slot is not None:
            self._slot_of[expert], self._blob_of[slot] = slot, expert
            self._passing[slot] = now + 1 if passing else 0
        return slot

    def publish(self, expert: int) -> None:
        """The expert has arrived: from now on it is resident."""
        self._table[expert] = self._base + int(self._slot_of[expert]) * self.geometry.blob_bytes

    def abandon(self, expert: int) -> None:
        """The expert did not arrive: its slot is free again."""
        slot = int(self._slot_of[expert])
        if self.is_resident(expert) or slot == NONE:
            raise ValueError(f"{self.geometry.named(expert)} is not arriving")
        self._forget(expert, slot)
        self._pins[slot] = 0
        heapq.heappush(self._free, slot)

    def pin(self, experts: Iterable[int]) -> None:
        """Keeps experts that have a slot from leaving, until they are unpinned as often."""
        for expert in experts:
            self._pins[self._slot_of[expert]] += 1

    def unpin(self, experts: Iterable[int]) -> None:
        """Takes back one pin of each that still has a slot."""
        for expert in experts:
            slot = self._slot_of[expert]
            if slot != NONE:
                self._pins[slot] -= 1

    def unpin_all(self) -> None:
        self._pins[:] = 0

    def arriving(self) -> list[int]:
        """Experts that have a slot and are not resident."""
        held = self._blob_of[self._blob_of != NONE]
        return [int(expert) for expert in held[self._table[held] == 0]]

    def touch(self, experts: NDArray[np.int64], now: int) -> None:
        """Distinct experts are used at layer step `now`."""
        self.policy.touch(self._scores, experts, now)
        slots = self._slot_of[experts]
        self._passing[slots[slots != NONE]] = 0

    def check_integrity(self) -> None:
        """Raises RuntimeError unless slots, page table and pins agree."""
        held = np.flatnonzero(self._blob_of != NONE)
        owners = self._blob_of[held]
        _require(len(set(self._free)) == len(self._free), "a slot is listed as free twice")
        _require(sorted([*self._free, *held.tolist()]) == list(range(self.slots)), "free and held slots are not all")
        _require(bool((self._slot_of[owners] == held).all()), "a slot's expert is said to be elsewhere")
        _require(np.count_nonzero(self._slot_of != NONE) == len(held), "an expert has a slot that is not its own")
        resident = np.flatnonzero(self._table)
        _require(bool((self._slot_of[resident] != NONE).all()), "a resident expert has no slot")
        expected = self._base + self._slot_of[resident] * self.geometry.blob_bytes
        _require(bool((self._table[resident] == expected).all()), "an address is not that of its slot")
        _require(bool((self._pins >= 0).all()), "a slot was unpinned more often than pinned")
        _require(not self._pins[self._free].any(), "a free slot is pinned")

    def _may_leave(self) -> NDArray[np.bool_]:
        """Which slots [N] hold a resident expert that is not pinned."""
        owners = self._blob_of
        may: NDArray[np.bool_] = (owners != NONE) & (self._pins == 0) & (self._table[owners] != 0)
        return may

    def _evict(self, now: int, passing: bool) -> int | None:
        slot = self._victim(self._may_leave(), now, passing)
        if slot is None:
            return None
        expert = int(self._blob_of[slot])
        self._forget(expert, slot)
        self.policy.left(self._scores, expert)
        self.evictions += 1
        return slot

    def _victim(self, may_leave: NDArray[np.bool_], now: int, passing: bool) -> int | None:
        """What a pass brought leaves first: the latest during the pass, for it comes around again last."""
        passed = may_leave & (self._passing > 0)
        if passed.any():
            if passing:
                return int(np.where(passed, self._passing, 0).argmax())
            may_leave = passed
        elif not may_leave.any():
            return None
        return self.policy.victim(self._scores.take(self._blob_of, axis=1), ~may_leave, now)

    def _forget(self, expert: int, slot: int) -> None:
        self._table[expert] = 0
        self._slot_of[expert] = self._blob_of[slot] = NONE
        self._passing[slot] = 0


def _slot_memory(slots: int, blob_bytes: int) -> Tensor:
    return torch.frombuffer(large_pages(slots * blob_bytes), dtype=torch.uint8).view(slots, blob_bytes)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise RuntimeError(problem)
