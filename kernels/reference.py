"""Every op in plain torch: what the others are compared with, and what runs where nothing else does.

Three things make torch depend on the batch, and are avoided here. A matrix product may use another kernel for
another number of rows: all products have tiles of 16 rows. A sum over keys would be cut elsewhere in a longer
context: it is taken per block, then block by block. And torch's vectorised silu, sigmoid and exp
give other bits at the ragged end of a tensor than in its middle: they are applied where no end is ragged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.ops import TILE_ROWS, AttentionPlan, AttentionTiles
from kernels.registry import register

# Multiplies [n, rows, K] with [n, K, N], matrix by matrix, into the third, [n, rows, N].
Product = Callable[[Tensor, Tensor, Tensor], None]


class TileRows(Protocol):
    def __call__(self, used: int, repeats: int, *weights: Tensor) -> int:
        """How many rows a tile gets of which `used` are real.

        It will be multiplied, `repeats` tiles in one matrix, with matrices laid out as weights [..., K, N].
        """
        ...


@dataclass(frozen=True)
class Tiling:
    """How tiles are multiplied, and how many rows they have."""

    product: Product
    rows: TileRows


# A multiple of every vector that torch's CPU loops take at once.
VECTOR = 64

# Torch cuts elementwise work of this many elements into one ragged piece per thread.
PARALLEL_FROM = 32768

# Wide matrices are multiplied by blocks of this many columns, which stay in cache.
COLUMN_BLOCK = 512
WIDE = 2048


def product_by_tile(a: Tensor, b: Tensor, out: Tensor) -> None:
    """One matrix product per tile, so that each has the same shape whatever else is in the batch."""
    for i in range(a.shape[0]):
        torch.mm(a[i], b[i], out=out[i])


def always_whole(used: int, repeats: int, *weights: Tensor) -> int:
    return TILE_ROWS


BY_TILE = Tiling(product_by_tile, always_whole)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype) * weight


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    c, s = cos[:, None], sin[:, None]  # [T, 1, R/2]
    first, second, rest = torch.split(x, [half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat((first * c - second * s, second * c + first * s, rest), dim=-1)


def linear(x: Tensor, weight: Tensor, *, tiling: Tiling = BY_TILE) -> Tensor:
    rows = tiling.rows(x.shape[0], 1, column_blocks(weight))
    return multiply_tiles(into_tiles(x, rows), weight, tiling).flatten(0, 1)[: x.shape[0]]


def into_tiles(x: Tensor, rows: int) -> Tensor:
    """Rows [T, K] as fresh tiles [n, rows, K]: the same alignment whatever x was a view of."""
    whole = -(-x.shape[0] // rows) * rows
    if x.shape[0] == whole and x.is_contiguous() and x.storage_offset() == 0:
        return x.view(-1, rows, x.shape[1])
    tiles = x.new_zeros(whole, x.shape[1])
    tiles[: x.shape[0]] = x
    return tiles.view(-1, rows, x.shape[1])


def column_blocks(weight: Tensor) -> Tensor:
    """weight [N, K] transposed and, if wide, cut by its columns: [blocks, K, columns]."""
    columns, inner = weight.shape
    width = columns if columns < WIDE or columns % COLUMN_BLOCK else COLUMN_BLOCK
    return weight.view(-1, width, inner).transpose(1, 2)


def multiply_tiles(tiles: Tensor, weight: Tensor, tiling: Tiling) -> Tensor:
    """tiles [n, rows, K] times the transpose of weight [N, K]: [n, rows, N]."""
    out = tiles.new_empty(*tiles.shape[:2], weight.shape[0])
    multiply_into(out, tiles, weight, tiling.product)
    return out


def multiply_into(out: Tensor, tiles: Tensor, weight: Tensor, product: Product) -> None:
    blocks = column_blocks(weight)
    if blocks.shape[0] == 1:
        product(tiles, blocks.expand(tiles.shape[0], *blocks.shape[1:]), out)
        return
    part = tiles.new_empty(blocks.shape[0], tiles.shape[1], COLUMN_BLOCK)
    for tile, into in zip(tiles, out, strict=True):
        product(tile.expand(blocks.shape[0], *tile.shape), blocks, part)
        into.view(tiles.shape[1], -1, COLUMN_BLOCK).copy_(part.transpose(0, 1))


def elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x) such that an element's bits don't depend on where in x it stands."""
    if x.device.type != "cpu":
        return function(x)
    width = x.shape[-1]
    if width % VECTOR:
        return elementwise(function, F.pad(x, (0, VECTOR - width % VECTOR)))[..., :width]
    if x.numel() < PARALLEL_FROM:
        return function(x)
    flat = x.reshape(-1)
    return torch.cat([function(piece) for piece in torch.split(flat, PARALLEL_FROM - VECTOR)]).view(x.shape)


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [..., 2F] with the gates first: [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return elementwise(F.silu, gate.contiguous()) * up


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor, *, tiling: Tiling = BY_TILE) -> Tensor:
    rows = tiling.rows(x.shape[0], 1, column_blocks(gate_up), column_blocks(down))
    inner = gated(multiply_tiles(into_tiles(x, rows), gate_up, tiling))
    return multiply_tiles(inner, down, tiling).flatten(0, 1)[: x.shape[0]]


def route(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    experts_per_token: int,
    groups: int,
    groups_kept: int,
    scale: float,
    tiling: Tiling = BY_TILE,
) -> tuple[Tensor, Tensor]:
    scores = elementwise(torch.sigmoid, linear(x.float(), weight, tiling=tiling))  # [T, E]
    choices = scores + bias
    if groups_kept < groups:
        choices = choices.masked_fill(outside_best_groups(choices, groups, groups_kept), -torch.inf)
    best = choices.sort(dim=-1, descending=True, stable=True).indices[:, :experts_per_token]
    ids = best.sort(dim=-1).values
    weights = scores.gather(-1, ids)
    if experts_per_token > 1:
        weights = weights / (sum_in_order(weights.unbind(-1)) + 1e-20)[:, None]
    return ids, weights * scale


def outside_best_groups(choices: Tensor, groups: int, kept: int) -> Tensor:
    """Which experts are not in the groups whose two best add up to the most: bool [T, E]."""
    grouped = torch.unflatten(choices, -1, (groups, -1))  # [T, groups, E / groups]
    strength = grouped.topk(2, dim=-1).values.sum(-1)
    ranked = strength.sort(dim=-1, descending=True, stable=True).indices
    outside = torch.ones_like(strength, dtype=torch.bool).scatter(-1, ranked[:, :kept], False)
    return outside[..., None].expand_as(grouped).flatten(1)


@dataclass(frozen=True)
class ExpertTiles:
    """Where the rows of each touched expert stand among padded tiles, one expert after another."""

    runs: tuple[tuple[int, int, int], ...]  # expert, first tile, tile after the last
    places: list[int]  # of each (token, k), in row-major order
    tiles: int


def plan_expert_tiles(ids: list[int], counts: Counter[int], rows: int) -> ExpertTiles:
    """Gives each expert's rows, in batch order, tiles of their own."""
    runs: list[tuple[int, int, int]] = []
    free: dict[int, int] = {}
    tile = 0
    for expert in sorted(counts):
        after = tile - (-counts[expert] // rows)
        runs.append((expert, tile, after))
        free[expert] = tile * rows
        tile = after
    places: list[int] = []
    for expert in ids:
        places.append(free[expert])
        free[expert] += 1
    return ExpertTiles(tuple(runs), places, tile)


def experts(x: Tensor, ids: Tensor, gate_up: Tensor, down: Tensor, *, tiling: Tiling = BY_TILE) -> Tensor:
    chosen = ids.flatten().tolist()
    counts = Counter(chosen)
    rows = tiling.rows(max(counts.values()), 1, column_blocks(gate_up[0]), column_blocks(down[0]))
    plan = plan_expert_tiles(chosen, counts, rows)
    places = torch.tensor(plan.places, device=x.device)
    each = x[:, None].expand(*ids.shape, x.shape[1]).reshape(-1, x.shape[1])  # [T K, M]
    tiles = x.new_zeros(plan.tiles * rows, x.shape[1]).index_copy_(0, places, each)
    inner = gated(_run_experts(tiles.view(-1, rows, x.shape[1]), plan, gate_up, tiling.product))
    out = _run_experts(inner, plan, down, tiling.product).flatten(0, 1)
    return out.index_select(0, places).view(*ids.shape, -1)


def _run_experts(tiles: Tensor, plan: ExpertTiles, weight: Tensor, product: Product) -> Tensor:
    out = tiles.new_empty(*tiles.shape[:2], weight.shape[1])
    for expert, first, after in plan.runs:
        multiply_into(out[first:after], tiles[first:after], weight[expert], product)
    return out


def combine(outputs: Tensor, weights: Tensor, shared: Tensor) -> Tensor:
    weighted = outputs.float() * weights[..., None]  # [T, K, M]
    return sum_in_order(weighted.unbind(1)).to(shared.dtype) + shared


def sum_in_order(terms: Iterable[Tensor]) -> Tensor:
    """0 + a + b + ... from the left, where torch.sum chooses an order. Zeros at the end change nothing."""
    first, *others = terms
    total = first + 0.0
    for term in others:
        total += term
    return total


def paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    scale: float,
    *,
    tiling: Tiling = BY_TILE,
) -> Tensor:
    parts = [_attend(q.float() * scale, keys, values, tiles, tiling) for tiles in plan.chunks]
    return torch.cat(parts).index_select(0, plan.places).to(q.dtype)


def _attend(q: Tensor, keys: Tensor, values: Tensor, tiles: AttentionTiles, tiling: Tiling) -> Tensor:
    """Scaled fp32 queries [T, H, D] to fp32 outputs of all rows of the tiles, [I 16, H, D]."""
    items, blocks = tiles.blocks.shape
    heads, width = q.shape[1:]
    kv_heads = keys.shape[2]
    repeats = heads // kv_heads
    k, v = _gather(keys, tiles.blocks).transpose(3, 4), _gather(values, tiles.blocks)  # [I, B, G, ...]
    rows = tiling.rows(tiles.used, repeats, k, v)

    def by_block(a: Tensor, b: Tensor) -> Tensor:
        """a [I, B, G, r, rows, i] times b [I, B, G, i, j]: [I, B, G, r, rows, j]."""
        out = a.new_empty(items * blocks * kv_heads, repeats * rows, b.shape[4])
        tiling.product(a.reshape(*out.shape[:2], -1), b.flatten(0, 2), out)
        return out.view(*a.shape[:5], -1)

    taken = q.index_select(0, tiles.rows[:, :rows].flatten())
    queries = taken.view(items, rows, kv_heads, repeats, width).permute(0, 2, 3, 1, 4)
    spread = queries[:, None].expand(items, blocks, *queries.shape[1:])  # [I, B, G, r, rows, D]
    scores = by_block(spread, k)[..., : tiles.used, :] + tiles.mask
    shares = scores.new_zeros(*spread.shape[:-1], scores.shape[-1])
    shares[..., : tiles.used, :] = softmax_over_blocks(scores).to(keys.dtype)
    summed = sum_in_order(by_block(shares, v).unbind(1))  # [I, G, r, rows, D]
    out = q.new_zeros(items, TILE_ROWS, heads, width)
    out[:, :rows] = summed.permute(0, 3, 1, 2, 4).flatten(2, 3)
    return out.flatten(0, 1)


def softmax_over_blocks(scores: Tensor) -> Tensor:
    """Softmax of [I, B, ..., block_size] over all keys, those of B blocks."""
    top = scores.amax(dim=(1, -1), keepdim=True)
    weights = elementwise(torch.exp, scores - top)
    return weights / sum_in_order(weights.sum(-1, keepdim=True).unbind(1))[:, None]


def _gather(pool: Tensor, blocks: Tensor) -> Tensor:
    """The blocks [I, B] of pool [blocks, block_size, G, D], by head: fp32 [I, B, G, block_size, D]."""
    found = pool.index_select(0, blocks.flatten()).transpose(1, 2).float().contiguous()
    return found.view(*blocks.shape, *found.shape[1:])


def runs_anywhere(device: torch.device) -> str | None:
    return None


OPS: dict[str, Callable[..., Any]] = {
    "rms_norm": rms_norm,
    "linear": linear,
    "rope": rope,
    "swiglu": swiglu,
    "route": route,
    "experts": experts,
    "combine": combine,
    "paged_attention": paged_attention,
}

for _name, _function in OPS.items():
    register(_name, "torch", _function, rank=0, supports=runs_anywhere)
