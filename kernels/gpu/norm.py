"""Rows divided by their root mean square, and quantised at once where a quantised matrix comes next."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.language import LANES, fold, quantised
from kernels.gpu.launch import launch
from kernels.gpu.quantise import Quantised
from kernels.gpu.weights import add_in_order

# Elements of a program: short rows share one.
TILE = 1024

# Terms of each lane that are read at once, of which three more reads are on their way.
STEPS = 64


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x fp32 [.., D] / sqrt(mean(x^2) + eps) times weight, [D] or as many rows [.., D] as come again and again."""
    out = torch.empty_like(x)
    launch_rms_norm(x, weight, eps, out, None, None)
    return out


def launch_rms_norm(
    x: Tensor, weight: Tensor, eps: float, out: Tensor | None, into: Quantised | None, fault: Tensor | None
) -> None:
    """Norms the rows of x fp32 [.., D]: to `out`, quantised to `into`, or both.

    `fault` int32 [1] becomes 1 where what is quantised is not finite. Row r takes row r of the weights, modulo their
    number. All are contiguous.
    """
    width = x.shape[-1]
    padded = triton.next_power_of_2(max(width, LANES.value))
    rows, at_once = x.numel() // width, max(TILE // padded, 1)
    launch(
        _rms_norm,
        (triton.cdiv(rows, at_once),),
        x,
        weight,
        out,
        None if into is None else into.q,
        None if into is None else into.scales,
        fault,
        rows,
        weight.numel() // width,
        width,
        eps,
        G=LANES.value if into is None else into.group,
        ROWS=at_once,
        WIDTH=padded,
        STEPS=min(STEPS, padded // LANES.value),
        warps=4 if padded <= 4096 else 8,
    )


@triton.jit
def _rms_norm(
    p_x,
    p_weight,
    p_out,
    p_q,
    p_scales,
    p_fault,
    rows,
    weight_rows,
    width,
    eps,
    G: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
):
    o_rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_rows = o_rows < rows
    o_columns = tl.arange(0, WIDTH)
    mask = m_rows[:, None] & (o_columns < width)[None, :]
    offsets = o_rows.to(tl.int64)[:, None] * width + o_columns[None, :]
    # Both are on their way while the squares are added up.
    x = tl.load(p_x + offsets, mask=mask, other=0.0)
    weight = tl.load(p_weight + (o_rows % weight_rows)[:, None] * width + o_columns[None, :], mask=mask, other=0.0)
    squares = _sum_of_squares(p_x, o_rows, m_rows, width, ROWS, STEPS)
    mean = tl.div_rn(squares, tl.full([ROWS], 0.0, tl.float32) + width)
    scale = tl.div_rn(tl.full([ROWS], 1.0, tl.float32), tl.sqrt_rn(mean + eps))
    y = (x * scale[:, None]) * weight.to(tl.float32)
    if p_out is not None:
        tl.store(p_out + offsets, y, mask=mask)
    if p_q is not None:
        _store_quantised(tl.where(mask, y, 0.0), p_q + offsets, mask, p_scales, p_fault, o_rows, m_rows, width, G)


@triton.jit
def _store_quantised(y, p_q, mask, p_scales, p_fault, o_rows, m_rows, width, G: tl.constexpr):
    """Quantises y fp32 [ROWS, WIDTH] in groups of G, to p_q where it is not masked and to rows of p_scales."""
    rows: tl.constexpr = y.shape[0]
    per_row: tl.constexpr = y.shape[1] // G
    q, scale, is_finite = quantised(tl.reshape(y, [rows * per_row, G]), rows * per_row)
    tl.store(p_q, tl.reshape(q, y.shape), mask=mask)
    o_groups, groups = tl.arange(0, per_row), width // G
    o_scales = o_rows.to(tl.int64)[:, None] * groups + o_groups[None, :]
    m_scales = m_rows[:, None] & (o_groups < groups)[None, :]
    tl.store(p_scales + o_scales, tl.reshape(scale, [rows, per_row]), mask=m_scales)
    if tl.min(is_finite.to(tl.int32), axis=0) == 0:
        tl.store(p_fault, 1)


@triton.jit
def _sum_of_squares(p_x, o_rows, m_rows, width, ROWS: tl.constexpr, STEPS: tl.constexpr):
    """Of each row, by sixteen lanes: fp32 [ROWS]."""
    o_row = o_rows.to(tl.int64) * width
    sums = tl.zeros([ROWS, LANES], tl.float32)
    for start in tl.range(0, width, LANES * STEPS, num_stages=4):
        o_columns = start + tl.arange(0, LANES * STEPS)
        mask = m_rows[:, None] & (o_columns < width)[None, :]
        x = tl.load(p_x + o_row[:, None] + o_columns[None, :], mask=mask, other=0.0)
        by_step = tl.reshape(x, [ROWS, STEPS, LANES])
        sums = add_in_order(sums, tl.permute(by_step * by_step, (0, 2, 1)), STEPS)
    return fold(sums, ROWS)
