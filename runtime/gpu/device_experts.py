"""The experts of a model on a GPU: which have a slot there, and where the others wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.gpu.tables import Counter, Placement
from kernels.ops import ExpertPool
from kernels.registry import Announce
from runtime.config import EngineConfig
from runtime.experts.layer_blobs import LayerBlobs
from runtime.experts.paging import ComputeWave
from runtime.experts.policy import DEFAULT
from runtime.experts.store import ExpertStore
from runtime.gpu.host_pool import HostPool, Pinner
from runtime.gpu.streaming import ExpertStream, PassVisit
from runtime.gpu.vram import GpuPlan, allocate_slots
from runtime.pack_layout import ExpertGeometry
from runtime.stats import PagingStats

Progress = Callable[[int, int], None]


class DeviceExperts:
    """Keeps experts in slots in VRAM and the others in frames of host memory, for a decode step and for prompts.

    Until `fill` there is only the place where a layer's addresses will be, so that all else may be allocated first.
    Steps of few rows move experts on the device itself (expert_step.py); `ask` and `compute` are a pass over a prompt.
    """

    guesses = False

    def __init__(self, store: ExpertStore, plan: GpuPlan, config: EngineConfig, pass_layers: int) -> None:
        self.store = store
        self.plan = plan
        self.totals: NDArray[np.int64] = np.zeros(store.geometry.blobs, dtype=np.int64)
        self._config = config
        self._pass_layers = pass_layers
        self._device = torch.device(config.device)
        self._addresses = torch.zeros(len(store.geometry.layers), store.geometry.count, dtype=torch.int64)
        self._filled: _Filled | None = None

    @property
    def geometry(self) -> ExpertGeometry:
        return self.store.geometry

    @property
    def placement(self) -> Placement:
        return self._parts.placement

    @property
    def host(self) -> HostPool:
        return self._parts.host

    @property
    def buffer(self) -> Tensor:
        """Memory for experts that is free between passes: uint8 [W, blob bytes]."""
        return self._parts.stream.buffers[0]

    def fill(
        self,
        pinner: Pinner | None,
        totals: NDArray[np.int64] | None,
        progress: Progress | None,
        announce: Announce | None,
    ) -> None:
        """Takes the memory and reads every expert; those that were used the most by `totals` get a slot at once.

        Raises CapacityError, ExpertReadError.
        """
        slots, self.plan = allocate_slots(self.plan, self._empty_slots, announce)
        host = HostPool.load(
            self.store,
            self.plan.frames,
            self.plan.slots,
            readers=self._config.readers,
            place=lambda slot, _, blob: _copy_now(slots[slot], blob),
            totals=totals,
            pinner=pinner,
            progress=progress,
            announce=announce,
        )
        placement = self._placement(slots, host)
        buffers = torch.empty(2, self.plan.streamed, slots.shape[1], dtype=torch.uint8, device=self._device)
        stream = ExpertStream(
            self.geometry, placement, self._addresses, host.memory, host.piece_frames, buffers, self._pass_layers
        )
        self._filled = _Filled(host, placement, stream)
        if not host.exclusive and totals is not None:
            self._warm(totals)

    def pool(self, layer: int) -> ExpertPool:
        geometry = self.geometry
        return ExpertPool(
            gate_up=geometry.gate_up,
            down=geometry.down,
            hidden=geometry.hidden,
            inner=geometry.inner,
            down_offset=geometry.down_offset,
            blobs=LayerBlobs(lambda expert: self.blob(layer, expert), geometry.count),
            addresses=self._addresses[layer],
        )

    def blob(self, layer: int, expert: int) -> Tensor:
        """The bytes of an expert that a pass can compute with now. Raises LookupError."""
        found = self._parts.stream.blob(int(self._addresses[layer, expert]))
        if found is None:
            raise LookupError(f"{self.geometry.named(layer * self.geometry.count + expert)} is not on the device")
        return found

    def begin_step(self, rows: int) -> None:
        self._parts.stream.begin(rows)

    def end_step(self) -> None:
        pass

    def ask(self, layer: int, ids: Tensor) -> PassVisit:
        visit = self._parts.stream.visit(layer, ids)
        self.count(layer, ids.cpu()[None])
        return visit

    def guess(self, layer: int, ids: Tensor) -> None:
        pass

    def compute(self, visit: Any, compute_wave: ComputeWave) -> Tensor:
        return self._parts.stream.compute(visit, compute_wave)

    def count(self, layer: int, ids: Tensor) -> None:
        """The layers from one on used experts ids [L, T, K]."""
        firsts = self.geometry.count * (layer + np.arange(len(ids)))
        self.totals += np.bincount((firsts[:, None, None] + ids.numpy()).ravel(), minlength=len(self.totals))

    def stats(self) -> PagingStats:
        size, counts = self.plan.slot_bytes, self._parts.stream.counts
        on_device = dict(zip(Counter, self.placement.counters.tolist(), strict=True))
        ahead = on_device[Counter.AHEAD] + on_device[Counter.ADMITTED]
        return PagingStats(
            policy=self._config.policy or DEFAULT,
            lookahead=self._config.lookahead,
            experts=self.geometry.blobs,
            slots=self.plan.slots,
            resident=int((self.placement.owner >= 0).sum()),
            uses=on_device[Counter.USES],
            hits=on_device[Counter.HITS],
            late=0,
            misses=on_device[Counter.FETCHED] + on_device[Counter.IN_PLACE],
            in_place=on_device[Counter.IN_PLACE],
            pass_uses=counts["pass_uses"],
            pass_hits=counts["pass_hits"],
            demand_bytes=size * (on_device[Counter.FETCHED] + counts["streamed"]),
            lookahead_bytes=size * ahead,
            prewarm_bytes=size * counts["warmed"],
            guessed=on_device[Counter.GUESSED],
            guessed_right=on_device[Counter.GUESSED_RIGHT],
            not_guessed=max(0, on_device[Counter.USES] - on_device[Counter.GUESSED_RIGHT]),
            wasted=0,
            evictions=on_device[Counter.EVICTED],
            waves=counts["waves"],
            verified=self.store.verified,
            stall_seconds=0.0,
        )

    def check_integrity(self) -> None:
        """Raises RuntimeError unless every slot's owner is said to be there, and no two experts share a place."""
        location, owner = self.placement.location.cpu(), self.placement.owner.cpu()
        held = (owner >= 0).nonzero().squeeze(1)
        if not torch.equal(location[owner[held].long()].long(), held):
            raise RuntimeError("a slot's expert is said to be elsewhere")
        if int((location >= 0).sum()) != len(held):
            raise RuntimeError("an expert has a slot that is not its own")
        if len(location.unique()) != len(location):
            raise RuntimeError("two experts are said to be in one place")

    def close(self) -> None:
        """Waits for the device, and gives the host memory back."""
        if self._filled is not None:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._filled.host.close()
        self.store.close()

    @property
    def _parts(self) -> _Filled:
        if self._filled is None:
            raise RuntimeError("experts were asked for before they were read")
        return self._filled

    def _empty_slots(self, count: int) -> Tensor:
        return torch.empty(count, self.geometry.blob_bytes, dtype=torch.uint8, device=self._device)

    def _placement(self, slots: Tensor, host: HostPool) -> Placement:
        def zeros(count: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(count, dtype=dtype, device=self._device)

        blobs = self.geometry.blobs
        return Placement(
            location=host.location.to(self._device),
            owner=host.owner(len(slots)).to(self._device),
            last_used=zeros(blobs, torch.int32),
            frequency=zeros(blobs, torch.float32),
            now=zeros(1, torch.int32),
            counters=zeros(len(Counter), torch.int64),
            slots=slots,
            frames=torch.tensor([host.device_base], dtype=torch.int64, device=self._device),
            exclusive=host.exclusive,
        )

    def _warm(self, totals: NDArray[np.int64]) -> None:
        """Gives slots to the experts that were used the most in earlier runs."""
        order = np.argsort(-totals, kind="stable")[: self.plan.slots]
        chosen = torch.from_numpy(order[totals[order] > 0])
        for slot, blob in enumerate(chosen.tolist()):
            self.placement.slots[slot].copy_(self.host.memory[blob], non_blocking=True)
        places = torch.arange(len(chosen), dtype=torch.int32, device=self._device)
        self.placement.location[chosen.to(self._device)] = places
        self.placement.owner[: len(chosen)] = chosen.to(self._device, torch.int32)
        self._parts.stream.counts["warmed"] += len(chosen)


@dataclass(frozen=True)
class _Filled:
    """What there is once every expert has been read."""

    host: HostPool
    placement: Placement
    stream: ExpertStream


def _copy_now(slot: Tensor, blob: Tensor) -> None:
    slot.copy_(blob)
