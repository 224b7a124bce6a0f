"""Products with quantised matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.formats import Format, Matrix
from kernels.gpu.float_linear import float_linear
from kernels.gpu.language import ROW_BLOCK
from kernels.gpu.launch import fresh_fault, launch
from kernels.gpu.quantise import Quantised, check_fault, launch_quantise
from kernels.gpu.weights import product_tile


@dataclass(frozen=True)
class _Tile:
    """What one program computes: sixteen times `blocks` rows by `tokens`, by `columns` at once."""

    blocks: int
    tokens: int
    columns: int
    stages: int
    warps: int


# Few tokens cost what the weights take to arrive: a program streams 16 rows, three loads of 4 or 8 KB ahead, and its
# warps share the groups of a load. A long matrix has more programs than run at once: 32 rows share what is read of x.
_FEW = _Tile(1, 8, 512, stages=4, warps=4)
_FEW_LONG = _Tile(2, 8, 256, stages=4, warps=4)
_SOME = _Tile(1, 16, 512, stages=4, warps=4)
# Many tokens cost what the arithmetic takes: one group of 64 x 64 at once, three programs a processor.
_MANY = _Tile(4, 64, 1, stages=3, warps=4)
# Zero points, several accumulators and long groups take registers of their own.
_FEW_HEAVY = _Tile(1, 8, 256, stages=4, warps=4)
_MANY_HEAVY = _Tile(4, 32, 1, stages=3, warps=4)
_LONG = 8192


def linear(x: Tensor, matrix: Matrix, residual: Tensor | None = None) -> Tensor:
    """x fp32 [T, K] times the transpose of matrix [N, K], added to residual [T, N] if given: fp32 [T, N].

    Raises NonFiniteError.
    """
    if not matrix.format.is_quantised:
        return float_linear(x, matrix.floats, residual)
    tokens, group = x.shape[0], matrix.format.group
    a, fault = Quantised.empty(tokens, matrix.columns, group, x.device), fresh_fault(x.device)
    out = torch.empty(tokens, matrix.rows, dtype=torch.float32, device=x.device)
    launch_quantise(x, a, fault)
    launch_linear(a, matrix, out, residual)
    check_fault(fault)
    return out


def launch_linear(a: Quantised, matrix: Matrix, out: Tensor, residual: Tensor | None = None) -> None:
    """Writes `a` [T, K] times the transpose of a quantised matrix [N, K] to `out` fp32 [T, N].

    `a` is quantised in the matrix's groups. `residual` fp32 [T, N] is added last, and may be `out`.
    """
    form, tokens, blocks = matrix.format, a.q.shape[0], matrix.rows // ROW_BLOCK.value
    planes = form.planes(matrix.rows, matrix.columns)
    tile = _tile(tokens, matrix.rows, form)
    groups, count = matrix.columns // form.group, max(tile.columns // form.group, 1)
    launch(
        _linear,
        (triton.cdiv(tokens, tile.tokens) * triton.cdiv(blocks, tile.blocks),),
        matrix.data,
        a.q,
        a.scales,
        residual,
        out,
        tokens,
        blocks,
        groups,
        planes.scales,
        planes.zeros,
        BITS=form.bits,
        G=form.group,
        FP16=form.scale == "fp16",
        ZEROS=form.zeros,
        PARTIALS=form.partials,
        BLOCKS=tile.blocks,
        TOKENS=tile.tokens,
        COUNT=count,
        STAGES=tile.stages,
        EVEN=groups % (form.partials * count) == 0,
        warps=tile.warps,
    )


def _tile(tokens: int, rows: int, form: Format) -> _Tile:
    if form.zeros or form.partials > 1 or form.group > 64:
        return _FEW_HEAVY if tokens <= 16 else _MANY_HEAVY
    if tokens <= 8:
        return _FEW if rows < _LONG else _FEW_LONG
    return _SOME if tokens <= 32 else _MANY


@triton.jit
def _linear(
    p_matrix,
    p_q,
    p_token_scales,
    p_residual,
    p_out,
    tokens,
    blocks,
    groups,
    scales_at,
    zeros_at,
    BITS: tl.constexpr,
    G: tl.constexpr,
    FP16: tl.constexpr,
    ZEROS: tl.constexpr,
    PARTIALS: tl.constexpr,
    BLOCKS: tl.constexpr,
    TOKENS: tl.constexpr,
    COUNT: tl.constexpr,
    STAGES: tl.constexpr,
    EVEN: tl.constexpr,
):
    # Tiles of the same rows run side by side, so that weights come from memory once.
    across = tl.cdiv(tokens, TOKENS)
    first_block = tl.program_id(0) // across * BLOCKS
    o_blocks = first_block + tl.arange(0, BLOCKS)
    o_tokens = tl.program_id(0) % across * TOKENS + tl.arange(0, TOKENS)
    m_tokens = o_tokens < tokens
    y = product_tile(
        p_matrix,
        p_matrix + scales_at,
        p_matrix + zeros_at,
        o_blocks,
        o_blocks < blocks,
        p_q,
        p_token_scales,
        o_tokens,
        m_tokens,
        groups,
        BITS,
        G,
        FP16,
        ZEROS,
        PARTIALS,
        BLOCKS,
        TOKENS,
        COUNT,
        STAGES,
        EVEN,
    )
    rows = blocks * ROW_BLOCK
    o_rows = first_block * ROW_BLOCK + tl.arange(0, BLOCKS * ROW_BLOCK)
    offsets = o_tokens.to(tl.int64)[None, :] * rows + o_rows[:, None]
    mask = m_tokens[None, :] & (o_rows < rows)[:, None]
    if p_residual is not None:
        y = tl.load(p_residual + offsets, mask=mask, other=0.0) + y
    tl.store(p_out + offsets, y, mask=mask)
