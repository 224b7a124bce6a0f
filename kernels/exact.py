"""The two sums and the one function that hardware and libraries disagree on, each defined to the bit."""

from __future__ import annotations

import torch
from torch import Tensor

LANES = 16

EXP_LOWEST, EXP_HIGHEST = -87.0, 88.0
LOG2E = float.fromhex("0x1.715476p+0")
LN2_HI, LN2_LO = float.fromhex("0x1.62e4p-1"), float.fromhex("0x1.7f7d1cp-20")
EXP_COEFFICIENTS = tuple(
    float.fromhex(c)
    for c in ("0x1.6a233ep-10", "0x1.123a76p-7", "0x1.5558f6p-5", "0x1.555490p-3", "0x1.fffffcp-2", "0x1p0", "0x1p0")
)


def exp(t: Tensor) -> Tensor:
    """e^t of fp32 t within 1.2 units in the last place; t is clamped to [-87, 88]."""
    clamped = t.clamp(EXP_LOWEST, EXP_HIGHEST)
    n = torch.round(clamped * LOG2E)
    r = (clamped - n * LN2_HI) - n * LN2_LO
    series = torch.full_like(r, EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        series = series * r + coefficient
    return series * ((n.to(torch.int32) + 127) << 23).view(torch.float32)


def sigmoid(t: Tensor) -> Tensor:
    """1 / (1 + exp(-t))."""
    below = exp(-t) + 1.0
    return torch.ones_like(below) / below


def silu(t: Tensor) -> Tensor:
    """t / (1 + exp(-t))."""
    return t / (exp(-t) + 1.0)


def lanes(terms: Tensor) -> Tensor:
    """Sum over the last dimension by sixteen lanes, each in order from +0, which then add as halves."""
    return fold(lane_sums(pad(terms)))


def pad(terms: Tensor) -> Tensor:
    """The last dimension lengthened by +0 to a multiple of sixteen."""
    return torch.nn.functional.pad(terms, (0, -terms.shape[-1] % LANES))


def lane_sums(terms: Tensor) -> Tensor:
    """Sums [..., 16] of each lane's terms in order, of terms [..., 16 n]."""
    total = terms.new_zeros(*terms.shape[:-1], LANES)
    for part in terms.split(LANES, dim=-1):
        total = total + part
    return total


def fold(sums: Tensor) -> Tensor:
    """Lanes [..., 16] added as halves: [...]."""
    while sums.shape[-1] > 1:
        half = sums.shape[-1] // 2
        sums = sums[..., :half] + sums[..., half:]
    return sums[..., 0]


def sum_in_order(terms: Tensor, dim: int) -> Tensor:
    """+0 + a + b + ... along a dimension, where torch.sum chooses an order of its own."""
    total = torch.zeros_like(terms.select(dim, 0))
    for term in terms.unbind(dim):
        total = total + term
    return total
