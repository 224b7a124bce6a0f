"""The feed-forward ops: a dense network, and the routed experts of a layer with the shared one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.formats import Format, Matrix
from kernels.gpu.combine import launch_combine
from kernels.gpu.experts import down_rows, launch_down, launch_gate_up
from kernels.gpu.float_linear import launch_float_linear
from kernels.gpu.grouping import group_pairs
from kernels.gpu.language import quantised, silu
from kernels.gpu.launch import fresh_fault, launch
from kernels.gpu.linear import launch_linear
from kernels.gpu.quantise import Quantised, check_fault, launch_quantise
from kernels.gpu.tables import ExpertShape, Groups
from kernels.ops import ExpertPool, SwiGLUWeights, Wave

# Bytes of the largest intermediate: gates and ups of as many rows as fit, and outputs of all pairs in as many columns.
LARGEST = 64 << 20

# Groups of h that one program quantises, and the h of one that only computes them.
GROUPS, ELEMENTS = 4, 256

# The left side of a product: quantised where the matrix is.
Operand = Tensor | Quantised


@dataclass(frozen=True)
class Workspace:
    """What lies between the matrices of a network."""

    gate_up: Tensor  # fp32 [T, 2F]
    hidden: Operand  # [T, F]

    @classmethod
    def empty(cls, rows: int, weights: SwiGLUWeights) -> Self:
        device, inner = weights.gate_up.device, weights.down.columns
        return cls(
            torch.empty(rows, 2 * inner, device=device), _empty_operand(rows, inner, weights.down.format, device)
        )


def swiglu(x: Tensor, weights: SwiGLUWeights, residual: Tensor | None = None) -> Tensor:
    """The op `swiglu` of kernels/ops.py, in fp32. Raises NonFiniteError."""
    out, fault = torch.empty_like(x), fresh_fault(x.device)
    _run_swiglu(x, weights, fault, out, residual)
    check_fault(fault)
    return out


def experts(
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    pool: ExpertPool,
    shared: SwiGLUWeights,
    residual: Tensor | None = None,
    *,
    wave: Wave | None = None,
) -> Tensor:
    """The op `experts` of kernels/ops.py, in fp32, with blobs that are where `pool.addresses` say to the device of x.

    Beside its result it takes T K F bytes for what goes into the down matrices, and LARGEST twice. Raises
    NonFiniteError, and LookupError where an expert that is used has no address.
    """
    wave = wave or Wave(0, pool.addresses.shape[0], None, last=True)
    total = torch.zeros_like(x) if wave.total is None else wave.total
    fault = fresh_fault(x.device)
    is_quantised = pool.gate_up.is_quantised and pool.down.is_quantised
    add = _add_quantised_experts if is_quantised else _add_experts_one_by_one
    add(x, ids, weights, pool, wave, total, fault)
    out = total
    if wave.last:
        out = torch.empty_like(x)
        _run_swiglu(x, shared, fault, out, total)
    check_fault(fault)
    return out if residual is None or not wave.last else residual + out


def launch_swiglu(
    a: Operand, weights: SwiGLUWeights, workspace: Workspace, fault: Tensor, out: Tensor, residual: Tensor | None = None
) -> None:
    """down(silu(gate(a)) * up(a)), added to residual fp32 [T, M] where given: out fp32 [T, M].

    a [T, M] is quantised in the groups of gate_up, or fp32 where that keeps floats; `fault` int32 [1] becomes 1 where
    an h to be quantised is not finite.
    """
    _launch_product(a, weights.gate_up, workspace.gate_up, None)
    launch_gated(workspace.gate_up, workspace.hidden, fault)
    _launch_product(workspace.hidden, weights.down, out, residual)


def launch_gated(gate_up: Tensor, into: Operand, fault: Tensor) -> None:
    """silu(gate) * up of gates beside ups, fp32 [T, 2F]: [T, F], quantised or fp32."""
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    if isinstance(into, Tensor):
        grid = (triton.cdiv(rows * inner, ELEMENTS),)
        launch(_gated, grid, gate_up, into, rows * inner, inner, SIZE=ELEMENTS)
        return
    groups = into.scales.numel()
    grid = (triton.cdiv(groups, GROUPS),)
    launch(_gated_quantised, grid, gate_up, into.q, into.scales, fault, groups, inner, G=into.group, ROWS=GROUPS)


def _launch_product(a: Operand, matrix: Matrix, out: Tensor, residual: Tensor | None) -> None:
    if isinstance(a, Tensor):
        launch_float_linear(a, matrix.floats, out, residual)
    else:
        launch_linear(a, matrix, out, residual)


def _run_swiglu(x: Tensor, weights: SwiGLUWeights, fault: Tensor, out: Tensor, residual: Tensor | None) -> None:
    """`launch_swiglu` of fp32 x, by as many rows as a workspace may have."""
    for rows in _slices(x.shape[0], LARGEST // (4 * weights.gate_up.rows)):
        a = _operand(x[rows], weights.gate_up.format, fault)
        workspace = Workspace.empty(x[rows].shape[0], weights)
        launch_swiglu(a, weights, workspace, fault, out[rows], None if residual is None else residual[rows])


def _operand(x: Tensor, form: Format, fault: Tensor) -> Operand:
    """x fp32 [T, K] as a matrix of this format takes it."""
    if not form.is_quantised:
        return x.contiguous()
    a = Quantised.empty(x.shape[0], x.shape[1], form.group, x.device)
    launch_quantise(x.contiguous(), a, fault)
    return a


def _empty_operand(rows: int, width: int, form: Format, device: torch.device) -> Operand:
    if form.is_quantised:
        return Quantised.empty(rows, width, form.group, device)
    return torch.empty(rows, width, device=device)


def _add_quantised_experts(
    x: Tensor, ids: Tensor, weights: Tensor, pool: ExpertPool, wave: Wave, total: Tensor, fault: Tensor
) -> None:
    """Adds the experts of a wave to `total` fp32 [T, M]."""
    if not ids.numel():
        return
    groups = group_pairs(ids, pool.addresses.to(x.device), wave.first, wave.stop)
    shape = ExpertShape(pool.gate_up, pool.down, pool.hidden, pool.inner, pool.down_offset)
    a = _operand(x, pool.gate_up, fault)
    assert isinstance(a, Quantised)
    hidden = Quantised.empty(ids.numel(), pool.inner, pool.down.group, x.device)
    launch_gate_up(a, groups, shape, hidden, fault)
    step = down_rows(shape)
    for columns in _slices(pool.hidden, LARGEST // (4 * ids.numel()) // step * step, least=step):
        y = torch.empty(ids.numel(), columns.stop - columns.start, device=x.device)
        launch_down(hidden, groups, shape, y, first=columns.start)
        launch_combine(y, weights, total, pair_kinds=groups.pair_kinds, total_in=total, first=columns.start)
    _refuse_absent(groups)


def _refuse_absent(groups: Groups) -> None:
    """Raises LookupError where an expert of `groups` has no address."""
    in_use = torch.arange(groups.addresses.shape[0], device=groups.count.device) < groups.count
    if bool((in_use & (groups.addresses == 0)).any()):
        raise LookupError("experts: an expert to be computed is not in memory")


def _add_experts_one_by_one(
    x: Tensor, ids: Tensor, weights: Tensor, pool: ExpertPool, wave: Wave, total: Tensor, fault: Tensor
) -> None:
    """`_add_quantised_experts` for pools that keep floats: a reference for models that are small."""
    for expert in ids[(ids >= wave.first) & (ids < wave.stop)].unique().tolist():
        if not pool.addresses[expert]:
            raise LookupError("experts: an expert to be computed is not in memory")
        tokens, places = (ids == expert).nonzero(as_tuple=True)
        y = torch.empty(len(tokens), pool.hidden, device=x.device)
        _run_swiglu(x[tokens], pool.expert(expert), fault, y, None)
        total[tokens] = total[tokens] + weights[tokens, places, None] * y


def _slices(size: int, step: int, least: int = 1) -> Iterator[slice]:
    """0 .. size in steps."""
    step = max(step, least)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


@triton.jit
def _gated(p_gate_up, p_out, count, inner, SIZE: tl.constexpr):
    o_out = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    m_out = o_out < count
    o_gate = o_out + o_out // inner * inner
    gate = tl.load(p_gate_up + o_gate, mask=m_out, other=0.0)
    up = tl.load(p_gate_up + o_gate + inner, mask=m_out, other=0.0)
    tl.store(p_out + o_out, silu(gate) * up, mask=m_out)


@triton.jit
def _gated_quantised(p_gate_up, p_q, p_scales, p_fault, groups, inner, G: tl.constexpr, ROWS: tl.constexpr):
    o_group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_group = o_group < groups
    o_row = o_group // (inner // G)
    o_columns = tl.arange(0, G)
    p_gate = p_gate_up + (o_group * G + o_row * inner)[:, None] + o_columns[None, :]
    gate = tl.load(p_gate, mask=m_group[:, None], other=0.0)
    up = tl.load(p_gate + inner, mask=m_group[:, None], other=0.0)
    q, scale, is_finite = quantised(silu(gate) * up, ROWS)
    tl.store(p_q + o_group[:, None] * G + o_columns[None, :], q, mask=m_group[:, None])
    tl.store(p_scales + o_group, scale, mask=m_group)
    if tl.min(is_finite.to(tl.int32), axis=0) == 0:
        tl.store(p_fault, 1)
