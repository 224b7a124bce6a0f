"""The ops in C++ for this CPU, compiled on first use: one implementation for each instruction set."""

from __future__ import annotations

from functools import partial

import torch

from kernels.cpu import products, rows
from kernels.cpu.variants import Variant, best_first, cpu_features, set_threads
from kernels.registry import Announce, register

__all__ = ["Variant", "best_first", "cpu_features", "set_threads"]


def supports(
    variant: Variant, device: torch.device, dtype: torch.dtype, announce: Announce | None = None
) -> str | None:
    """None, or why these kernels can't serve residual streams of a dtype on a device."""
    if device.type != "cpu":
        return "computes on the CPU alone"
    if dtype is not torch.float32:
        return f"computes in float32, not in {str(dtype).removeprefix('torch.')}"
    return variant.refusal(announce)


for _rank, _variant in enumerate(reversed(best_first), start=1):
    for _op, _function in {**products.OPS, **rows.OPS}.items():
        register(
            _op,
            f"c++ {_variant.name}",
            partial(_function, _variant),
            rank=_rank,
            supports=partial(supports, _variant),
        )
