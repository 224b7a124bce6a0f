"""What each op means: one Protocol per op, with shapes. Implementations differ in speed, never in meaning.

Every op is invariant to its batch: a row's result has the same bits alone, among others, and in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Rows of one matrix product. A product's bits may depend on its shape, so the shape is always the same.
TILE_ROWS = 16

# Scores that one chunk of attention tiles may hold at once, in elements.
CHUNK_SCORES = 1 << 22


class RMSNorm(Protocol):
    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) over the last dimension in fp32, rounded to x's dtype, then times weight.

        x [..., D], weight broadcast against it, result [..., D].
        """
        ...


class Linear(Protocol):
    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [T, K] times the transpose of weight [N, K]: [T, N] in their common dtype."""
        ...


class Rope(Protocol):
    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turns the first R dimensions of each head, element i paired with i + R/2; the rest passes through.

        x [T, H, D]; cos and sin [T, R/2] in x's dtype.
        """
        ...


class SwiGLU(Protocol):
    def __call__(self, x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """down(silu(gate(x)) * up(x)) for x [T, M], gate_up [2F, M] (gate first), down [M, F]: [T, M]."""
        ...


class Route(Protocol):
    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        experts_per_token: int,
        groups: int,
        groups_kept: int,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Group-limited sigmoid routing of x [T, M]; weight [E, M] and bias [E] in fp32.

        Returns ids int64 [T, K] ascending, and their weights fp32 [T, K], which add up to `scale`.
        Ties go to the lower id.
        """
        ...


class Experts(Protocol):
    def __call__(self, x: Tensor, ids: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """SwiGLU of each row by each of its experts.

        x [T, M], ids [T, K], gate_up [E, 2F, M], down [E, M, F]: [T, K, M]. Only touched experts are read.
        """
        ...


class Combine(Protocol):
    def __call__(self, outputs: Tensor, weights: Tensor, shared: Tensor) -> Tensor:
        """Sum of weights x outputs over K in the order given, in fp32, rounded; then shared is added.

        outputs [T, K, M], weights fp32 [T, K], shared [T, M]: [T, M].
        """
        ...


class Span(Protocol):
    """Consecutive rows of a batch that belong to one sequence, and where its keys are."""

    @property
    def start(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def blocks(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class AttentionTiles:
    """Tiles of 16 query rows, each with the cache blocks that its rows may see.

    A tile with fewer rows repeats its first one; a tile with fewer blocks repeats a block, all of it masked.
    `used` is the most rows that a tile has of its own.
    """

    rows: Tensor  # [I, 16]
    blocks: Tensor  # [I, B]
    used: int
    mask: Tensor  # [I, B, 1, 1, used, block_size], 0 where a row sees a key and minus infinity elsewhere


@dataclass(frozen=True)
class AttentionPlan:
    """The attention of one batch, the same for every layer: made once, in chunks that bound the memory."""

    chunks: tuple[AttentionTiles, ...]
    places: Tensor  # [T], the place of each batch row among the rows of all tiles


class PagedAttention(Protocol):
    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
        """Causal attention of q [T, H, D] over cached keys and values [blocks, block_size, G, D]: [T, H, D].

        Query head h reads KV head h // (H / G). Softmax in fp32, rounded to q's dtype before the values.
        Every slot of a block named in the plan must hold finite numbers, written or not.
        """
        ...


@dataclass(frozen=True)
class Ops:
    """The implementation chosen for every op."""

    rms_norm: RMSNorm
    linear: Linear
    rope: Rope
    swiglu: SwiGLU
    route: Route
    experts: Experts
    combine: Combine
    paged_attention: PagedAttention


def plan_attention(spans: Sequence[Span], *, block_size: int, heads: int, device: torch.device) -> AttentionPlan:
    """Cuts the rows of every span into tiles, each with the blocks that its last row may see."""
    tiles = [_Tile(span, offset, block_size) for span in spans for offset in range(0, span.length, TILE_ROWS)]
    order = [row for tile in tiles for row in tile.real_rows]
    places = [i * TILE_ROWS + n for i, tile in enumerate(tiles) for n in range(len(tile.real_rows))]
    by_row = [place for _, place in sorted(zip(order, places, strict=True))]
    chunks = tuple(_stack(chunk, block_size, device) for chunk in _chunked(tiles, block_size * heads))
    return AttentionPlan(chunks, torch.tensor(by_row, device=device))


class _Tile:
    def __init__(self, span: Span, offset: int, block_size: int) -> None:
        count = min(TILE_ROWS, span.length - offset)
        first = span.context + offset
        padding = [0] * (TILE_ROWS - count)
        self.real_rows = range(span.start + offset, span.start + offset + count)
        self.rows = [*self.real_rows, *(self.real_rows[0] for _ in padding)]
        self.positions = [*range(first, first + count), *(first for _ in padding)]
        self.blocks = span.blocks[: (first + count - 1) // block_size + 1]


def _chunked(tiles: Sequence[_Tile], scores_per_row: int) -> list[list[_Tile]]:
    chunks: list[list[_Tile]] = []
    widest = 0
    for tile in tiles:
        widest = max(widest, len(tile.blocks))
        size = len(chunks[-1]) + 1 if chunks else 1
        if not chunks or size * widest * TILE_ROWS * scores_per_row > CHUNK_SCORES:
            chunks.append([])
            widest = len(tile.blocks)
        chunks[-1].append(tile)
    return chunks


def _stack(tiles: Sequence[_Tile], block_size: int, device: torch.device) -> AttentionTiles:
    widest = max(len(tile.blocks) for tile in tiles)
    blocks = [[*tile.blocks, *([tile.blocks[0]] * (widest - len(tile.blocks)))] for tile in tiles]
    used = max(len(tile.real_rows) for tile in tiles)
    positions = torch.tensor([tile.positions[:used] for tile in tiles], device=device)  # [I, used]
    keys = torch.arange(widest * block_size, device=device).view(1, widest, 1, block_size)
    hidden = keys > positions[:, None, :, None]  # [I, B, used, block_size]
    mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)
    return AttentionTiles(
        rows=torch.tensor([tile.rows for tile in tiles], device=device),
        blocks=torch.tensor(blocks, device=device),
        used=used,
        mask=mask[:, :, None, None],
    )
