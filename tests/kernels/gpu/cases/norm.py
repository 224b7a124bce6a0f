"""What norms launch."""

from __future__ import annotations

import torch

from kernels.gpu.launch import fresh_fault
from kernels.gpu.norm import launch_rms_norm
from kernels.gpu.quantise import Quantised
from tests.kernels.gpu.compiling import Case


def _norm(shape: tuple[int, ...], weight_rows: int, group: int, has_out: bool) -> None:
    cpu, width = torch.device("cpu"), shape[-1]
    x = torch.empty(shape)
    into = Quantised.empty(x.numel() // width, width, group, cpu) if group else None
    weight = torch.empty(weight_rows, width)
    launch_rms_norm(x, weight, 1e-6, x if has_out else None, into, fresh_fault(cpu) if group else None)


CASES = [
    Case(
        f"norm:{'x'.join(map(str, shape))}:{group or 'floats'}{':both' if group and has_out else ''}",
        lambda shape=shape, weight_rows=weight_rows, group=group, has_out=has_out: _norm(
            shape, weight_rows, group, has_out
        ),
        ("ld.global.v4.b32", "cp.async.cg.shared.global"),
    )
    for shape, weight_rows, group, has_out in (
        ((1, 4096), 1, 64, True),
        ((1, 4096), 1, 64, False),
        ((1, 4096), 1, 0, True),
        ((8, 4096), 1, 32, True),
        ((1, 8192), 1, 128, True),
        ((1, 40, 128), 40, 0, True),
        ((512, 40, 128), 40, 0, True),
        ((5, 384), 1, 128, False),
    )
]
