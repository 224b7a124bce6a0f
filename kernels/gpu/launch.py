"""The one way in which kernels are launched: arithmetic is never fused, and what would be compiled can be recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

# Whether Triton runs kernels in its interpreter, on tensors in host memory (TRITON_INTERPRET=1).
INTERPRETING = bool(triton.knobs.runtime.interpret)


@dataclass(frozen=True)
class Launch:
    """A launch that was recorded instead of made: all that its compilation depends on."""

    kernel: Any
    arguments: tuple[Any, ...] = field(repr=False)
    constants: dict[str, Any]
    warps: int
    stages: int


_recorders: list[list[Launch]] = []


def launch(
    kernel: Any, grid: Sequence[int], *arguments: Any, warps: int = 4, stages: int = 3, **constants: Any
) -> None:
    """Runs `grid` programs of a kernel on the current stream; `constants` are its constexpr parameters."""
    if not all(grid):
        return
    if _recorders:
        _recorders[-1].append(Launch(kernel, arguments, constants, warps, stages))
        return
    kernel[tuple(grid)](*arguments, **constants, num_warps=warps, num_stages=stages, enable_fp_fusion=False)


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Launches within are listed and not made."""
    launches: list[Launch] = []
    _recorders.append(launches)
    try:
        yield launches
    finally:
        _recorders.remove(launches)


def fresh_fault(device: torch.device) -> Tensor:
    """What a kernel sets to 1 where an activation to be quantised is not finite: int32 [1]."""
    return torch.zeros(1, dtype=torch.int32, device=device)
