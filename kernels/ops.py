"""What each op means: one Protocol per op, with shapes. Implementations differ in speed, never in a bit.

Every op is defined to the bit (docs/exact-experts.md), so a row's result is the same alone, among others and in any
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from kernels.formats import Format, Matrix


@dataclass(frozen=True)
class SwiGLUWeights:
    """One feed-forward network: gate above up in one matrix, then down."""

    gate_up: Matrix  # [2F, M]
    down: Matrix  # [M, F]


@dataclass(frozen=True)
class ExpertPool:
    """All experts of a layer, each a blob of bytes: its gate_up [2F, M], then its down [M, F] at `down_offset`.

    `addresses` [E] are where the blobs start in host memory, 0 for an expert that is not there; `blobs` keeps that
    memory alive.
    """

    gate_up: Format
    down: Format
    hidden: int
    inner: int
    down_offset: int
    blobs: Sequence[Tensor] = field(repr=False)  # E times uint8 [blob bytes]
    addresses: Tensor = field(repr=False)  # int64 [E]

    def expert(self, index: int) -> SwiGLUWeights:
        """One expert's matrices, as views of its blob."""
        blob, down_bytes = self.blobs[index], self.down.nbytes(self.hidden, self.inner)
        gate_up = blob[: self.gate_up.nbytes(2 * self.inner, self.hidden)]
        down = blob[self.down_offset : self.down_offset + down_bytes]
        return SwiGLUWeights(
            Matrix(self.gate_up, 2 * self.inner, self.hidden, gate_up),
            Matrix(self.down, self.hidden, self.inner, down),
        )


@dataclass(frozen=True)
class Wave:
    """Some of a layer's experts, where not all of them are in memory at once: those from `first` to `stop` - 1.

    `total` is what the waves of lower experts returned, and is written to; the `last` wave finishes the layer.
    """

    first: int
    stop: int
    total: Tensor | None  # fp32 [T, M]
    last: bool


@dataclass(frozen=True)
class AttentionWeights:
    """What makes queries, keys and values of a residual stream."""

    input_norm: Tensor  # [M], fp32
    query_key_value: Matrix  # [(H + 2G) D, M], rows of all queries, then keys, then values
    head_norm: Tensor  # [H + G, D], fp32
    eps: float
    heads: int
    kv_heads: int

    @property
    def width(self) -> int:
        return self.head_norm.shape[1]


@dataclass(frozen=True)
class AttentionPlan:
    """The attention of one batch, the same for every layer.

    A span is consecutive rows of one sequence. Its `blocks` hold its keys and values in order of position, and are
    `block_table[first : first + ceil((context + length) / block_size)]`.
    """

    spans: Tensor  # int32 [S, 4]: first row, rows, context before them, first index into block_table
    block_table: Tensor  # int32


@dataclass(slots=True)  # one a token: frozen ones take four times as long to make
class Restriction:
    """What a row's logits must obey before a token is chosen.

    Ids not `allowed` (bool [V], None allows all) become minus infinity. Those `seen` (int64) that are positive are
    divided by `penalty`, the others multiplied by it. `temperature` 0 asks for no total.
    """

    allowed: Tensor | None = field(default=None, repr=False)
    seen: Tensor | None = field(default=None, repr=False)
    penalty: float = 1.0
    temperature: float = 0.0


@dataclass(frozen=True)
class Candidates:
    """The likeliest tokens of each row, highest first, ties in id order.

    `totals` are the sums of exp((score - highest) / temperature) over all of a row's scores: with the highest, its
    log-sum-exp. 0 at temperature 0.
    """

    ids: Tensor  # int64 [R, C]
    scores: Tensor  # fp32 [R, C]
    totals: Tensor  # fp64 [R]
    all_scores: Tensor  # fp32 [R, size], restricted


class RMSNorm(Protocol):
    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) over the last dimension, rounded to x's dtype, then times weight.

        x [T, D], weight [D] or [T, D].
        """
        ...


class Linear(Protocol):
    def __call__(self, x: Tensor, matrix: Matrix, residual: Tensor | None = None) -> Tensor:
        """x [T, K] times the transpose of matrix [N, K], added to residual [T, N] if given: [T, N] in x's dtype."""
        ...


class SwiGLU(Protocol):
    def __call__(self, x: Tensor, weights: SwiGLUWeights, residual: Tensor | None = None) -> Tensor:
        """down(silu(gate(x)) * up(x)) of x [T, M], added to residual [T, M] if given: [T, M]."""
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
        """Group-limited sigmoid routing of x [T, M]; weight [E, M] in bf16 or fp32, bias [E] in fp32.

        Returns ids int64 [T, K] ascending, and their weights fp32 [T, K], which add up to `scale`.
        Ties go to the lower id.
        """
        ...


class Experts(Protocol):
    def __call__(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        pool: ExpertPool,
        shared: SwiGLUWeights,
        residual: Tensor | None = None,
        *,
        wave: Wave | None = None,
    ) -> Tensor:
        """R(R(sum of weights x expert outputs) + R(shared expert)), added to residual [T, M] if given: [T, M].

        x [T, M], ids int64 [T, K] ascending, weights fp32 [T, K]; the sum is taken in that order in fp32, and R
        rounds to x's dtype. Only touched experts are read. A layer may be computed in waves of ascending experts:
        all but the last return the fp32 sum so far, and the result has the same bits.
        """
        ...


class QueryKeyValue(Protocol):
    def __call__(
        self,
        x: Tensor,
        weights: AttentionWeights,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
    ) -> Tensor:
        """Queries [T, H, D] of the residual stream x [T, M], normed and rotated; keys and values go to the cache.

        The input is normed and projected; each query and key head is normed, then its first R dimensions are rotated,
        element i with i + R/2, by cos and sin fp32 [T, R/2]. slots int64 [T] are block * block_size + offset in keys
        [blocks, G, D, block_size] and values [blocks, G, block_size, D], fp32 or bf16.
        """
        ...


class PagedAttention(Protocol):
    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
        """Causal attention of q [T, H, D] over cached keys and values: [T, H D] in q's dtype.

        keys [blocks, G, D, block_size] and values [blocks, G, block_size, D] in fp32 or bf16, block_size a multiple
        of 16. Query head h reads KV head h // (H / G). Every slot of a block named in the plan must be finite.
        """
        ...


class Head(Protocol):
    def __call__(
        self, x: Tensor, matrix: Matrix, size: int, restrictions: Sequence[Restriction], count: int
    ) -> Candidates:
        """The `count` likeliest tokens of each row of x [R, M] by matrix [V, M]; ids from `size` on are padding."""
        ...


@dataclass(frozen=True)
class Ops:
    """The implementation chosen for every op."""

    rms_norm: RMSNorm
    linear: Linear
    swiglu: SwiGLU
    route: Route
    experts: Experts
    query_key_value: QueryKeyValue
    paged_attention: PagedAttention
    head: Head


class NonFiniteError(ArithmeticError):
    """An activation to be quantised holds a NaN or an infinity."""


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


def plan_attention(spans: Sequence[Span], *, block_size: int, device: torch.device) -> AttentionPlan:
    """Lists every span with the blocks that its last row may see."""
    rows: list[tuple[int, int, int, int]] = []
    table: list[int] = []
    for span in spans:
        rows.append((span.start, span.length, span.context, len(table)))
        table += span.blocks[: -(-(span.context + span.length) // block_size)]
    return AttentionPlan(
        torch.tensor(rows, dtype=torch.int32, device=device).view(-1, 4),
        torch.tensor(table, dtype=torch.int32, device=device),
    )
