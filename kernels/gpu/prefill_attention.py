"""Attention of many rows of a sequence, in tiles that share each key and value they read; and the op.

Shares need the maximum of all scores. Scores are kept for that, and not computed twice: a score takes as many
operations as a chip does while it moves a hundred bytes. They take memory, so tiles go in groups that fit a workspace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.cpu.products import Kept
from kernels.gpu.attention import Rows, Workspace, aligned_floats, decode_floats, launch_decode_attention
from kernels.gpu.language import exp
from kernels.gpu.launch import launch
from kernels.gpu.ordered import add_halves, multiply_in_order
from kernels.ops import AttentionPlan

# Queries of a tile: heads that read one KV head, of consecutive rows.
QUERIES = 64

# Dimensions of the values that one program weighs.
WEIGHED = 64

# Terms that a thread holds at a time; half of the lanes.
STEP = tl.constexpr(8)

# Spans of fewer rows are computed row by row, in parallel over blocks of keys.
FEWEST_ROWS = 16

# Scores that are kept at a time, more only where one tile has more: 256 MiB.
MOST_SCORES = 1 << 26


@dataclass(frozen=True)
class Tiles:
    """Rows of spans, as many together as make up QUERIES with the heads that read one KV head.

    `table` are first row, rows, keys before them, and first index into block_table; `blocks` are those that each sees.
    """

    table: Tensor  # int32 [count, 4]
    blocks: tuple[int, ...]
    block_table: Tensor = field(repr=False)  # int32


def tile_floats(blocks: int, kv_heads: int, block_size: int) -> int:
    """How many fp32 numbers of workspace a tile needs that sees so many blocks."""
    return aligned_floats(kv_heads * QUERIES * blocks * (block_size + 1))


def launch_prefill_attention(
    q: Tensor, keys: Tensor, values: Tensor, tiles: Tiles, scale: float, out: Tensor, workspace: Workspace
) -> None:
    """Attention of tiles of q fp32 [T, H, D] over cached keys and values, into the same rows of out fp32 [T, H D].

    keys [blocks, G, D, block_size] and values [blocks, G, block_size, D] in fp32 or bf16. The workspace must have room
    for the tile that needs most; the more it has, the fewer launches.
    """
    room = workspace.memory.numel() // tile_floats(1, keys.shape[1], keys.shape[3])
    for first, stop, most in _groups(tiles.blocks, room):
        _launch_group(q, keys, values, tiles, (first, stop, most), scale, out, workspace)


def _groups(blocks: Sequence[int], room: int) -> Iterator[tuple[int, int, int]]:
    """First and last + 1 of tiles that go together, and the most blocks of one: that times tiles is within `room`."""
    first, most = 0, 0
    for index, count in enumerate(blocks):
        if index > first and max(most, count) * (index + 1 - first) > room:
            yield first, index, most
            first, most = index, 0
        most = max(most, count)
    yield first, len(blocks), most


def _launch_group(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tiles: Tiles,
    group: tuple[int, int, int],
    scale: float,
    out: Tensor,
    workspace: Workspace,
) -> None:
    first, stop, most = group
    heads, width = q.shape[1:]
    kv_heads, size = keys.shape[1], keys.shape[3]
    shape = {"D": width, "SIZE": size, "REPEATS": heads // kv_heads, "QUERIES": QUERIES}
    pieces = (stop - first) * kv_heads * most * QUERIES
    scores, maxima = workspace.split(pieces * size, pieces)
    launch(
        _score,
        (kv_heads, most, stop - first),
        q,
        keys,
        tiles.table,
        tiles.block_table,
        scores,
        maxima,
        first,
        scale,
        **shape,
        KEYS=triton.next_power_of_2(size),
        warps=4,
    )
    slices = triton.cdiv(width, WEIGHED)
    launch(
        _weigh,
        (kv_heads * slices, stop - first),
        values,
        tiles.table,
        tiles.block_table,
        scores,
        maxima,
        out,
        first,
        most,
        size,
        **shape,
        SLICES=slices,
        WIDTH=min(triton.next_power_of_2(width), WEIGHED),
        warps=4,
    )


@triton.jit
def _score(
    p_q,
    p_keys,
    p_tiles,
    p_table,
    p_scores,
    p_maxima,
    first_tile,
    scale,
    D: tl.constexpr,
    SIZE: tl.constexpr,
    REPEATS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Scores of a tile's queries with the keys of a block, and each query's highest."""
    i_kv, i_block, i_tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_heads, most_blocks = tl.num_programs(0), tl.num_programs(1)
    row, rows, context, first = _tile(p_tiles + (first_tile + i_tile) * 4)
    if i_block * SIZE < context + rows:
        block = tl.load(p_table + first + i_block).to(tl.int64)
        o_query, o_key = tl.arange(0, QUERIES), tl.arange(0, KEYS)
        o_row = o_query // REPEATS
        m_query, m_key = o_row < rows, o_key < SIZE
        p_q += (row.to(tl.int64) * kv_heads + i_kv) * REPEATS * D
        o_q = o_row * (kv_heads * REPEATS * D) + o_query % REPEATS * D
        p_block = p_keys + (block * kv_heads + i_kv) * D * SIZE
        scores = tl.zeros([QUERIES, KEYS], tl.float32)
        for i_d in tl.range(0, D, STEP, num_stages=3):
            o_d = i_d + tl.arange(0, STEP)
            m_d = (o_d < D)[None, :]
            q = tl.load(p_q + (o_q[:, None] + o_d[None, :]), mask=m_query[:, None] & m_d, other=0.0) * scale
            k = tl.load(p_block + (o_d[None, :] * SIZE + o_key[:, None]), mask=m_key[:, None] & m_d, other=0.0)
            scores = multiply_in_order(scores, q, k.to(tl.float32))
        o_piece = ((i_tile.to(tl.int64) * kv_heads + i_kv) * most_blocks + i_block) * QUERIES
        tl.store(p_scores + o_piece * SIZE + (o_query[:, None] * SIZE + o_key[None, :]), scores, mask=m_key[None, :])
        is_seen = m_key[None, :] & ((i_block * SIZE + o_key)[None, :] <= (context + o_row)[:, None])
        tl.store(p_maxima + o_piece + o_query, tl.max(tl.where(is_seen, scores, -float("inf")), axis=1))


@triton.jit
def _weigh(
    p_values,
    p_tiles,
    p_table,
    p_scores,
    p_maxima,
    p_out,
    first_tile,
    most_blocks,
    block_size,
    D: tl.constexpr,
    SIZE: tl.constexpr,
    REPEATS: tl.constexpr,
    QUERIES: tl.constexpr,
    SLICES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Some dimensions of a tile's outputs: shares of all keys it sees by their values, block by block."""
    i_kv, i_slice, i_tile = tl.program_id(0) // SLICES, tl.program_id(0) % SLICES, tl.program_id(1)
    kv_heads = tl.num_programs(0) // SLICES
    row, rows, context, first = _tile(p_tiles + (first_tile + i_tile) * 4)
    blocks = tl.cdiv(context + rows, SIZE)
    o_query, o_d = tl.arange(0, QUERIES), i_slice * WIDTH + tl.arange(0, WIDTH)
    o_row, m_d = o_query // REPEATS, o_d < D
    o_piece = (i_tile.to(tl.int64) * kv_heads + i_kv) * most_blocks * QUERIES
    highest = _highest(p_maxima + o_piece, blocks, QUERIES)
    out, total = tl.zeros([QUERIES, WIDTH], tl.float32), tl.zeros([QUERIES], tl.float32)
    for i_block in range(0, blocks):
        block = tl.load(p_table + first + i_block).to(tl.int64)
        p_block = p_values + (block * kv_heads + i_kv) * SIZE * D
        p_score = p_scores + (o_piece + i_block * QUERIES) * SIZE
        part = tl.zeros([QUERIES, WIDTH], tl.float32)
        low, high = tl.zeros([QUERIES, STEP], tl.float32), tl.zeros([QUERIES, STEP], tl.float32)
        last = context - i_block * SIZE + o_row
        # SIZE again, but unknown to the compiler, so that loads go through shared memory even where one turn is all.
        for i_key in tl.range(0, block_size, 2 * STEP, num_stages=3):
            shares, v = _shares(p_score, p_block, i_key, last, o_query, highest, o_d, m_d, D, SIZE)
            low += shares
            part = multiply_in_order(part, shares, v)
            shares, v = _shares(p_score, p_block, i_key + STEP, last, o_query, highest, o_d, m_d, D, SIZE)
            high += shares
            part = multiply_in_order(part, shares, v)
        out += part
        total += add_halves(low + high)
    o_head = (row.to(tl.int64) * kv_heads + i_kv) * REPEATS * D
    o_out = o_row[:, None] * (kv_heads * REPEATS * D) + o_query[:, None] % REPEATS * D + o_d[None, :]
    m_out = (o_row < rows)[:, None] & m_d[None, :]
    tl.store(p_out + o_head + o_out, tl.div_rn(out, tl.broadcast_to(total[:, None], out.shape)), mask=m_out)


@triton.jit
def _tile(p_tile):
    """First row, rows, keys before them, first index into the block table."""
    return tl.load(p_tile), tl.load(p_tile + 1), tl.load(p_tile + 2), tl.load(p_tile + 3)


@triton.jit
def _highest(p_maxima, blocks, QUERIES: tl.constexpr):
    """The highest score of each query over all blocks: [QUERIES]."""
    highest = tl.full([QUERIES], -float("inf"), tl.float32)
    for i_block in range(0, blocks):
        highest = tl.maximum(highest, tl.load(p_maxima + i_block * QUERIES + tl.arange(0, QUERIES)))
    return highest


@triton.jit
def _shares(p_score, p_block, i_key, last, o_query, highest, o_d, m_d, D: tl.constexpr, SIZE: tl.constexpr):
    """Shares [QUERIES, 8] of keys from i_key on, of which queries see those up to `last`; and the values [WIDTH, 8]."""
    o_key = i_key + tl.arange(0, STEP)
    scores = tl.load(p_score + (o_query[:, None] * SIZE + o_key[None, :]))
    v = tl.load(p_block + (o_key[None, :] * D + o_d[:, None]), mask=m_d[:, None], other=0.0)
    is_seen = o_key[None, :] <= last[:, None]
    return tl.where(is_seen, exp(scores - highest[:, None]), 0.0), v.to(tl.float32)


@dataclass(frozen=True)
class Layout:
    """How a batch is computed: rows by themselves, and rows in tiles."""

    rows: Rows | None
    tiles: Tiles | None


def paged_attention(q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    out = torch.empty(q.shape[0], q.shape[1] * q.shape[2], dtype=torch.float32, device=q.device)
    layout = _layouts.of(plan).of(q.shape[1] // keys.shape[1], keys.shape[3])
    if layout.rows is not None:
        _attend_rows(q, keys, values, layout.rows, scale, out)
    if layout.tiles is not None:
        floats = [tile_floats(blocks, keys.shape[1], keys.shape[3]) for blocks in layout.tiles.blocks]
        workspace = Workspace.empty(max(floats[0], min(sum(floats), MOST_SCORES)), q.device)
        launch_prefill_attention(q, keys, values, layout.tiles, scale, out, workspace)
    return out


def _attend_rows(q: Tensor, keys: Tensor, values: Tensor, rows: Rows, scale: float, out: Tensor) -> None:
    """So many rows at a time as a workspace has room for."""
    floats = decode_floats(1, rows.most_blocks, q.shape[1], q.shape[2], keys.shape[3])
    together = min(rows.count, max(1, MOST_SCORES // floats))
    workspace = Workspace.empty(together * floats, q.device)
    for first in range(0, rows.count, together):
        part = rows.part(first, first + together)
        launch_decode_attention(q, keys, values, part, scale, out, workspace)


class _Layouts:
    """Those of a plan, each made when a layer first asks for it: a plan is read on the host once, not by each layer."""

    def __init__(self, plan: AttentionPlan) -> None:
        self._spans, self._block_table = plan.spans.tolist(), plan.block_table
        self._made: dict[tuple[int, int], Layout] = {}

    def of(self, repeats: int, block_size: int) -> Layout:
        key = repeats, block_size
        if key not in self._made:
            self._made[key] = _lay_out(self._spans, self._block_table, repeats, block_size)
        return self._made[key]


_layouts: Kept[AttentionPlan, _Layouts] = Kept(_Layouts)


def _lay_out(spans: Sequence[Sequence[int]], block_table: Tensor, repeats: int, block_size: int) -> Layout:
    """Short spans as rows, long ones as tiles, those that see most first: the last to end are the shortest."""
    rows: list[tuple[int, int, int]] = []
    tiles: list[tuple[int, int, int, int]] = []
    together = QUERIES // repeats
    for start, length, context, first in spans:
        if length < FEWEST_ROWS:
            rows += [(start + i, first, context + i + 1) for i in range(length)]
            continue
        for i in range(0, length, together):
            tiles.append((start + i, min(together, length - i), context + i, first))
    tiles.sort(key=lambda tile: -(tile[1] + tile[2]))
    return Layout(_rows(rows, block_table, block_size), _tiles(tiles, block_table, block_size))


def _rows(rows: Sequence[tuple[int, int, int]], block_table: Tensor, block_size: int) -> Rows | None:
    if not rows:
        return None
    most = -(-max(seen for _, _, seen in rows) // block_size)
    at, first, seen = torch.tensor(rows, dtype=torch.int32).t().contiguous().to(block_table.device)
    return Rows(first, seen, block_table, most, at)


def _tiles(tiles: Sequence[tuple[int, int, int, int]], block_table: Tensor, block_size: int) -> Tiles | None:
    if not tiles:
        return None
    blocks = tuple(-(-(count + context) // block_size) for _, count, context, _ in tiles)
    table = torch.tensor(tiles, dtype=torch.int32, device=block_table.device)
    return Tiles(table, blocks, block_table)
