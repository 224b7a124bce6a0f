"""How a router chooses, row by row, of products that programs side by side have computed."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.language import sigmoid
from kernels.gpu.policy import ordered

_ABSENT = tl.constexpr(-(1 << 31))
_TAKEN = tl.constexpr(-(1 << 63))
_OUTSIDE = tl.constexpr(-2139095041)  # ordered(-inf)
_LAST_ID = tl.constexpr(0x7FFFFFFF)


@triton.jit
def arrive(p_ticket, total):
    """Whether this is the last of `total` programs to come here, which then sees all that they wrote."""
    tl.debug_barrier()
    is_last = tl.atomic_add(p_ticket, 1, sem="acq_rel") == total - 1
    if is_last:
        tl.store(p_ticket, 0)
    return is_last


@triton.jit
def choose_row(
    p_products, p_bias, p_forced, p_ids, p_weights, experts, scale,
    K: tl.constexpr, K_BLOCK: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, GROUP_BLOCK: tl.constexpr,
    MEMBER_BLOCK: tl.constexpr, SINGLES: tl.constexpr, FORCED: tl.constexpr,
):  # fmt: skip
    """Writes and returns a row's ids [K_BLOCK], ascending, and writes their weights. Pointers are to the row's start.

    With FORCED the ids are those at p_forced. SINGLES says that a group is one expert.
    """
    i_k = tl.arange(0, K_BLOCK)
    if FORCED:
        ids = tl.load(p_forced + i_k, mask=i_k < K, other=0).to(tl.int32)
    else:
        keys = _choices(p_products, p_bias, experts, GROUPS, KEPT, GROUP_BLOCK, MEMBER_BLOCK, SINGLES)
        ids = _highest(keys, K, K_BLOCK)
    tl.store(p_ids + i_k, ids, mask=i_k < K)
    products = tl.load(p_products + ids, mask=i_k < K, other=0.0, cache_modifier=".cg")
    tl.store(p_weights + i_k, _weights(_score(products), scale, K, K_BLOCK), mask=i_k < K)
    return ids


@triton.jit
def _score(products):
    """exp leaves no NaN as it is, and the definition does."""
    return tl.where(products == products, sigmoid(products), products)


@triton.jit
def _choices(
    p_products, p_bias, experts, GROUPS: tl.constexpr, KEPT: tl.constexpr, GROUP_BLOCK: tl.constexpr,
    MEMBER_BLOCK: tl.constexpr, SINGLES: tl.constexpr,
):  # fmt: skip
    """A number for each expert, higher for what is chosen sooner, with the id in its lower half: int64 [..]."""
    members = experts // GROUPS
    i_group, i_member = tl.arange(0, GROUP_BLOCK), tl.arange(0, MEMBER_BLOCK)[None, :]
    o_expert = i_group[:, None] * members + i_member
    m_expert = (i_group < GROUPS)[:, None] & (i_member < members)
    products = tl.load(p_products + o_expert, mask=m_expert, other=0.0, cache_modifier=".cg")
    choices = _score(products) + tl.load(p_bias + o_expert, mask=m_expert, other=0.0)
    keys = tl.where(m_expert, ordered(choices), _ABSENT)
    if KEPT < GROUPS:
        kept = _best_groups(keys, i_group, i_member, GROUPS, KEPT, SINGLES)
        keys = tl.where(kept[:, None] | (m_expert == 0), keys, _OUTSIDE)
    numbered = (keys.to(tl.int64) << 32) | (o_expert ^ _LAST_ID).to(tl.int64)
    return tl.reshape(tl.where(m_expert, numbered, _TAKEN), [GROUP_BLOCK * MEMBER_BLOCK])


@triton.jit
def _best_groups(keys, i_group, i_member, GROUPS: tl.constexpr, KEPT: tl.constexpr, SINGLES: tl.constexpr):
    """Which groups stay: those whose two best add up to the most, ties to the lower."""
    best = tl.max(keys, axis=1)
    strength = best
    if not SINGLES:
        place = tl.min(tl.where(keys == best[:, None], i_member, _LAST_ID), axis=1)
        second = tl.max(tl.where(i_member == place[:, None], _ABSENT, keys), axis=1)
        strength = ordered(_unordered(best) + _unordered(second))
    strength = tl.where(i_group < GROUPS, strength, _ABSENT)
    above = (strength[None, :] > strength[:, None]) | (
        (strength[None, :] == strength[:, None]) & (i_group[None, :] < i_group[:, None])
    )
    return tl.sum(above.to(tl.int32), axis=1) < KEPT


@triton.jit
def _unordered(key):
    """The fp32 of which `ordered` made an int32."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _highest(keys, K: tl.constexpr, K_BLOCK: tl.constexpr):
    """The ids of the K highest keys, ascending: int32 [K_BLOCK], 0 behind them."""
    i_k = tl.arange(0, K_BLOCK)
    picked = tl.full([K_BLOCK], _LAST_ID, tl.int32)
    for k in tl.static_range(K):
        top = tl.max(keys, axis=0)
        keys = tl.where(keys == top, _TAKEN, keys)
        picked = tl.where(i_k == k, ((top & _LAST_ID) ^ _LAST_ID).to(tl.int32), picked)
    place = tl.sum((picked[None, :] < picked[:, None]).to(tl.int32), axis=1)
    is_there = (place[None, :] == i_k[:, None]) & (i_k < K)[None, :]
    return tl.sum(tl.where(is_there, picked[None, :], 0), axis=1)


@triton.jit
def _weights(scores, scale, K: tl.constexpr, K_BLOCK: tl.constexpr):
    """What the outputs of experts with these scores count, the scores in ascending id."""
    if K > 1:
        i_k = tl.arange(0, K_BLOCK)
        bits = scores.to(tl.int32, bitcast=True)
        total = tl.zeros([K_BLOCK], tl.float32)
        for k in tl.static_range(K):
            total = total + tl.sum(tl.where(i_k == k, bits, 0), axis=0).to(tl.float32, bitcast=True)
        scores = tl.div_rn(scores, total + 1e-20)
    return scores * scale
