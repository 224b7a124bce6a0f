"""Products with weight matrices: linear, swiglu and experts over a variant of the C++ kernels."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from ctypes import byref
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from kernels.cpu.abi import ABSENT, NONFINITE, CMatrix
from kernels.cpu.variants import Variant
from kernels.formats import Format, Matrix
from kernels.ops import ExpertPool, NonFiniteError, SwiGLUWeights, Wave

Owner = TypeVar("Owner")
Value = TypeVar("Value")


def linear(variant: Variant, x: Tensor, matrix: Matrix, residual: Tensor | None = None) -> Tensor:
    """x [T, K] times the transpose of matrix [N, K] (+ residual [T, N]): [T, N], all contiguous fp32."""
    check_floats(x, matrix.columns, "x")
    out = x.new_empty(x.shape[0], matrix.rows)
    residual_at = address_like(residual, out)
    status = variant.library.aa_linear(x.data_ptr(), x.shape[0], byref(c_matrix(matrix)), residual_at, out.data_ptr())
    check_status(status, "linear")
    return out


def swiglu(variant: Variant, x: Tensor, weights: SwiGLUWeights, residual: Tensor | None = None) -> Tensor:
    """down(silu(gate(x)) * up(x)) of x [T, M] (+ residual [T, M]): [T, M], all contiguous fp32."""
    check_floats(x, weights.gate_up.columns, "x")
    out = x.new_empty(x.shape[0], weights.down.rows)
    status = variant.library.aa_swiglu(
        x.data_ptr(),
        x.shape[0],
        byref(c_matrix(weights.gate_up)),
        byref(c_matrix(weights.down)),
        address_like(residual, out),
        out.data_ptr(),
    )
    check_status(status, "swiglu")
    return out


def experts(
    variant: Variant,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    pool: ExpertPool,
    shared: SwiGLUWeights,
    residual: Tensor | None = None,
    *,
    wave: Wave | None = None,
    round_bf16: bool = False,
) -> Tensor:
    """The whole expert layer, or a wave of it, in one call; `round_bf16` makes R round to bf16, as in a bf16 stream."""
    wave = wave or Wave(0, pool.addresses.shape[0], None, last=True)
    check_floats(x, pool.hidden, "x")
    check_floats(weights, ids.shape[-1], "weights")
    if ids.dtype is not torch.int64 or ids.shape != weights.shape or not ids.is_contiguous():
        raise ValueError("ids must be contiguous int64 [T, K], like the weights")
    out = _sum_so_far(x, wave)
    gate_up, down = pool_layouts(pool)
    shared_gate_up, shared_down = (c_matrix(shared.gate_up), c_matrix(shared.down)) if wave.last else (None, None)
    status = variant.library.aa_experts(
        x.data_ptr(),
        x.shape[0],
        ids.data_ptr(),
        weights.data_ptr(),
        ids.shape[1],
        pool.addresses.data_ptr(),
        pool.addresses.shape[0],
        wave.first,
        wave.stop,
        wave.total is not None,
        byref(gate_up),
        byref(down),
        shared_gate_up,
        shared_down,
        round_bf16,
        address_like(residual, out),
        out.data_ptr(),
    )
    check_status(status, "experts")
    return out


def _sum_so_far(x: Tensor, wave: Wave) -> Tensor:
    if wave.total is None:
        return torch.empty_like(x)
    check_floats(wave.total, x.shape[1], "the sum so far")
    if wave.total.shape != x.shape:
        raise ValueError(f"the sum so far has {wave.total.shape[0]} rows and x {x.shape[0]}")
    return wave.total


OPS: dict[str, Callable[..., Any]] = {"linear": linear, "swiglu": swiglu, "experts": experts}


def check_floats(x: Tensor, width: int, name: str) -> None:
    """Raises ValueError unless x is what the kernels can read: contiguous fp32 [T, width] in host memory."""
    if x.dtype is not torch.float32 or x.dim() != 2 or x.shape[1] != width or not x.is_contiguous() or not x.is_cpu:
        raise ValueError(
            f"{name} is {x.dtype} {list(x.shape)} on {x.device}: these kernels take contiguous "
            f"fp32 [T, {width}] on the CPU"
        )


def address_like(residual: Tensor | None, out: Tensor) -> int | None:
    """Where an optional residual of out's shape lies."""
    if residual is None:
        return None
    check_floats(residual, out.shape[1], "the residual")
    if residual.shape != out.shape:
        raise ValueError(f"the residual has {residual.shape[0]} rows and the result {out.shape[0]}")
    return residual.data_ptr()


def check_status(status: int, op: str) -> None:
    """Raises NonFiniteError where an op met a number that it couldn't quantise, LookupError for an absent expert."""
    if status == ABSENT:
        raise LookupError(f"{op}: an expert to be computed is not in memory")
    if status == NONFINITE:
        raise NonFiniteError(f"{op}: an activation to be quantised is not finite: the weights or the input are damaged")


class Kept(Generic[Owner, Value]):
    """What is made once of an object, and kept while it lives. Found by identity, which is all that costs nothing."""

    def __init__(self, make: Callable[[Owner], Value]) -> None:
        self._make = make
        self._values: dict[int, tuple[weakref.ref[Owner], Value]] = {}

    def of(self, owner: Owner) -> Value:
        found = self._values.get(id(owner))
        if found is not None and found[0]() is owner:
            return found[1]
        key, values = id(owner), self._values
        value = self._make(owner)

        def forget(gone: weakref.ref[Owner]) -> None:
            if values.get(key, (None,))[0] is gone:
                del values[key]

        values[key] = weakref.ref(owner, forget), value
        return value


def c_matrix(matrix: Matrix) -> CMatrix:
    """A matrix as C sees it, made once and kept as long as the matrix lives."""
    return _matrices.of(matrix)


def pool_layouts(pool: ExpertPool) -> tuple[CMatrix, CMatrix]:
    """The gate_up and down matrices of a pool as offsets within a blob."""
    return _pools.of(pool)


def _c_matrix(matrix: Matrix) -> CMatrix:
    if matrix.device.type != "cpu":
        raise ValueError(f"a weight matrix is on {matrix.device}: these kernels take it in host memory")
    return layout(matrix.format, matrix.rows, matrix.columns, matrix.data.data_ptr())


def _pool_layouts(pool: ExpertPool) -> tuple[CMatrix, CMatrix]:
    gate_up = layout(pool.gate_up, 2 * pool.inner, pool.hidden, 0)
    return gate_up, layout(pool.down, pool.hidden, pool.inner, pool.down_offset)


def layout(form: Format, rows: int, columns: int, start: int) -> CMatrix:
    """A matrix whose bytes begin at `start`: an address, or an offset within a blob."""
    planes = form.planes(rows, columns)
    return CMatrix(
        bits=form.bits,
        group=form.group,
        scale_is_fp16=form.scale == "fp16",
        partials=form.partials,
        rows=rows,
        columns=columns,
        weights=start,
        scales=start + planes.scales,
        zeros=start + planes.zeros if form.zeros else None,
        has_zeros=form.zeros,
    )


_matrices: Kept[Matrix, CMatrix] = Kept(_c_matrix)
_pools: Kept[ExpertPool, tuple[CMatrix, CMatrix]] = Kept(_pool_layouts)
