"""Activations to int8, by groups with a scale each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.language import quantised
from kernels.gpu.launch import launch
from kernels.ops import NonFiniteError

# Groups that one program quantises.
GROUPS = 16


@dataclass(frozen=True)
class Quantised:
    """A quantised activation: q int8 [T, K], and scales fp32 [T, K/G] of its groups."""

    q: Tensor
    scales: Tensor

    @classmethod
    def empty(cls, rows: int, width: int, group: int, device: torch.device) -> Self:
        return cls(
            torch.empty(rows, width, dtype=torch.int8, device=device),
            torch.empty(rows, width // group, dtype=torch.float32, device=device),
        )

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.scales.shape[1]


def launch_quantise(x: Tensor, into: Quantised, fault: Tensor) -> None:
    """Quantises x fp32 [T, K]; `fault` int32 [1] becomes 1 where it is not finite."""
    groups = into.scales.numel()
    launch(_quantise, (triton.cdiv(groups, GROUPS),), x, into.q, into.scales, fault, groups, G=into.group, ROWS=GROUPS)


def check_fault(fault: Tensor) -> None:
    """Waits for what was launched. Raises NonFiniteError where a kernel set the fault."""
    if fault.item():
        raise NonFiniteError(
            "an input to a quantised matrix holds a NaN or an infinity: check that the weights are undamaged"
        )


@triton.jit
def _quantise(p_x, p_q, p_scales, p_fault, groups, G: tl.constexpr, ROWS: tl.constexpr):
    o_group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_group = o_group < groups
    offsets = o_group[:, None] * G + tl.arange(0, G)[None, :]
    x = tl.load(p_x + offsets, mask=m_group[:, None], other=0.0)
    q, scale, is_finite = quantised(x, ROWS)
    tl.store(p_q + offsets, q, mask=m_group[:, None])
    tl.store(p_scales + o_group, scale, mask=m_group)
    if tl.min(is_finite.to(tl.int32), axis=0) == 0:
        tl.store(p_fault, 1)
