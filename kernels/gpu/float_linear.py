"""Products with unquantised matrices, by sixteen lanes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.language import LANES, fold
from kernels.gpu.launch import launch
from kernels.gpu.weights import add_in_order


@dataclass(frozen=True)
class _Tile:
    """What one program computes: `tokens` by `rows`, by sixteen times `steps` columns at once."""

    tokens: int
    rows: int
    steps: int
    stages: int
    warps: int


# One token's product takes as long as its loads: many small programs, each a warp with 12 KB on the way. A long matrix
# keeps every processor busy anyhow, and its programs share what they read of x.
_ONE_TOKEN = _Tile(1, 2, 32, stages=4, warps=1)
_ONE_TOKEN_LONG = _Tile(1, 4, 32, stages=4, warps=1)
_FEW_TOKENS = _Tile(4, 4, 16, stages=4, warps=4)
_MANY_TOKENS = _Tile(16, 32, 4, stages=3, warps=4)
_LONG = 4096


def float_linear(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    """x fp32 [T, K] times the transpose of weight [N, K], added to residual [T, N] if given: fp32 [T, N]."""
    out = torch.empty(x.shape[0], weight.shape[0], dtype=torch.float32, device=x.device)
    launch_float_linear(x, weight, out, residual)
    return out


def launch_float_linear(x: Tensor, weight: Tensor, out: Tensor, residual: Tensor | None = None) -> None:
    """Writes x fp32 [T, K] times the transpose of weight [N, K], bf16, fp16 or fp32, to `out` fp32 [T, N].

    `residual` fp32 [T, N] is added last, and may be `out`. All are contiguous.
    """
    tokens, (rows, columns) = x.shape[0], weight.shape
    tile = _tile(tokens, rows)
    grid = (triton.cdiv(tokens, tile.tokens) * triton.cdiv(rows, tile.rows),)
    launch(
        _float_linear,
        grid,
        x,
        weight,
        residual,
        out,
        tokens,
        rows,
        columns,
        TOKENS=tile.tokens,
        ROWS=tile.rows,
        STEPS=tile.steps,
        STAGES=tile.stages,
        warps=tile.warps,
    )


def _tile(tokens: int, rows: int) -> _Tile:
    if tokens == 1:
        return _ONE_TOKEN if rows < _LONG else _ONE_TOKEN_LONG
    return _FEW_TOKENS if tokens <= 16 else _MANY_TOKENS


@triton.jit
def float_product_tile(
    p_x,
    p_weight,
    o_tokens,
    m_tokens,
    o_rows,
    m_rows,
    columns,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Rows of activation times rows of a matrix of floats: fp32 [TOKENS, ROWS], 0 where masked.

    Of p_x fp32 [.., columns], o_tokens, m_tokens [TOKENS] are the rows wanted and read; of p_weight bf16, fp16 or fp32
    [.., columns], o_rows, m_rows [ROWS] are. 16 * STEPS columns, STEPS a power of two, are taken at once; STAGES - 1
    such loads are on their way.
    """
    width: tl.constexpr = LANES * STEPS
    o_x, o_weight = o_tokens.to(tl.int64) * columns, o_rows.to(tl.int64) * columns
    sums = tl.zeros([TOKENS * ROWS, LANES], tl.float32)
    for start in tl.range(0, columns, width, num_stages=STAGES):
        o_columns = start + tl.arange(0, width)
        m_columns = (o_columns < columns)[None, :]
        x = tl.load(p_x + o_x[:, None] + o_columns[None, :], mask=m_tokens[:, None] & m_columns, other=0.0)
        weight = tl.load(p_weight + o_weight[:, None] + o_columns[None, :], mask=m_rows[:, None] & m_columns, other=0.0)
        terms = x[:, None, :] * weight.to(tl.float32)[None, :, :]
        by_step = tl.reshape(terms, [TOKENS * ROWS, STEPS, LANES])
        sums = add_in_order(sums, tl.permute(by_step, (0, 2, 1)), STEPS)
    return tl.reshape(fold(sums, TOKENS * ROWS), [TOKENS, ROWS])


@triton.jit
def _float_linear(
    p_x,
    p_weight,
    p_residual,
    p_out,
    tokens,
    rows,
    columns,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    # Tiles of the same rows run side by side, so that weights come from memory once.
    across = tl.cdiv(tokens, TOKENS)
    o_tokens = tl.program_id(0) % across * TOKENS + tl.arange(0, TOKENS)
    o_rows = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
    m_tokens, m_rows = o_tokens < tokens, o_rows < rows
    y = float_product_tile(p_x, p_weight, o_tokens, m_tokens, o_rows, m_rows, columns, TOKENS, ROWS, STEPS, STAGES)
    offsets = o_tokens.to(tl.int64)[:, None] * rows + o_rows[None, :]
    mask = m_tokens[:, None] & m_rows[None, :]
    if p_residual is not None:
        y = tl.load(p_residual + offsets, mask=mask, other=0.0) + y
    tl.store(p_out + offsets, y, mask=mask)
