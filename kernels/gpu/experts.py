"""The routed experts of a layer: gate, up and SiLU in one kernel that leaves h quantised, then down.

A program computes one tile of an expert's pairs by some rows of its matrices, group of columns by group of columns. The
weights of groups to come are on their way meanwhile, since those are what a decode step waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.formats import ROW_BLOCK, Format
from kernels.gpu.language import quantised, silu
from kernels.gpu.launch import launch
from kernels.gpu.quantise import Quantised
from kernels.gpu.tables import ExpertShape, Groups, Kind
from kernels.gpu.weights import product_tile

# Pairs of a tile, for a decode step, a few sequences and a prompt. Weights are unpacked once a tile, but a larger one
# than the last leaves no registers for a second program, and nobody would work while the first waits.
TILES = (8, 16, 32)

# Rows of a down matrix that a program computes: the most that divide its rows.
DOWN_ROWS = (64, 32)

# Bytes of weights that are loaded at once where few pairs share them, and groups of columns that these may be. Two such
# loads are on their way while a third is in use.
AT_ONCE, MOST_AT_ONCE = 16 << 10, 4

ALL_KINDS = tuple(Kind)


def launch_gate_up(
    a: Quantised,
    groups: Groups,
    shape: ExpertShape,
    into: Quantised,
    fault: Tensor,
    kinds: Sequence[Kind] = ALL_KINDS,
) -> None:
    """h = silu(gate) * up of each pair whose expert is of `kinds` and has an address, quantised for `shape.down`.

    a [T, M] by token; into [T K, F] by pair, in which other pairs stay as they are; `fault` int32 [1] becomes 1 where
    an h is not finite.
    """
    width = shape.down.group
    constants = _constants(shape.gate_up, 2 * shape.inner, shape.hidden, start=0, rows_at_once=2 * width)
    _launch(
        _gate_up,
        (shape.inner // width,),
        (a, groups, kinds),
        (into.q, into.scales, fault),
        constants | {"PER_TOKEN": groups.per_token, "F": shape.inner, "WIDTH": width},
    )


def launch_down(
    hidden: Quantised,
    groups: Groups,
    shape: ExpertShape,
    y: Tensor,
    kinds: Sequence[Kind] = ALL_KINDS,
    *,
    first: int = 0,
) -> None:
    """Some rows of down times h, of each pair whose expert is of `kinds` and has an address.

    hidden [T K, F] by pair; y fp32 [T K, R] by pair is for the R rows from `first` on, both multiples of `down_rows`;
    other pairs stay as they are in it.
    """
    rows = down_rows(shape)
    constants = _constants(shape.down, shape.hidden, shape.inner, start=shape.down_offset, rows_at_once=rows)
    width = y.shape[1]
    _launch(_down, (width // rows,), (hidden, groups, kinds), (y, width, first // ROW_BLOCK), constants)


def down_rows(shape: ExpertShape) -> int:
    """The rows of down that are computed together."""
    return next(rows for rows in DOWN_ROWS if shape.hidden % rows == 0)


def _launch(
    kernel: Any,
    parts: tuple[int],
    inputs: tuple[Quantised, Groups, Sequence[Kind]],
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
) -> None:
    """One program for each of the `parts` of an expert's matrix and each tile of pairs."""
    a, groups, kinds = inputs
    pairs = groups.pairs.numel()
    tile = _tile(groups)
    searches = groups.most_rows > tile
    launch(
        kernel,
        (*parts, pairs // tile + groups.most if searches else groups.most),
        a.q,
        a.scales,
        groups.count,
        groups.starts,
        groups.pairs,
        groups.addresses,
        groups.kinds,
        *arguments,
        ENTRIES=triton.next_power_of_2(groups.experts.numel()) if searches else 1,
        KINDS=sum(1 << kind for kind in kinds),
        TOKENS=tile,
        **constants,
        **_loads(constants, tile),
    )


def _tile(groups: Groups) -> int:
    """The pairs of a tile: as many as the experts may have, and no more than they have on average."""
    least, middle, most = TILES
    if groups.most_rows <= least:
        return least
    return middle if groups.most_rows <= middle or groups.pairs.numel() <= middle * groups.most else most


def _loads(constants: dict[str, Any], tile: int) -> dict[str, int]:
    """How many groups of columns are loaded at once, how many such loads there are, and the warps for it."""
    rows = constants["BLOCKS"] * ROW_BLOCK
    group_bytes = rows * constants["G"] * constants["BITS"] // 8
    # Of a larger group one load is enough bytes on their way, and more would not fit.
    stages = 3 if group_bytes <= AT_ONCE else 1
    many = tile == TILES[-1]
    count = 1 if many else min(max(AT_ONCE // group_bytes, 1), MOST_AT_ONCE)
    is_even = constants["GROUPS"] % (count * constants["PARTIALS"]) == 0
    few_rows = 128 if many else 64
    return {"COUNT": count, "EVEN": is_even, "STAGES": stages, "warps": 4 if rows <= few_rows else 8}


def _constants(form: Format, rows: int, columns: int, *, start: int, rows_at_once: int) -> dict[str, Any]:
    """What a matrix is to a kernel: its format, and where its planes start in a blob."""
    planes = form.planes(rows, columns)
    return {
        "WEIGHTS_AT": start,
        "SCALES_AT": start + planes.scales,
        "ZEROS_AT": start + planes.zeros,
        "GROUPS": columns // form.group,
        "BITS": form.bits,
        "G": form.group,
        "FP16": form.scale == "fp16",
        "ZEROS": form.zeros,
        "PARTIALS": form.partials,
        "BLOCKS": rows_at_once // ROW_BLOCK,
    }


@triton.jit
def _gate_up(
    p_q, p_scales, p_count, p_starts, p_pairs, p_addresses, p_kinds, p_h, p_h_scales, p_fault,
    WEIGHTS_AT: tl.constexpr, SCALES_AT: tl.constexpr, ZEROS_AT: tl.constexpr, GROUPS: tl.constexpr,
    BITS: tl.constexpr, G: tl.constexpr, FP16: tl.constexpr, ZEROS: tl.constexpr, PARTIALS: tl.constexpr,
    BLOCKS: tl.constexpr, ENTRIES: tl.constexpr, KINDS: tl.constexpr, TOKENS: tl.constexpr, STAGES: tl.constexpr,
    COUNT: tl.constexpr, EVEN: tl.constexpr,
    PER_TOKEN: tl.constexpr, F: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    i_part = tl.program_id(0)
    address, o_first, o_stop = find_tile(p_count, p_starts, p_addresses, p_kinds, ENTRIES, KINDS, TOKENS)
    if o_first >= o_stop:
        return
    o_pairs = o_first + tl.arange(0, TOKENS)
    m_pairs = o_pairs < o_stop
    pairs = tl.load(p_pairs + o_pairs, mask=m_pairs, other=0)
    # The first half of the tile is rows of the gate, the second those of up.
    o_halves = tl.arange(0, BLOCKS)
    o_blocks = i_part * (BLOCKS // 2) + o_halves % (BLOCKS // 2) + o_halves // (BLOCKS // 2) * (F // 16)
    both = expert_tile(
        address, o_blocks, p_q, p_scales, pairs // PER_TOKEN, m_pairs, WEIGHTS_AT, SCALES_AT, ZEROS_AT, GROUPS,
        BITS, G, FP16, ZEROS, PARTIALS, BLOCKS, TOKENS, STAGES, COUNT, EVEN,
    )  # fmt: skip
    gate, up = tl.split(tl.permute(tl.reshape(both, [2, WIDTH, TOKENS]), (2, 1, 0)))
    q, scale, is_finite = quantised(silu(gate) * up, TOKENS)
    o_rows = pairs.to(tl.int64)
    o_columns = i_part * WIDTH + tl.arange(0, WIDTH)
    tl.store(p_h + o_rows[:, None] * F + o_columns[None, :], q, mask=m_pairs[:, None])
    tl.store(p_h_scales + o_rows * (F // WIDTH) + i_part, scale, mask=m_pairs)
    if tl.min(is_finite.to(tl.int32), axis=0) == 0:
        tl.store(p_fault, 1)


@triton.jit
def _down(
    p_q, p_scales, p_count, p_starts, p_pairs, p_addresses, p_kinds, p_y, width, first_block,
    WEIGHTS_AT: tl.constexpr, SCALES_AT: tl.constexpr, ZEROS_AT: tl.constexpr, GROUPS: tl.constexpr,
    BITS: tl.constexpr, G: tl.constexpr, FP16: tl.constexpr, ZEROS: tl.constexpr, PARTIALS: tl.constexpr,
    BLOCKS: tl.constexpr, ENTRIES: tl.constexpr, KINDS: tl.constexpr, TOKENS: tl.constexpr, STAGES: tl.constexpr,
    COUNT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    i_part = tl.program_id(0)
    address, o_first, o_stop = find_tile(p_count, p_starts, p_addresses, p_kinds, ENTRIES, KINDS, TOKENS)
    if o_first >= o_stop:
        return
    o_pairs = o_first + tl.arange(0, TOKENS)
    m_pairs = o_pairs < o_stop
    pairs = tl.load(p_pairs + o_pairs, mask=m_pairs, other=0)
    o_blocks = first_block + i_part * BLOCKS + tl.arange(0, BLOCKS)
    y = expert_tile(
        address, o_blocks, p_q, p_scales, pairs, m_pairs, WEIGHTS_AT, SCALES_AT, ZEROS_AT, GROUPS,
        BITS, G, FP16, ZEROS, PARTIALS, BLOCKS, TOKENS, STAGES, COUNT, EVEN,
    )  # fmt: skip
    o_columns = i_part * (16 * BLOCKS) + tl.arange(0, 16 * BLOCKS)
    offsets = pairs.to(tl.int64)[:, None] * width + o_columns[None, :]
    tl.store(p_y + offsets, tl.trans(y), mask=m_pairs[:, None])


@triton.jit
def expert_tile(
    address, o_blocks, p_q, p_scales, o_tokens, m_tokens,
    WEIGHTS_AT: tl.constexpr, SCALES_AT: tl.constexpr, ZEROS_AT: tl.constexpr, GROUPS: tl.constexpr,
    BITS: tl.constexpr, G: tl.constexpr, FP16: tl.constexpr, ZEROS: tl.constexpr, PARTIALS: tl.constexpr,
    BLOCKS: tl.constexpr, TOKENS: tl.constexpr, STAGES: tl.constexpr,
    COUNT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Row blocks of a matrix in the blob at `address` times rows of activation: fp32 [16 * BLOCKS, TOKENS]."""
    # Blobs, and the planes in them, start at multiples of 64.
    p_blob = tl.multiple_of(address, 64).to(tl.pointer_type(tl.uint8))
    return product_tile(
        p_blob + WEIGHTS_AT, p_blob + SCALES_AT, p_blob + ZEROS_AT, o_blocks, o_blocks >= 0,
        p_q, p_scales, o_tokens, m_tokens, GROUPS, BITS, G, FP16, ZEROS, PARTIALS, BLOCKS, TOKENS, COUNT, STAGES, EVEN,
    )  # fmt: skip


@triton.jit
def find_tile(
    p_count, p_starts, p_addresses, p_kinds, ENTRIES: tl.constexpr, KINDS: tl.constexpr, TOKENS: tl.constexpr
):
    """The expert's address of this program's tile of pairs, and where the tile starts and the expert's pairs stop.

    Tiles are numbered expert by expert, or are the experts where each has one tile at most (ENTRIES 1). Nothing is left
    to compute where the start is not below the stop: beyond the last tile, for other kinds, without an address.
    """
    i_tile = tl.program_id(1)
    count = tl.load(p_count)
    if ENTRIES == 1:
        i_entry, i_within = i_tile, 0
    else:
        o_entries = tl.arange(0, ENTRIES)
        m_entries = o_entries < count
        starts = tl.load(p_starts + o_entries, mask=m_entries, other=0)
        stops = tl.load(p_starts + o_entries + 1, mask=m_entries, other=0)
        ends = tl.cumsum((stops - starts + (TOKENS - 1)) // TOKENS, axis=0)
        i_entry = tl.sum((ends <= i_tile).to(tl.int32), axis=0)
        i_within = i_tile - tl.max(tl.where(ends <= i_tile, ends, 0), axis=0)
    m_entry = i_entry < count
    address = tl.load(p_addresses + i_entry, mask=m_entry, other=0)
    kind = tl.load(p_kinds + i_entry, mask=m_entry, other=0)
    o_first = tl.load(p_starts + i_entry, mask=m_entry, other=0) + i_within * TOKENS
    o_stop = tl.load(p_starts + i_entry + 1, mask=m_entry, other=0)
    is_wanted = (address != 0) & (((KINDS >> kind) & 1) != 0)
    return address, o_first, tl.where(is_wanted, o_stop, 0)
