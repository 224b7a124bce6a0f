"""The quantised layers in plain torch, step by step as docs/exact-experts.md defines them.

What the others are compared with, and what runs where nothing else does. A sum of reals is written out in its order:
torch.sum, addcmul and the alpha of torch.add would give other bits. Sums of integers may be taken by a matrix product,
in which they are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kernels.exact import LANES, fold, pad, silu
from kernels.formats import ROW_BLOCK, Matrix, centred, scales, split_rows
from kernels.ops import ExpertPool, NonFiniteError, SwiGLUWeights, Wave
from kernels.registry import Announce, register

# Elements of the largest intermediate tensor: 64 MiB of fp32.
LARGEST = 1 << 24

# Weights that are unpacked at once.
UNPACKED = 1 << 22

# Elements that stay in cache while a sum runs over them.
CACHED = 1 << 18

INFINITY_BITS = 0x7F800000
SMALLEST_AMAX_BITS = (127 - 100) << 23  # 2^-100
HIGHEST = 127.0


def linear(x: Tensor, matrix: Matrix, residual: Tensor | None = None) -> Tensor:
    return add_residual(product(x.float(), matrix).to(x.dtype), residual)


def swiglu(x: Tensor, weights: SwiGLUWeights, residual: Tensor | None = None) -> Tensor:
    return add_residual(feed_forward(x.float(), weights).to(x.dtype), residual)


def experts(
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    pool: ExpertPool,
    shared: SwiGLUWeights,
    residual: Tensor | None = None,
    *,
    wave: Wave | None = None,
) -> Tensor:
    routed = weighted_sum(x.float(), ids, weights, pool, wave)
    if wave is not None and not wave.last:
        return routed
    out = routed.to(x.dtype) + feed_forward(x.float(), shared).to(x.dtype)
    return add_residual(out, residual)


def weighted_sum(x: Tensor, ids: Tensor, weights: Tensor, pool: ExpertPool, wave: Wave | None = None) -> Tensor:
    """Sum of weights [T, K] x outputs of the experts ids [T, K], from the lowest id up: fp32 [T, M]."""
    wave = wave or Wave(0, len(pool.blobs), None, last=True)
    total = torch.zeros_like(x) if wave.total is None else wave.total
    for expert in ids[(ids >= wave.first) & (ids < wave.stop)].unique().tolist():
        tokens, places = (ids == expert).nonzero(as_tuple=True)
        weighted = weights[tokens, places, None] * feed_forward(x[tokens], pool.expert(expert))
        total[tokens] = total[tokens] + weighted
    return total


def feed_forward(x: Tensor, weights: SwiGLUWeights) -> Tensor:
    """down(silu(gate(x)) * up(x)) of fp32 x [T, M]: fp32 [T, M]."""
    gate, up = product(x, weights.gate_up).chunk(2, dim=-1)
    return product(silu(gate) * up, weights.down)


def add_residual(out: Tensor, residual: Tensor | None) -> Tensor:
    return out if residual is None else residual + out


def product(x: Tensor, matrix: Matrix) -> Tensor:
    """Fp32 x [T, K] times the transpose of matrix [N, K]: fp32 [T, N]."""
    multiply = quantised_product if matrix.format.is_quantised else float_product
    rows = max(UNPACKED // matrix.columns // ROW_BLOCK, 1) * ROW_BLOCK
    return torch.cat([multiply(x, part) for part in split_rows(matrix, rows)], dim=1)


def float_product(x: Tensor, matrix: Matrix) -> Tensor:
    """`product` with the floats of an unquantised matrix, each by sixteen lanes."""
    steps = pad(matrix.floats.float()).t().contiguous().view(-1, LANES, matrix.rows)  # [K/16, 16, N]
    tokens = max(CACHED // (LANES * matrix.rows), 1)
    return torch.cat([_by_lanes(part.unflatten(-1, (-1, LANES)), steps) for part in pad(x).split(tokens)])


def _by_lanes(x: Tensor, steps: Tensor) -> Tensor:
    """x [T, K/16, 16] times steps [K/16, 16, N]: [T, N]."""
    sums = x.new_zeros(x.shape[0], *steps.shape[1:])
    for step, weight in enumerate(steps):
        sums = sums + x[:, step, :, None] * weight
    return fold(sums.transpose(1, 2))


def quantised_product(x: Tensor, matrix: Matrix) -> Tensor:
    """`product` with a quantised matrix: integers within a group, fp32 over the groups in order."""
    q, activation_scales = quantise_activation(x, matrix.format.group)
    weights, weight_scales = centred(matrix), scales(matrix).float()
    tokens = max(LARGEST // weight_scales.numel(), 1)
    parts = zip(q.split(tokens), activation_scales.split(tokens), strict=True)
    return torch.cat(
        [scaled_sum(group_dots(q_t, weights), weight_scales, s_t, matrix.format.partials) for q_t, s_t in parts]
    )


def quantise_activation(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """q of x [T, K] as int8 [T, K], and the scale of each group as fp32 [T, K/G].

    Raises NonFiniteError.
    """
    groups = x.float().unflatten(-1, (-1, group))  # [T, K/G, G]
    amax_bits = (groups.contiguous().view(torch.int32) & 0x7FFFFFFF).amax(-1, keepdim=True)
    _refuse_non_finite(amax_bits)
    is_zero = amax_bits < SMALLEST_AMAX_BITS
    amax = amax_bits.view(torch.float32).masked_fill(is_zero, HIGHEST)
    # A number as divisor would become a reciprocal on a GPU.
    highest = torch.full_like(amax, HIGHEST)
    q = torch.round(groups * (highest / amax)).masked_fill(is_zero, 0)
    return q.to(torch.int8).flatten(1), (amax / highest).masked_fill(is_zero, 0)[..., 0]


def group_dots(q: Tensor, weights: Tensor) -> Tensor:
    """d of q int8 [T, K] and integers fp32 [N, K/G, G]: fp32 [K/G, T, N], exact as all are below 2^24."""
    groups = q.float().unflatten(-1, weights.shape[1:])  # [T, K/G, G]
    return torch.bmm(groups.transpose(0, 1), weights.permute(1, 2, 0))


def scaled_sum(dots: Tensor, weight_scales: Tensor, activation_scales: Tensor, partials: int) -> Tensor:
    """Each d [K/G, T, N] times its scales [N, K/G] and [T, K/G], added up by `partials` accumulators: [T, N]."""
    groups = dots.shape[0]
    bounds = [partial * groups // partials for partial in range(partials + 1)]
    sums: list[Tensor] = []
    for start, end in pairwise(bounds):
        total = torch.zeros_like(dots[0])
        for g in range(start, end):
            total = total + dots[g] * (weight_scales[:, g] * activation_scales[:, g, None])
        sums.append(total)
    while len(sums) > 1:
        sums = [left + right for left, right in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


def _refuse_non_finite(amax_bits: Tensor) -> None:
    bad = (amax_bits >= INFINITY_BITS).flatten(1).any(-1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise NonFiniteError(
            f"row {row} of an input to a quantised matrix holds a NaN or an infinity: "
            "check that the weights are undamaged"
        )


def runs_anywhere(device: torch.device, dtype: torch.dtype, announce: Announce | None) -> str | None:
    return None


OPS: dict[str, Callable[..., Any]] = {"linear": linear, "swiglu": swiglu, "experts": experts}

for _name, _function in OPS.items():
    register(_name, "torch", _function, rank=0, supports=runs_anywhere)
