"""Sums in the order of the definition, a power of two of terms at a time, four or more.

A thread holds all terms of its sums, so that their order costs nothing: they are split in registers, by halves.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def multiply_in_order(total, left, right):
    """total [A, N] + left[:, 0] x right[:, 0] + left[:, 1] x right[:, 1] ..., of left [A, C] and right [N, C]."""
    half: tl.constexpr = left.shape[1] // 2
    low, high = tl.split(tl.permute(tl.reshape(left, [left.shape[0], 2, half]), (0, 2, 1)))
    right_low, right_high = tl.split(tl.permute(tl.reshape(right, [right.shape[0], 2, half]), (0, 2, 1)))
    if half > 2:
        return multiply_in_order(multiply_in_order(total, low, right_low), high, right_high)
    else:
        a, b = tl.split(low[:, None, :] * right_low[None, :, :])
        c, d = tl.split(high[:, None, :] * right_high[None, :, :])
        return (((total + a) + b) + c) + d


@triton.jit
def add_in_order(total, terms):
    """total [A, N] + terms[..., 0] + terms[..., 1] ..., of terms [A, N, C]."""
    half: tl.constexpr = terms.shape[2] // 2
    pairs = tl.reshape(terms, [terms.shape[0], terms.shape[1], 2, half])
    low, high = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
    if half > 2:
        return add_in_order(add_in_order(total, low), high)
    else:
        a, b = tl.split(low)
        c, d = tl.split(high)
        return (((total + a) + b) + c) + d


@triton.jit
def add_halves(lanes):
    """Sums of lanes [A, C], added as halves: [A]."""
    half: tl.constexpr = lanes.shape[1] // 2
    low, high = tl.split(tl.permute(tl.reshape(lanes, [lanes.shape[0], 2, half]), (0, 2, 1)))
    if half > 1:
        return add_halves(low + high)
    else:
        return tl.reshape(low + high, [lanes.shape[0]])
