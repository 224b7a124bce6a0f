"""What a decode step is told by the host: written to pinned memory, and brought to the device in one copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from runtime.sequence import Batch

# Where tensors start within the copy.
ALIGNMENT = 16


@dataclass(frozen=True)
class StepInputs:
    """The same tensors on one side: on the host to be written, or on the device to be read."""

    x: Tensor  # fp32 [T, M], embedded tokens
    positions: Tensor  # int64 [T]
    slots: Tensor  # int64 [T], where keys and values go
    first: Tensor  # int32 [T], where a row's blocks start in the table
    seen: Tensor  # int32 [T], keys that a row sees
    block_table: Tensor  # int32
    forced_ids: Tensor  # int32 [L, T, K], experts to be used instead of the router's, where a graph reads them

    def write(self, batch: Batch, embedded: Tensor) -> None:
        """Fills the host's side for a batch of T rows."""
        self.x.copy_(embedded)
        self.positions.copy_(batch.positions)
        self.slots.copy_(batch.slots)
        first: list[int] = []
        seen: list[int] = []
        table: list[int] = []
        for span in batch.spans:
            first += [len(table)] * span.length
            seen += range(span.context + 1, span.context + span.length + 1)
            table += span.blocks
        self.first.copy_(torch.tensor(first, dtype=torch.int32))
        self.seen.copy_(torch.tensor(seen, dtype=torch.int32))
        self.block_table[: len(table)] = torch.tensor(table, dtype=torch.int32)


@dataclass(frozen=True)
class StepTransfer:
    """Both sides of the inputs of a step of T rows."""

    host: StepInputs
    device: StepInputs
    _host_bytes: Tensor
    _device_bytes: Tensor

    @classmethod
    def allocate(cls, rows: int, width: int, table: int, forced: tuple[int, int], device: torch.device) -> Self:
        """For T rows of M columns, a block table of so many entries, and ids of (layers, experts per token)."""
        shapes = (
            (torch.float32, (rows, width)),
            (torch.int64, (rows,)),
            (torch.int64, (rows,)),
            (torch.int32, (rows,)),
            (torch.int32, (rows,)),
            (torch.int32, (table,)),
            (torch.int32, (forced[0], rows, forced[1])),
        )
        total = sum(_aligned(dtype.itemsize * torch.Size(shape).numel()) for dtype, shape in shapes)
        on_host = torch.zeros(total, dtype=torch.uint8, pin_memory=device.type == "cuda")
        on_device = torch.zeros(total, dtype=torch.uint8, device=device)
        return cls(StepInputs(*_views(on_host, shapes)), StepInputs(*_views(on_device, shapes)), on_host, on_device)

    def launch(self) -> None:
        """Copies to the device, on the current stream."""
        self._device_bytes.copy_(self._host_bytes, non_blocking=True)


def _views(data: Tensor, shapes: Sequence[tuple[torch.dtype, tuple[int, ...]]]) -> Iterator[Tensor]:
    at = 0
    for dtype, shape in shapes:
        nbytes = dtype.itemsize * torch.Size(shape).numel()
        yield data[at : at + nbytes].view(dtype).view(shape)
        at += _aligned(nbytes)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
