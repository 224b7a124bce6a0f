"""What the host does in a layer step of a GPU: tasks that CUDA calls by an address, without Python.

A task computes experts from host memory, or copies them to where the device can read them. Its tables are tensors in
memory that both sides see, and CUDA orders one side's writes before the other's reads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from kernels.cpu.abi import DAMAGED, NO_MEMORY, CInPlaceTask, CStageTask
from kernels.cpu.products import check_status, layout
from kernels.cpu.variants import Variant
from kernels.gpu.tables import ExpertShape, InPlace

# Words that name one expert, and those before the first.
EXPERT_WORDS, FIRST_WORD = 3, 2

# Longer than the rest of a layer takes on a GPU, so that the threads of one layer's experts are awake for the next's.
AWAKE = 0.0005


@dataclass(frozen=True)
class Frames:
    """Blobs of one size in host memory, one after another; `owner` is what keeps that memory."""

    address: int
    count: int
    blob_bytes: int
    owner: object = field(repr=False)

    @classmethod
    def of(cls, blobs: Tensor) -> Self:
        """The frames of a tensor uint8 [count, blob bytes]. Raises ValueError."""
        _check("frames", blobs, torch.uint8, (None, None))
        return cls(blobs.data_ptr(), blobs.shape[0], blobs.shape[1], blobs)


@dataclass(frozen=True)
class InPlaceCounters:
    """Calls, the experts that they computed, and the seconds that those with experts took."""

    calls: int
    experts: int
    seconds: float


@dataclass(frozen=True)
class StageCounters:
    """Calls, the blobs and bytes that they copied, and the seconds that those with blobs took."""

    calls: int
    blobs: int
    bytes: int
    seconds: float


class HostTask:
    """A C function and the data that it takes, which lives as long as this does."""

    def __init__(self, function: Any, data: ctypes.Structure, fault: Tensor, kept: Sequence[object]) -> None:
        self._call, self._data, self._fault, self._kept = function, data, fault, kept
        self.function = ctypes.cast(function, ctypes.c_void_p).value or 0
        self.data = ctypes.addressof(data)

    def run(self) -> None:
        """Does it on this thread and the kernels' own."""
        self._call(self.data)

    def check_fault(self) -> None:
        """Raises NonFiniteError for what can't be quantised, and RuntimeError for tables that can't be right."""
        fault = int(self._fault)
        if fault in (DAMAGED, NO_MEMORY):
            problem = "tables name what is not there" if fault == DAMAGED else "memory ran out"
            raise RuntimeError(f"the host's part of a layer step failed, as {problem}: please report this")
        check_status(fault, "experts in host memory")


class InPlaceTask(HostTask):
    """Computes the experts that `tables.words` lists: outputs[p] = expert(row p // per_token), for their pairs p.

    `frames` are in host memory; both matrices of `shape` are quantised, and `tables.q` is in the groups of its gate_up.
    Threads wait for `awake` seconds for the next call before they sleep. Raises ValueError.
    """

    def __init__(
        self,
        variant: Variant,
        tables: InPlace,
        frames: Frames,
        shape: ExpertShape,
        per_token: int,
        *,
        awake: float = AWAKE,
    ) -> None:
        _check_tables(tables, shape, per_token)
        _check_shape(frames, shape)
        self._task = CInPlaceTask(
            words=tables.words.data_ptr(),
            pairs=tables.pairs.data_ptr(),
            q=tables.q.data_ptr(),
            scales=tables.scales.data_ptr(),
            outputs=tables.outputs.data_ptr(),
            fault=tables.fault.data_ptr(),
            frames=frames.address,
            frame_count=frames.count,
            blob_bytes=frames.blob_bytes,
            most_experts=(tables.words.numel() - FIRST_WORD) // EXPERT_WORDS,
            most_rows=tables.q.shape[0],
            per_token=per_token,
            awake=round(awake * 1e9),
            gate_up=layout(shape.gate_up, 2 * shape.inner, shape.hidden, 0),
            down=layout(shape.down, shape.hidden, shape.inner, shape.down_offset),
        )
        super().__init__(variant.library.aa_in_place, self._task, tables.fault, (tables, frames))

    @property
    def counters(self) -> InPlaceCounters:
        return InPlaceCounters(self._task.calls, self._task.experts, self._task.nanoseconds * 1e-9)


class StageTask(HostTask):
    """Copies blobs from frames that the device can't read to a ring that it can: move i to row i.

    count int32 [1], moves int32 [most, 2 or more] of (frame, ...), ring uint8 [most, blob bytes], fault int32 [1].
    Raises ValueError.
    """

    def __init__(
        self, variant: Variant, count: Tensor, moves: Tensor, frames: Frames, ring: Tensor, fault: Tensor
    ) -> None:
        _check("count", count, torch.int32, (1,))
        _check("moves", moves, torch.int32, (None, None))
        _check("ring", ring, torch.uint8, (moves.shape[0], frames.blob_bytes))
        _check("fault", fault, torch.int32, (1,))
        if moves.shape[1] < 2:
            raise ValueError("moves have one column: give (frame, slot)")
        self._task = CStageTask(
            count=count.data_ptr(),
            moves=moves.data_ptr(),
            ring=ring.data_ptr(),
            fault=fault.data_ptr(),
            frames=frames.address,
            frame_count=frames.count,
            blob_bytes=frames.blob_bytes,
            most=moves.shape[0],
            columns=moves.shape[1],
        )
        super().__init__(variant.library.aa_stage, self._task, fault, (count, moves, frames, ring))

    @property
    def counters(self) -> StageCounters:
        task = self._task
        return StageCounters(task.calls, task.blobs, task.bytes, task.nanoseconds * 1e-9)


def _check_tables(tables: InPlace, shape: ExpertShape, per_token: int) -> None:
    if per_token < 1:
        raise ValueError(f"{per_token} experts per token: there is at least one")
    if not (shape.gate_up.is_quantised and shape.down.is_quantised):
        raise ValueError(f"experts of {shape.gate_up} and {shape.down} aren't computed in place: quantise both")
    _check("words", tables.words, torch.int32, (None,))
    if tables.words.numel() < FIRST_WORD or (tables.words.numel() - FIRST_WORD) % EXPERT_WORDS:
        raise ValueError(f"words are int32 [2 + 3 D], not [{tables.words.numel()}]")
    _check("q", tables.q, torch.int8, (None, shape.hidden))
    rows = tables.q.shape[0]
    _check("pairs", tables.pairs, torch.int32, (rows * per_token,))
    _check("scales", tables.scales, torch.float32, (rows, shape.hidden // shape.gate_up.group))
    _check("outputs", tables.outputs, torch.float32, (rows * per_token, shape.hidden))
    _check("fault", tables.fault, torch.int32, (1,))


def _check_shape(frames: Frames, shape: ExpertShape) -> None:
    down = shape.down_offset + shape.down.nbytes(shape.hidden, shape.inner)
    if frames.blob_bytes < max(down, shape.gate_up.nbytes(2 * shape.inner, shape.hidden)):
        raise ValueError(f"an expert needs {down:,} bytes, and a frame has {frames.blob_bytes:,}")


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """Raises ValueError unless a tensor is contiguous in host memory, of that type and shape; None is any length."""
    fits = len(shape) == tensor.dim() and all(n in (None, m) for n, m in zip(shape, tensor.shape, strict=True))
    if tensor.dtype is not dtype or not fits or not tensor.is_contiguous() or not tensor.is_cpu:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}: "
            f"it has to be contiguous {dtype} [{wanted}] in host memory"
        )
