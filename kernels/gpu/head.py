"""The likeliest tokens of a row: its scores as a restriction leaves them, the highest in order, and their total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.floating import TOTAL_CHUNK
from kernels.formats import Matrix
from kernels.gpu.language import LANES, exp, fold
from kernels.gpu.launch import launch
from kernels.gpu.linear import linear
from kernels.gpu.ordered import add_in_order
from kernels.ops import Candidates, Restriction

# Ids that one program looks through.
CHUNK = 2048

# More candidates are found by sorting all ids.
MOST_KEPT = 64

# Chunks of a total that one program adds up, and ids of each that it adds at a time.
SUMMED = 4
SUMMED_IDS = 256

# Where a mask or a list of ids starts among the bytes that are copied to the device.
ALIGNMENT = 16

# Below the rank of any score.
_LOWEST = tl.constexpr(-(2**63))
_ID = tl.constexpr(0xFFFFFFFF)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)


@dataclass(frozen=True)
class Restrictions:
    """What rows' logits must obey, on the device: one block of bytes that holds all masks and lists."""

    addresses: Tensor  # int64 [R, 3]: of the mask and of the seen ids, 0 for none; how many are seen
    numbers: Tensor  # fp32 [R, 2]: penalty, temperature
    most_seen: int
    wants_totals: bool
    kept: tuple[Tensor, ...] = field(repr=False)  # what the addresses point to

    @classmethod
    def of(cls, restrictions: Sequence[Restriction], size: int, device: torch.device) -> Self:
        """Copies what is in host memory in one transfer; what is on the device already is read where it is."""
        seen = [0 if one.seen is None else one.seen.numel() for one in restrictions]
        planes = [_Plane.of(one.allowed, size) for one in restrictions]
        planes += [_Plane.of(one.seen, count) for one, count in zip(restrictions, seen, strict=True)]
        rows = len(restrictions)
        starts, end = [], _aligned(rows * 32)
        for plane in planes:
            starts.append(end)
            end += _aligned(plane.nbytes)
        block = torch.empty(end, dtype=torch.uint8, device=device)
        host = torch.empty(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
        at = [plane.place(host, block.data_ptr(), start) for plane, start in zip(planes, starts, strict=True)]
        host[: rows * 24].view(torch.int64).copy_(torch.tensor([at[:rows], at[rows:], seen]).t().flatten())
        numbers = [number for one in restrictions for number in (one.penalty, one.temperature)]
        host[rows * 24 : rows * 32].view(torch.float32).copy_(torch.tensor(numbers, dtype=torch.float32))
        block.copy_(host, non_blocking=True)
        return cls(
            block[: rows * 24].view(torch.int64).view(rows, 3),
            block[rows * 24 : rows * 32].view(torch.float32).view(rows, 2),
            max(seen),
            any(one.temperature != 0 for one in restrictions),
            (block, *(plane.tensor for plane in planes if plane.tensor is not None)),
        )


@dataclass(frozen=True)
class _Plane:
    """A mask or a list of ids: bytes to be copied, unless the device has them."""

    tensor: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor | None, count: int) -> Self:
        """The first `count` of a tensor. Raises ValueError where it has fewer."""
        if tensor is not None and tensor.numel() < count:
            raise ValueError(f"{tensor.numel()} ids are allowed or not: there are {count}")
        return cls(None if tensor is None else tensor[:count].contiguous())

    @property
    def nbytes(self) -> int:
        return 0 if self.tensor is None or self.tensor.is_cuda else self.tensor.nbytes

    def place(self, host: Tensor, base: int, start: int) -> int:
        """Writes what is to be copied; says where it will be."""
        if self.tensor is None:
            return 0
        if self.tensor.is_cuda:
            return self.tensor.data_ptr()
        host[start : start + self.nbytes].copy_(self.tensor.view(torch.uint8))
        return base + start


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def empty_candidates(rows: int, size: int, count: int, device: torch.device) -> Candidates:
    """Room for what launch_candidates finds."""
    return Candidates(
        torch.empty(rows, count, dtype=torch.int64, device=device),
        torch.empty(rows, count, dtype=torch.float32, device=device),
        torch.zeros(rows, dtype=torch.float64, device=device),
        torch.empty(rows, size, dtype=torch.float32, device=device),
    )


@dataclass(frozen=True)
class HeadWorkspace:
    """Memory for what the kernels tell each other; what it holds between calls means nothing."""

    ranks: Tensor = field(repr=False)  # int64
    sums: Tensor = field(repr=False)  # fp32

    @classmethod
    def empty(cls, rows: int, size: int, count: int, device: torch.device) -> Self:
        ranks = rows * sum(chunks * count for _, chunks in _rounds(size, count)) if count <= MOST_KEPT else rows * size
        sums = rows * triton.cdiv(size, TOTAL_CHUNK)
        return cls(
            torch.empty(ranks, dtype=torch.int64, device=device),
            torch.empty(sums, dtype=torch.float32, device=device),
        )


def _rounds(size: int, count: int) -> list[tuple[int, int]]:
    """How many ranks, and chunks of them, each round looks through; the last looks through one chunk."""
    rounds = [(size, triton.cdiv(size, CHUNK))]
    while rounds[-1][1] > 1:
        total = rounds[-1][1] * count
        rounds.append((total, triton.cdiv(total, CHUNK)))
    return rounds


def launch_candidates(logits: Tensor, restrictions: Restrictions, into: Candidates, workspace: HeadWorkspace) -> None:
    """Restricts logits fp32 [R, V], and finds the likeliest of the first `size` ids, for which `into` has room.

    With more than MOST_KEPT candidates torch sorts, and allocates.
    """
    rows, size = into.all_scores.shape
    count = into.ids.shape[1]
    given = restrictions.addresses, restrictions.numbers
    launch(
        _restrict,
        (triton.cdiv(size, CHUNK), rows),
        logits,
        restrictions.addresses,
        into.all_scores,
        logits.shape[1],
        size,
        CHUNK=CHUNK,
    )
    if restrictions.most_seen:
        blocks = triton.cdiv(restrictions.most_seen, CHUNK)
        launch(_penalise, (blocks, rows), logits, *given, into.all_scores, logits.shape[1], size, CHUNK=CHUNK)
    ranks = _launch_ranks(into.all_scores, count, workspace.ranks)
    launch(
        _name,
        (triton.cdiv(count, CHUNK), rows),
        ranks,
        into.all_scores,
        into.ids,
        into.scores,
        ranks.shape[1],
        count,
        size,
        CHUNK=CHUNK,
    )
    if restrictions.wants_totals:
        _launch_totals(given, into, workspace.sums)


def _launch_ranks(scores: Tensor, count: int, memory: Tensor) -> Tensor:
    """Ranks int64 [R, at least count] of which the first are the highest, in order."""
    rows, size = scores.shape
    if count > MOST_KEPT:
        ranks = memory[: rows * size].view(rows, size)
        launch(_rank_all, (triton.cdiv(size, CHUNK), rows), scores, ranks, size, CHUNK=CHUNK)
        return torch.sort(ranks, dim=1, descending=True).values
    found = scores
    for total, chunks in _rounds(size, count):
        ranks, memory = memory[: rows * chunks * count].view(rows, -1), memory[rows * chunks * count :]
        launch(_keep_best, (chunks, rows), found, ranks, total, count, FIRST=found is scores, CHUNK=CHUNK)
        found = ranks
    return found


def _launch_totals(given: tuple[Tensor, Tensor], into: Candidates, sums: Tensor) -> None:
    rows, size = into.all_scores.shape
    count, chunks = into.ids.shape[1], triton.cdiv(size, TOTAL_CHUNK)
    launch(
        _sum_chunks,
        (triton.cdiv(chunks, SUMMED), rows),
        into.all_scores,
        into.scores,
        *given,
        sums,
        size,
        count,
        CHUNK=TOTAL_CHUNK,
        CHUNKS=SUMMED,
        STEPS=SUMMED_IDS // LANES.value,
    )
    launch(_total, (rows,), sums, given[1], into.totals, chunks, warps=1)


def head(x: Tensor, matrix: Matrix, size: int, restrictions: Sequence[Restriction], count: int) -> Candidates:
    into = empty_candidates(x.shape[0], size, min(count, size), x.device)
    given = Restrictions.of(restrictions, size, x.device)
    workspace = HeadWorkspace.empty(x.shape[0], size, min(count, size), x.device)

    launch_candidates(linear(x, matrix), given, into, workspace)
    return into


@triton.jit
def _restricted(p_logits, address, o_id, mask):
    """Scores of ids: their logits, minus infinity where a mask at an address does not allow them."""
    scores = tl.load(p_logits + o_id, mask=mask, other=0.0)
    return tl.where(_allowed(address, o_id, mask), scores, -float("inf"))


@triton.jit
def _allowed(address, o_id, mask):
    """Which ids of a mask are allowed by the bytes at an address; all, at none."""
    allowed = mask
    if address != 0:
        allowed = mask & (tl.load(address.to(tl.pointer_type(tl.int8)) + o_id, mask=mask, other=0) != 0)
    return allowed


@triton.jit
def _restrict(p_logits, p_addresses, p_scores, stride, size, CHUNK: tl.constexpr):
    i_row = tl.program_id(1).to(tl.int64)
    o_id = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    m_id = o_id < size
    scores = _restricted(p_logits + i_row * stride, tl.load(p_addresses + i_row * 3), o_id, m_id)
    tl.store(p_scores + i_row * size + o_id, scores, mask=m_id)


@triton.jit
def _penalise(p_logits, p_addresses, p_numbers, p_scores, stride, size, CHUNK: tl.constexpr):
    """Changes the scores of ids seen; made of logits, so that one listed twice is changed once."""
    i_row = tl.program_id(1).to(tl.int64)
    p_seen = tl.load(p_addresses + i_row * 3 + 1).to(tl.pointer_type(tl.int64))
    o_seen = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    ids = tl.load(p_seen + o_seen, mask=o_seen < tl.load(p_addresses + i_row * 3 + 2), other=-1)
    m_id = (ids >= 0) & (ids < size)
    scores = _restricted(p_logits + i_row * stride, tl.load(p_addresses + i_row * 3), ids, m_id)
    penalty = tl.full([CHUNK], 0.0, tl.float32) + tl.load(p_numbers + i_row * 2)
    changed = tl.where(scores > 0, tl.div_rn(scores, penalty), scores * penalty)
    tl.store(p_scores + i_row * size + ids, changed, mask=m_id)


@triton.jit
def _rank(scores, ids):
    """An int64, larger for a higher score, and among equals for a lower id. A NaN is highest; zeros are equal."""
    bits = tl.where(scores == 0, 0.0, scores).to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ _MAGNITUDE, bits)
    order = tl.where(scores != scores, _MAGNITUDE, order)
    return (order.to(tl.int64) << 32) | (_ID - ids.to(tl.int64))


@triton.jit
def _rank_all(p_scores, p_ranks, size, CHUNK: tl.constexpr):
    i_row, o_id = tl.program_id(1).to(tl.int64), tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    ranks = _rank(tl.load(p_scores + i_row * size + o_id, mask=o_id < size, other=0.0), o_id)
    tl.store(p_ranks + i_row * size + o_id, ranks, mask=o_id < size)


@triton.jit
def _keep_best(p_found, p_ranks, total, count, FIRST: tl.constexpr, CHUNK: tl.constexpr):
    """The highest `count` of a chunk of ranks, or first of scores, one after the other."""
    i_row, i_chunk = tl.program_id(1).to(tl.int64), tl.program_id(0)
    o_found = i_chunk * CHUNK + tl.arange(0, CHUNK)
    p_found += i_row * total
    if FIRST:
        ranks = _rank(tl.load(p_found + o_found, mask=o_found < total, other=0.0), o_found)
        ranks = tl.where(o_found < total, ranks, _LOWEST)
    else:
        ranks = tl.load(p_found + o_found, mask=o_found < total, other=_LOWEST)
    p_ranks += (i_row * tl.num_programs(0) + i_chunk) * count
    for i_kept in range(0, count):
        best = tl.max(ranks, axis=0)
        tl.store(p_ranks + i_kept, best)
        ranks = tl.where(ranks == best, _LOWEST, ranks)


@triton.jit
def _name(p_ranks, p_scores, p_ids, p_best, stride, count, size, CHUNK: tl.constexpr):
    """Ids and scores of the first `count` ranks."""
    i_row = tl.program_id(1).to(tl.int64)
    o_rank = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    m_rank = o_rank < count
    ids = _ID - (tl.load(p_ranks + i_row * stride + o_rank, mask=m_rank, other=0) & _ID)
    tl.store(p_ids + i_row * count + o_rank, ids, mask=m_rank)
    tl.store(
        p_best + i_row * count + o_rank, tl.load(p_scores + i_row * size + ids, mask=m_rank, other=0.0), mask=m_rank
    )


@triton.jit
def _sum_chunks(
    p_scores,
    p_best,
    p_addresses,
    p_numbers,
    p_sums,
    size,
    count,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """lanes(exp((score - highest) / temperature)) of some chunks of ids, +0 for those not allowed."""
    i_row = tl.program_id(1).to(tl.int64)
    temperature = tl.load(p_numbers + i_row * 2 + 1)
    if temperature != 0:
        address, highest = tl.load(p_addresses + i_row * 3), tl.load(p_best + i_row * count)
        o_chunk = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
        o_id = (o_chunk * CHUNK)[:, None, None] + tl.arange(0, LANES)[None, :, None]
        o_id += (tl.arange(0, STEPS) * LANES)[None, None, :]
        sums = tl.zeros([CHUNKS, LANES], tl.float32)
        for i_id in range(0, CHUNK, STEPS * LANES):
            m_id = i_id + o_id < size
            scores = tl.load(p_scores + i_row * size + i_id + o_id, mask=m_id, other=0.0)
            m_term = _allowed(address, i_id + o_id, m_id)
            divisor = tl.full([CHUNKS, LANES, STEPS], 0.0, tl.float32) + temperature
            terms = exp(tl.div_rn(scores - highest, divisor))
            sums = add_in_order(sums, tl.where(m_term, terms, 0.0))
        chunks = tl.cdiv(size, CHUNK)
        tl.store(p_sums + i_row * chunks + o_chunk, fold(sums, CHUNKS), mask=o_chunk < chunks)


@triton.jit
def _total(p_sums, p_numbers, p_totals, chunks):
    """Adds the sums of a row's chunks in order, in fp64; 0 at temperature 0."""
    i_row = tl.program_id(0).to(tl.int64)
    total = tl.full([1], 0.0, tl.float64)
    if tl.load(p_numbers + i_row * 2 + 1) != 0:
        for i_chunk in range(0, chunks):
            total += tl.load(p_sums + i_row * chunks + i_chunk).to(tl.float64)
    tl.store(p_totals + i_row + tl.arange(0, 1), total)
