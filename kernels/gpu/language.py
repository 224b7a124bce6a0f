"""The arithmetic of kernels/exact.py as Triton functions: no approximation, and nothing fused.

The interpreter computes `/`, tl.exp and tl.sqrt exactly, a GPU does not: kernels use div_rn, sqrt_rn and these
functions, and tests read the PTX.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels import exact, reference

LANES = tl.constexpr(exact.LANES)
ROW_BLOCK = tl.constexpr(16)

_EXP_LOWEST, _EXP_HIGHEST = tl.constexpr(exact.EXP_LOWEST), tl.constexpr(exact.EXP_HIGHEST)
_LOG2E = tl.constexpr(exact.LOG2E)
_LN2_HI, _LN2_LO = tl.constexpr(exact.LN2_HI), tl.constexpr(exact.LN2_LO)
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (tl.constexpr(c) for c in exact.EXP_COEFFICIENTS)

# Added and taken off again, it rounds to a whole number, half to even.
_ROUNDER = tl.constexpr(12582912.0)

INFINITY_BITS = tl.constexpr(reference.INFINITY_BITS)
SMALLEST_AMAX_BITS = tl.constexpr(reference.SMALLEST_AMAX_BITS)
HIGHEST = tl.constexpr(reference.HIGHEST)


@triton.jit
def rint(t):
    """fp32 t below 2^22 in magnitude, rounded to a whole number, half to even."""
    return (t + _ROUNDER) - _ROUNDER


@triton.jit
def exp(t):
    """e^t of fp32 t, clamped to [-87, 88]."""
    clamped = tl.minimum(tl.maximum(t, _EXP_LOWEST), _EXP_HIGHEST)
    n = rint(clamped * _LOG2E)
    r = (clamped - n * _LN2_HI) - n * _LN2_LO
    series = r * _C0 + _C1
    series = series * r + _C2
    series = series * r + _C3
    series = series * r + _C4
    series = series * r + _C5
    series = series * r + _C6
    return series * ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def sigmoid(t):
    """1 / (1 + exp(-t))."""
    below = exp(-t) + 1.0
    return tl.div_rn(tl.full(below.shape, 1.0, tl.float32), below)


@triton.jit
def silu(t):
    """t / (1 + exp(-t))."""
    return tl.div_rn(t, exp(-t) + 1.0)


@triton.jit
def to_bf16(t):
    """fp32 t rounded to bf16, half to even, as its bits in an int16; t is finite."""
    bits = t.to(tl.uint32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16).to(tl.int16, bitcast=True)


@triton.jit
def fold(sums, rows: tl.constexpr):
    """Sums of lanes [rows, 16], added as halves: [rows]."""
    sums = _halves(sums, rows, 8)
    sums = _halves(sums, rows, 4)
    sums = _halves(sums, rows, 2)
    sums = _halves(sums, rows, 1)
    return tl.reshape(sums, [rows])


@triton.jit
def _halves(sums, rows: tl.constexpr, half: tl.constexpr):
    low, high = tl.split(tl.permute(tl.reshape(sums, [rows, 2, half]), (0, 2, 1)))
    return low + high


@triton.jit
def quantised(x, rows: tl.constexpr):
    """q int8 [rows, G], the scale fp32 [rows], and whether it is finite [rows], of groups x fp32 [rows, G]."""
    amax_bits = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)
    is_zero = amax_bits < SMALLEST_AMAX_BITS
    is_finite = amax_bits < INFINITY_BITS
    # What is not finite is flagged, and its numbers are never used.
    amax = tl.where(is_zero | (is_finite == 0), HIGHEST, amax_bits.to(tl.float32, bitcast=True))
    highest = tl.full([rows], HIGHEST, tl.float32)
    q = rint(tl.where(is_finite[:, None], x, 0.0) * tl.div_rn(highest, amax)[:, None])
    q = tl.where(is_zero[:, None], 0.0, q)
    scale = tl.where(is_zero, 0.0, tl.div_rn(amax, highest))
    return q.to(tl.int32).to(tl.int8), scale, is_finite
