"""The outputs of a token's experts, added up in ascending id."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.launch import launch
from kernels.gpu.tables import Kind

# Columns that a program adds up: sixteen bytes a thread.
BLOCK = 256

# The kind of a pair whose expert is not in this wave: nothing is added for it.
SKIPPED = tl.constexpr(-1)
_IN_PLACE = tl.constexpr(int(Kind.IN_PLACE))


def launch_combine(
    y: Tensor,
    weights: Tensor,
    out: Tensor,
    *,
    pair_kinds: Tensor | None = None,
    in_place: Tensor | None = None,
    total_in: Tensor | None = None,
    shared: Tensor | None = None,
    residual: Tensor | None = None,
    first: int = 0,
) -> None:
    """out = residual + ((total_in + w_0 y_0 + w_1 y_1 + ...) + shared), each where given, of R columns from `first`.

    y fp32 [T K, R] by pair, weights fp32 [T, K], pair_kinds int32 [T K], in_place fp32 [T K, M], everything else fp32
    [T, M]. A pair of kind IN_PLACE is read from `in_place`, which the host writes, and one of kind SKIPPED is left out;
    without `pair_kinds` all are in y. `out` may be `total_in`.
    """
    tokens, per_token = weights.shape
    width = y.shape[1]
    launch(
        _combine,
        (triton.cdiv(width, BLOCK), tokens),
        y,
        in_place,
        weights,
        pair_kinds,
        total_in,
        shared,
        residual,
        out,
        width,
        out.shape[1],
        first,
        K=per_token,
        COLUMNS=BLOCK,
        warps=2,
    )


@triton.jit
def _combine(
    p_y, p_in_place, p_weights, p_kinds, p_total, p_shared, p_residual, p_out, width, hidden, first,
    K: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    i_token = tl.program_id(1).to(tl.int64)
    o_columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    m_columns = o_columns < width
    offsets = i_token * hidden + first + o_columns
    acc = tl.zeros([COLUMNS], tl.float32)
    if p_total is not None:
        acc = tl.load(p_total + offsets, mask=m_columns, other=0.0)
    for k in tl.static_range(K):
        i_pair = i_token * K + k
        m_here = m_columns
        if p_kinds is not None:
            kind = tl.load(p_kinds + i_pair)
            m_here = o_columns < tl.where((kind == _IN_PLACE) | (kind == SKIPPED), 0, width)
        y = tl.load(p_y + i_pair * width + o_columns, mask=m_here, other=0.0)
        if p_in_place is not None:
            m_theirs = o_columns < tl.where(kind == _IN_PLACE, width, 0)
            theirs = tl.load(p_in_place + i_pair * hidden + first + o_columns, mask=m_theirs, other=0.0)
            y = tl.where(kind == _IN_PLACE, theirs, y)
        added = acc + tl.load(p_weights + i_pair) * y
        acc = added if p_kinds is None else tl.where(kind != SKIPPED, added, acc)
    if p_shared is not None:
        acc = acc + tl.load(p_shared + offsets, mask=m_columns, other=0.0)
    if p_residual is not None:
        acc = tl.load(p_residual + offsets, mask=m_columns, other=0.0) + acc
    tl.store(p_out + offsets, acc, mask=m_columns)
