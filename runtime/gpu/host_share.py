"""What the host does within a step: computes experts where they lie, and stages those that a GPU can't read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from kernels.cpu.in_place import Frames, InPlaceTask, StageTask
from kernels.cpu.variants import Variant, best_first
from kernels.gpu.driver import Driver
from kernels.gpu.quantise import Quantised
from kernels.gpu.tables import ExpertShape, Fetches, InPlace
from runtime.gpu.host_node import HostNode
from runtime.gpu.host_pool import HostPool


def native_variant() -> Variant | None:
    """The C++ kernels that this processor runs best, None without a compiler."""
    return next((variant for variant in best_first if variant.refusal() is None), None)


@dataclass(frozen=True)
class HostShare:
    """The experts that the host computes in the layers of a step, one layer at a time in the same memory."""

    tables: InPlace
    nodes: tuple[HostNode, ...]  # by layer among those with experts

    @classmethod
    def allocate(
        cls,
        variant: Variant,
        driver: Driver | None,
        host: HostPool,
        shape: ExpertShape,
        *,
        layers: int,
        rows: int,
        per_token: int,
        experts: int,
    ) -> Self:
        """For steps of up to so many rows. Without a driver its nodes run at once."""

        def pinned(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*size, dtype=dtype, pin_memory=driver is not None)

        tables = InPlace(
            words=pinned(2 + 3 * experts, dtype=torch.int32),
            pairs=pinned(rows * per_token, dtype=torch.int32),
            q=pinned(rows, shape.hidden, dtype=torch.int8),
            scales=pinned(rows, shape.hidden // shape.gate_up.group, dtype=torch.float32),
            outputs=pinned(rows * per_token, shape.hidden, dtype=torch.float32),
            fault=pinned(layers, dtype=torch.int32),
        )
        frames = Frames(host.base, host.frames, host.blob_bytes, host)
        tasks = [
            InPlaceTask(variant, replace(tables, fault=tables.fault[layer : layer + 1]), frames, shape, per_token)
            for layer in range(layers)
        ]
        return cls(tables, tuple(HostNode(task, driver) for task in tasks))

    def launch(self, layer: int, a: Quantised, stream: torch.cuda.Stream | None) -> None:
        """Sends the quantised rows and computes what the layer's plan left to the host."""
        self.tables.q[: len(a.q)].copy_(a.q, non_blocking=True)
        self.tables.scales[: len(a.q)].copy_(a.scales, non_blocking=True)
        self.nodes[layer].enqueue(stream)


@dataclass(frozen=True)
class Staging:
    """A ring in pinned memory through which experts go whose frames could not be pinned."""

    ring: Tensor  # uint8 [most, blob bytes]
    node: HostNode

    @classmethod
    def allocate(cls, variant: Variant, driver: Driver | None, host: HostPool, fetches: Fetches) -> Self:
        """For the moves of `fetches`, which are in pinned memory."""
        is_pinned = driver is not None
        ring = torch.zeros(fetches.most, host.blob_bytes, dtype=torch.uint8, pin_memory=is_pinned)
        fault = torch.zeros(1, dtype=torch.int32, pin_memory=is_pinned)
        frames = Frames(host.base, host.frames, host.blob_bytes, host)
        return cls(ring, HostNode(StageTask(variant, fetches.count, fetches.moves, frames, ring, fault), driver))
