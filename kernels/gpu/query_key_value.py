"""Queries, keys and values of a residual stream: heads normed and rotated, keys and values into the paged cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.language import LANES, fold, to_bf16
from kernels.gpu.launch import launch
from kernels.gpu.linear import linear
from kernels.gpu.norm import rms_norm
from kernels.ops import AttentionWeights

# Heads that one program takes.
HEADS = 4


def query_key_value(
    x: Tensor,
    weights: AttentionWeights,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
) -> Tensor:
    projected = linear(rms_norm(x, weights.input_norm, weights.eps), weights.query_key_value)
    q = torch.empty(x.shape[0], weights.heads, weights.width, dtype=torch.float32, device=x.device)
    counts = weights.heads, weights.kv_heads
    launch_heads(projected, weights.head_norm, weights.eps, *counts, cos, sin, keys, values, slots, q)
    return q


def launch_heads(
    projected: Tensor,
    head_norm: Tensor,
    eps: float,
    heads: int,
    kv_heads: int,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    q: Tensor,
    positions: Tensor | None = None,
) -> None:
    """Norms and rotates heads of projected fp32 [T, (H + 2G) D]: queries to q fp32 [T, H, D], the rest to the cache.

    head_norm fp32 [H + G, D]; cos and sin fp32 [T, R/2], or with positions int64 [T] the tables that these are rows
    of. slots int64 [T] are block * block_size + offset in keys [blocks, G, D, block_size] and values
    [blocks, G, block_size, D], fp32 or bf16. A row whose slot is below 0 is not kept.
    """
    tokens, width = projected.shape[0], head_norm.shape[1]
    launch(
        _heads,
        (triton.cdiv(tokens * (heads + 2 * kv_heads), HEADS),),
        projected,
        head_norm,
        cos,
        sin,
        positions,
        keys,
        values,
        slots,
        q,
        tokens,
        eps,
        H=heads,
        G=kv_heads,
        D=width,
        HALF=cos.shape[1],
        SIZE=keys.shape[3],
        ROWS=HEADS,
        WIDTH=triton.next_power_of_2(width),
        BF16=keys.element_size() == 2,
        warps=4,
    )


@triton.jit
def _heads(
    p_projected,
    p_norm,
    p_cos,
    p_sin,
    p_positions,
    p_keys,
    p_values,
    p_slots,
    p_q,
    tokens,
    eps,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    HALF: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BF16: tl.constexpr,
):
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i_token, i_head = o_row // (H + 2 * G), o_row % (H + 2 * G)
    m_row = i_token < tokens
    m_normed = m_row & (i_head < H + G)
    o_d = tl.arange(0, WIDTH)
    m_d = (o_d < D)[None, :]
    # What element i is rotated with: i + R/2 or i - R/2.
    o_other = tl.where(o_d < HALF, o_d + HALF, tl.where(o_d < 2 * HALF, o_d - HALF, o_d))
    p_row, p_weight = p_projected + o_row[:, None] * D, p_norm + i_head[:, None] * D
    x = tl.load(p_row + o_d[None, :], mask=m_row[:, None] & m_d, other=0.0)
    other = tl.load(p_row + o_other[None, :], mask=m_row[:, None] & m_d, other=0.0)
    weight = tl.load(p_weight + o_d[None, :], mask=m_normed[:, None] & m_d, other=0.0)
    other_weight = tl.load(p_weight + o_other[None, :], mask=m_normed[:, None] & m_d, other=0.0)
    scale = _scale(p_row, m_row, eps, D, ROWS)[:, None]
    x_normed, other_normed = (x * scale) * weight, (other * scale) * other_weight
    i_angle = i_token if p_positions is None else tl.load(p_positions + i_token, mask=m_row, other=0)
    o_angle = i_angle[:, None] * HALF + tl.where(o_d < HALF, o_d, o_d - HALF)[None, :]
    m_angle = m_normed[:, None] & (o_d < 2 * HALF)[None, :]
    cos = tl.load(p_cos + o_angle, mask=m_angle, other=1.0)
    sin = tl.load(p_sin + o_angle, mask=m_angle, other=0.0)
    turned = other_normed * sin
    rotated = x_normed * cos + tl.where(o_d < HALF, -turned, turned)
    rotated = tl.where(m_angle, rotated, x_normed)

    m_query = (m_row & (i_head < H))[:, None] & m_d
    tl.store(p_q + (i_token * H + i_head)[:, None] * D + o_d[None, :], rotated, mask=m_query)
    slot = tl.load(p_slots + i_token, mask=m_row, other=-1)
    block, offset = slot // SIZE, slot % SIZE
    m_kept = m_row & (slot >= 0)
    m_key = (m_kept & (i_head >= H) & (i_head < H + G))[:, None] & m_d
    o_key = ((block * G + i_head - H)[:, None] * D + o_d[None, :]) * SIZE + offset[:, None]
    _keep(p_keys + o_key, rotated, m_key, BF16)
    m_value = (m_kept & (i_head >= H + G))[:, None] & m_d
    o_value = ((block * G + i_head - H - G) * SIZE + offset)[:, None] * D + o_d[None, :]
    _keep(p_values + o_value, x, m_value, BF16)


@triton.jit
def _scale(p_row, m_row, eps, D: tl.constexpr, ROWS: tl.constexpr):
    """1 / sqrt(mean of squares + eps) of each row: [ROWS]."""
    sums = tl.zeros([ROWS, LANES], tl.float32)
    for i_d in tl.static_range(0, D, LANES):
        o_d = i_d + tl.arange(0, LANES)
        x = tl.load(p_row + o_d[None, :], mask=m_row[:, None] & (o_d < D)[None, :], other=0.0)
        sums += x * x
    mean = tl.div_rn(fold(sums, ROWS), tl.full([ROWS], D, tl.float32))
    return tl.div_rn(tl.full([ROWS], 1.0, tl.float32), tl.sqrt_rn(mean + eps))


@triton.jit
def _keep(pointers, numbers, mask, BF16: tl.constexpr):
    """Writes numbers as they are, or as the bits of bf16."""
    if BF16:
        tl.store(pointers.to(tl.pointer_type(tl.int16), bitcast=True), to_bf16(numbers), mask=mask)
    else:
        tl.store(pointers, numbers, mask=mask)
