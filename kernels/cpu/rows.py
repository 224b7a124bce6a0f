"""Norm, router, attention and head over a variant of the C++ kernels: one call each, floats contiguous and fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ctypes import Array, byref, c_float, c_int64
from typing import Any

import torch
from torch import Tensor

from kernels.cpu.products import Kept, c_matrix, check_floats, check_status
from kernels.cpu.variants import Variant
from kernels.exact import LANES
from kernels.formats import Matrix
from kernels.ops import AttentionPlan, AttentionWeights, Candidates, Restriction


def rms_norm(variant: Variant, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [T, D] / sqrt(mean(x^2) + eps) * weight, of shape [D] or [T, D]."""
    width = x.shape[-1]
    check_floats(x, width, "x")
    out = torch.empty_like(x)
    rows = 1 if weight.dim() == 1 else x.shape[0]
    _expect(weight.shape[-1] == width and weight.numel() == rows * width, "weight has neither one row nor those of x")
    variant.library.aa_rms_norm(x.data_ptr(), _floats_at.of(weight), rows, eps, x.shape[0], width, out.data_ptr())
    return out


def route(
    variant: Variant,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    experts_per_token: int,
    groups: int,
    groups_kept: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Ids int64 [T, K] ascending and weights fp32 [T, K] of x [T, M]; weight [E, M] in bf16 or fp32, bias [E]."""
    tokens, experts = x.shape[0], weight.shape[0]
    check_floats(x, weight.shape[1], "x")
    weight_at, is_bf16 = _stored_at.of(weight)
    _expect(bias.shape == (experts,), "the bias does not have one number for each expert")
    ids = torch.empty(tokens, experts_per_token, dtype=torch.int64)
    weights = x.new_empty(tokens, experts_per_token)
    variant.library.aa_route(
        x.data_ptr(),
        tokens,
        x.shape[1],
        weight_at,
        is_bf16,
        _floats_at.of(bias),
        experts,
        experts_per_token,
        groups,
        groups_kept,
        scale,
        ids.data_ptr(),
        weights.data_ptr(),
    )
    return ids, weights


def query_key_value(
    variant: Variant,
    x: Tensor,
    weights: AttentionWeights,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
) -> Tensor:
    """Queries [T, H, D] of x [T, M]; writes keys and values to the cache, fp32 or bf16. Raises NonFiniteError."""
    tokens, heads, kv_heads = x.shape[0], weights.heads, weights.kv_heads
    matrix, half = weights.query_key_value, cos.shape[1]
    check_floats(x, matrix.columns, "x")
    check_floats(cos, half, "cos")
    check_floats(sin, half, "sin")
    check(slots, torch.int64, "slots")
    keys_at, values_at, is_bf16 = check_cache(keys, values, kv_heads, weights.width)
    _expect(tokens == len(slots) == cos.shape[0] == sin.shape[0], "cos, sin or slots have other rows than x")
    out = x.new_empty(tokens, heads, weights.width)
    status = variant.library.aa_query_key_value(
        x.data_ptr(),
        tokens,
        _floats_at.of(weights.input_norm),
        weights.eps,
        byref(c_matrix(matrix)),
        _floats_at.of(weights.head_norm),
        heads,
        kv_heads,
        weights.width,
        cos.data_ptr(),
        sin.data_ptr(),
        half,
        slots.data_ptr(),
        keys_at,
        values_at,
        is_bf16,
        keys.shape[3],
        out.data_ptr(),
    )
    check_status(status, "query_key_value")
    return out


def paged_attention(
    variant: Variant, q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float
) -> Tensor:
    """Causal attention of q [T, H, D] over the cache: [T, H D]."""
    tokens, heads, width = q.shape
    check(q, torch.float32, "q")
    keys_at, values_at, is_bf16 = check_cache(keys, values, keys.shape[1], width)
    check(plan.spans, torch.int32, "the plan's spans")
    check(plan.block_table, torch.int32, "the plan's block table")
    out = q.new_empty(tokens, heads * width)
    variant.library.aa_paged_attention(
        q.data_ptr(),
        tokens,
        heads,
        keys.shape[1],
        width,
        keys_at,
        values_at,
        is_bf16,
        keys.shape[3],
        plan.spans.data_ptr(),
        plan.spans.shape[0],
        plan.block_table.data_ptr(),
        scale,
        out.data_ptr(),
    )
    return out


def head(
    variant: Variant, x: Tensor, matrix: Matrix, size: int, restrictions: Sequence[Restriction], count: int
) -> Candidates:
    """The `count` likeliest of the first `size` ids for each row of x [R, M]. Raises NonFiniteError."""
    rows, count = x.shape[0], min(count, size)
    check_floats(x, matrix.columns, "x")
    _expect(0 < size <= matrix.rows and count > 0, f"size {size} or count {count} is not within the {matrix.rows} ids")
    _expect(rows == len(restrictions), f"{len(restrictions)} restrictions for {rows} rows")
    allowed, seen = [r.allowed for r in restrictions], [r.seen for r in restrictions]
    ids = torch.empty(rows, count, dtype=torch.int64)
    scores, all_scores = x.new_empty(rows, count), x.new_empty(rows, size)
    totals = torch.empty(rows, dtype=torch.float64)
    status = variant.library.aa_head(
        x.data_ptr(),
        rows,
        byref(c_matrix(matrix)),
        size,
        _addresses(allowed, torch.bool, size, "allowed"),
        _addresses(seen, torch.int64, 0, "seen"),
        (c_int64 * rows)(*(0 if known is None else len(known) for known in seen)),
        _floats(r.penalty for r in restrictions),
        _floats(r.temperature for r in restrictions),
        count,
        all_scores.data_ptr(),
        ids.data_ptr(),
        scores.data_ptr(),
        totals.data_ptr(),
    )
    check_status(status, "head")
    return Candidates(ids, scores, totals, all_scores)


OPS: dict[str, Callable[..., Any]] = {
    "rms_norm": rms_norm,
    "route": route,
    "query_key_value": query_key_value,
    "paged_attention": paged_attention,
    "head": head,
}


def check(tensor: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raises ValueError unless the kernels can read a tensor: of a type, contiguous, in host memory."""
    if tensor.dtype is not dtype or not tensor.is_contiguous() or not tensor.is_cpu:
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}: "
            f"these kernels take contiguous {dtype} on the CPU"
        )


def check_cache(keys: Tensor, values: Tensor, kv_heads: int, width: int) -> tuple[int, int, bool]:
    """Where a layer's keys and values lie, and whether they are bf16. Raises ValueError for what kernels can't read."""
    (keys_at, is_bf16), (values_at, values_are_bf16) = _stored_at.of(keys), _stored_at.of(values)
    blocks, _, _, size = keys.shape
    shapes = ((blocks, kv_heads, width, size), (blocks, kv_heads, size, width))
    if (keys.shape, values.shape) != shapes or size % LANES or is_bf16 != values_are_bf16:
        raise ValueError(
            f"the cache has {keys.dtype} keys {list(keys.shape)} and {values.dtype} values {list(values.shape)}: they "
            f"are [blocks, {kv_heads}, {width}, size] and [blocks, {kv_heads}, size, {width}] of one type, with sizes "
            f"that are multiples of {LANES}"
        )
    return keys_at, values_at, is_bf16


def _floats_address(tensor: Tensor) -> int:
    check(tensor, torch.float32, "a weight")
    return tensor.data_ptr()


def _stored_address(tensor: Tensor) -> tuple[int, bool]:
    """Where a tensor that may be bf16 or fp32 lies, and whether it is bf16."""
    is_bf16 = tensor.dtype is torch.bfloat16
    check(tensor, torch.bfloat16 if is_bf16 else torch.float32, "a weight or a cache")
    return tensor.data_ptr(), is_bf16


# Weights and caches are checked once, activations at every call.
_floats_at: Kept[Tensor, int] = Kept(_floats_address)
_stored_at: Kept[Tensor, tuple[int, bool]] = Kept(_stored_address)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _addresses(tensors: Sequence[Tensor | None], dtype: torch.dtype, least: int, name: str) -> Array[c_int64]:
    """Where optional tensors of at least `least` elements lie, 0 for those that are None."""
    for tensor in tensors:
        if tensor is not None:
            check(tensor, dtype, name)
            _expect(tensor.numel() >= least, f"{name} has {tensor.numel()} elements: at least {least} are needed")
    return (c_int64 * len(tensors))(*(0 if tensor is None else tensor.data_ptr() for tensor in tensors))


def _floats(values: Iterable[float]) -> Array[c_float]:
    listed = tuple(values)
    return (c_float * len(listed))(*listed)
