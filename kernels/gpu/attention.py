"""Attention of single rows over a paged cache, parallel over blocks of keys.

Three kernels, since shares need the maximum of all scores, and sums go block by block in order:
scores of a block and their maximum; shares of a block, their sum and what they make of its values; all blocks added up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.language import LANES, exp, fold
from kernels.gpu.launch import launch
from kernels.gpu.ordered import add_in_order, multiply_in_order

# Blocks of a row that are computed at once; more are taken in turns, so that a large grid is not launched for few.
MOST_PROGRAMS = 128

# Dimensions of the values that one program weighs.
WEIGHED = 64

# Sums over blocks that one program adds up.
COMBINED = 64

# Terms that are added at a time, dimensions or blocks.
STEP = tl.constexpr(16)

# Blocks whose maxima are looked at at once.
MAXIMA = tl.constexpr(64)


@dataclass(frozen=True)
class Rows:
    """Query rows, each of which sees the first `seen` keys of blocks `block_table[first:]`.

    `most_blocks` is the most blocks that a row may see. `at` are the rows' places in the queries, where they are not
    all in order. A row that sees nothing gets zeros.
    """

    first: Tensor  # int32 [T]
    seen: Tensor  # int32 [T]
    block_table: Tensor  # int32
    most_blocks: int
    at: Tensor | None = None  # int32 [T]

    @property
    def count(self) -> int:
        return self.seen.shape[0]

    def part(self, first: int, stop: int) -> Rows:
        """Those from `first` to `stop` - 1."""
        some = slice(first, stop)
        at = None if self.at is None else self.at[some]
        return replace(self, first=self.first[some], seen=self.seen[some], at=at)


@dataclass(frozen=True)
class Workspace:
    """Memory for what the kernels tell each other; what it holds between calls means nothing."""

    memory: Tensor = field(repr=False)  # fp32

    @classmethod
    def empty(cls, floats: int, device: torch.device) -> Self:
        return cls(torch.empty(floats, dtype=torch.float32, device=device))

    def split(self, *sizes: int) -> tuple[Tensor, ...]:
        """Views of so many numbers each, where vectors may be loaded."""
        parts = self.memory.split([_aligned(size) for size in sizes] + [self.memory.numel() - aligned_floats(*sizes)])
        return parts[:-1]


def aligned_floats(*sizes: int) -> int:
    """How many fp32 numbers a workspace needs to be split into these."""
    return sum(_aligned(size) for size in sizes)


def _aligned(size: int) -> int:
    return -(-size // 4) * 4


def decode_floats(rows: int, most_blocks: int, heads: int, width: int, block_size: int) -> int:
    """How many fp32 numbers of workspace rows of H heads of D need that see up to `most_blocks` blocks."""
    return aligned_floats(*_decode_sizes(rows * most_blocks * heads, width, block_size))


def _decode_sizes(pieces: int, width: int, block_size: int) -> tuple[int, int, int, int]:
    """Of scores, parts, maxima and sums of shares; a piece is a block as a head sees it."""
    return pieces * block_size, pieces * width, pieces, pieces


def launch_decode_attention(
    q: Tensor, keys: Tensor, values: Tensor, rows: Rows, scale: float, out: Tensor, workspace: Workspace
) -> None:
    """Attention of rows of q fp32 [T, H, D] over cached keys and values, into the same rows of out fp32 [T, H D].

    keys [blocks, G, D, block_size] and values [blocks, G, block_size, D] in fp32 or bf16.
    """
    heads, width = q.shape[1:]
    kv_heads, size = keys.shape[1], keys.shape[3]
    repeats, most = heads // kv_heads, rows.most_blocks
    padded = triton.next_power_of_2(width)
    shape = {"D": width, "SIZE": size, "REPEATS": repeats}
    heads_padded = triton.next_power_of_2(repeats)
    scores, parts, maxima, sums = workspace.split(*_decode_sizes(rows.count * most * heads, width, size))
    programs = min(most, MOST_PROGRAMS)
    launch(
        _score,
        (kv_heads, programs, rows.count),
        q,
        keys,
        rows.first,
        rows.seen,
        rows.block_table,
        rows.at,
        scores,
        maxima,
        most,
        scale,
        **shape,
        HEADS=heads_padded,
        KEYS=triton.next_power_of_2(size),
        warps=4,
    )
    slices = triton.cdiv(width, WEIGHED)
    launch(
        _weigh,
        (kv_heads * slices, programs, rows.count),
        values,
        rows.first,
        rows.seen,
        rows.block_table,
        scores,
        maxima,
        parts,
        sums,
        most,
        **shape,
        HEADS=heads_padded,
        SLICES=slices,
        WIDTH=min(padded, WEIGHED),
        warps=4,
    )
    launch(
        _combine,
        (triton.cdiv(repeats * width, COMBINED), kv_heads, rows.count),
        rows.seen,
        rows.at,
        parts,
        sums,
        out,
        most,
        **shape,
        COUNT=COMBINED,
        warps=2,
    )


@triton.jit
def _score(
    p_q,
    p_keys,
    p_first,
    p_seen,
    p_table,
    p_at,
    p_scores,
    p_maxima,
    most_blocks,
    scale,
    D: tl.constexpr,
    SIZE: tl.constexpr,
    REPEATS: tl.constexpr,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Scores of a KV head's queries with the keys of a block, and each query's highest."""
    i_kv, i_row = tl.program_id(0), tl.program_id(2).to(tl.int64)
    kv_heads = tl.num_programs(0)
    seen, first = tl.load(p_seen + i_row), tl.load(p_first + i_row)
    o_head, o_key = tl.arange(0, HEADS), tl.arange(0, KEYS)
    m_head, m_key = o_head < REPEATS, o_key < SIZE
    i_q = i_row if p_at is None else tl.load(p_at + i_row).to(tl.int64)
    p_q += (i_q * kv_heads + i_kv) * REPEATS * D
    for i_block in range(tl.program_id(1), tl.cdiv(seen, SIZE), tl.num_programs(1)):
        block = tl.load(p_table + first + i_block).to(tl.int64)
        p_block = p_keys + (block * kv_heads + i_kv) * D * SIZE
        scores = tl.zeros([HEADS, KEYS], tl.float32)
        for i_d in tl.range(0, D, STEP, num_stages=4):
            o_d = i_d + tl.arange(0, STEP)
            m_q, m_k = m_head[:, None] & (o_d < D)[None, :], m_key[:, None] & (o_d < D)[None, :]
            q = tl.load(p_q + o_head[:, None] * D + o_d[None, :], mask=m_q, other=0.0) * scale
            k = tl.load(p_block + o_d[None, :] * SIZE + o_key[:, None], mask=m_k, other=0.0)
            scores = multiply_in_order(scores, q, k.to(tl.float32))
        o_piece = ((i_row * kv_heads + i_kv) * most_blocks + i_block) * REPEATS
        m_score = m_head[:, None] & m_key[None, :]
        tl.store(p_scores + o_piece * SIZE + (o_head[:, None] * SIZE + o_key[None, :]), scores, mask=m_score)
        is_seen = m_key & (i_block * SIZE + o_key < seen)
        highest = tl.max(tl.where(is_seen[None, :], scores, -float("inf")), axis=1)
        tl.store(p_maxima + o_piece + o_head, highest, mask=m_head)


@triton.jit
def _weigh(
    p_values,
    p_first,
    p_seen,
    p_table,
    p_scores,
    p_maxima,
    p_parts,
    p_sums,
    most_blocks,
    D: tl.constexpr,
    SIZE: tl.constexpr,
    REPEATS: tl.constexpr,
    HEADS: tl.constexpr,
    SLICES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Shares of the keys of a block: their sum, and what they make of some dimensions of the block's values."""
    i_kv, i_slice = tl.program_id(0) // SLICES, tl.program_id(0) % SLICES
    i_row, kv_heads = tl.program_id(2).to(tl.int64), tl.num_programs(0) // SLICES
    seen, first = tl.load(p_seen + i_row), tl.load(p_first + i_row)
    blocks = tl.cdiv(seen, SIZE)
    o_head, o_lane = tl.arange(0, HEADS), tl.arange(0, LANES)
    o_d = i_slice * WIDTH + tl.arange(0, WIDTH)
    m_head, m_d = o_head < REPEATS, o_d < D
    o_row = (i_row * kv_heads + i_kv) * most_blocks
    if tl.program_id(1) < blocks:
        highest = _highest(p_maxima + o_row * REPEATS, blocks, o_head, m_head, REPEATS, HEADS)
        for i_block in range(tl.program_id(1), blocks, tl.num_programs(1)):
            block = tl.load(p_table + first + i_block).to(tl.int64)
            p_block = p_values + (block * kv_heads + i_kv) * SIZE * D
            o_piece = (o_row + i_block) * REPEATS
            p_score = p_scores + o_piece * SIZE + o_head[:, None] * SIZE
            lanes, part = tl.zeros([HEADS, LANES], tl.float32), tl.zeros([HEADS, WIDTH], tl.float32)
            for i_key in tl.range(0, SIZE, LANES, num_stages=4):
                o_key = i_key + o_lane
                scores = tl.load(p_score + o_key[None, :], mask=m_head[:, None], other=0.0)
                v = tl.load(p_block + o_key[None, :] * D + o_d[:, None], mask=m_d[:, None], other=0.0)
                m_share = m_head[:, None] & (i_block * SIZE + o_key < seen)[None, :]
                shares = tl.where(m_share, exp(scores - highest[:, None]), 0.0)
                lanes += shares
                part = multiply_in_order(part, shares, v.to(tl.float32))
            m_part = m_head[:, None] & m_d[None, :]
            tl.store(p_parts + o_piece * D + (o_head[:, None] * D + o_d[None, :]), part, mask=m_part)
            if i_slice == 0:
                tl.store(p_sums + o_piece + o_head, fold(lanes, HEADS), mask=m_head)


@triton.jit
def _highest(p_maxima, blocks, o_head, m_head, REPEATS: tl.constexpr, HEADS: tl.constexpr):
    """The highest score of each query over all blocks: [HEADS]."""
    highest = tl.full([HEADS, MAXIMA], -float("inf"), tl.float32)
    for i_block in range(0, blocks, MAXIMA):
        o_block = i_block + tl.arange(0, MAXIMA)
        m_block = m_head[:, None] & (o_block < blocks)[None, :]
        found = tl.load(p_maxima + o_block[None, :] * REPEATS + o_head[:, None], mask=m_block, other=-float("inf"))
        highest = tl.maximum(highest, found)
    return tl.max(highest, axis=1)


@triton.jit
def _combine(
    p_seen,
    p_at,
    p_parts,
    p_sums,
    p_out,
    most_blocks,
    D: tl.constexpr,
    SIZE: tl.constexpr,
    REPEATS: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Adds a KV head's parts and sums of shares block by block: dimensions of the output."""
    i_kv, i_row, kv_heads = tl.program_id(1), tl.program_id(2).to(tl.int64), tl.num_programs(1)
    blocks = tl.cdiv(tl.load(p_seen + i_row), SIZE)
    i_out = i_row if p_at is None else tl.load(p_at + i_row).to(tl.int64)
    o_out = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    m_out = o_out < REPEATS * D
    o_row = (i_row * kv_heads + i_kv) * most_blocks
    p_parts += o_row * REPEATS * D + o_out[None, :, None]
    p_sums += o_row * REPEATS + (o_out // D)[None, :, None]
    out, total = tl.zeros([1, COUNT], tl.float32), tl.zeros([1, COUNT], tl.float32)
    for i_block in tl.range(0, blocks, STEP, num_stages=2):
        o_block = (i_block + tl.arange(0, STEP))[None, None, :]
        m_block = m_out[None, :, None] & (o_block < blocks)
        parts = tl.load(p_parts + o_block * REPEATS * D, mask=m_block, other=0.0)
        sums = tl.load(p_sums + o_block * REPEATS, mask=m_block, other=0.0)
        out, total = add_in_order(out, parts), add_in_order(total, sums)
    # A row that sees nothing has no shares.
    result = tl.div_rn(out, tl.where(total > 0, total, 1.0))
    o_head = (i_out * kv_heads + i_kv) * REPEATS * D
    tl.store(p_out + o_head + o_out[None, :], result, mask=m_out[None, :])
