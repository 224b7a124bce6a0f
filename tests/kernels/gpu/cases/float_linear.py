"""What products with unquantised matrices launch."""

from __future__ import annotations

import torch

from kernels.gpu.float_linear import launch_float_linear
from tests.kernels.gpu.compiling import Case


def _product(tokens: int, rows: int, columns: int, dtype: torch.dtype, has_residual: bool) -> None:
    out = torch.empty(tokens, rows)
    launch_float_linear(
        torch.empty(tokens, columns), torch.empty(rows, columns, dtype=dtype), out, out if has_residual else None
    )


WIDE = ("cp.async.cg.shared.global",)

CASES = [
    Case(
        f"float_linear:{tokens}x{rows}x{columns}:{dtype}".replace("torch.", ""),
        lambda tokens=tokens, rows=rows, columns=columns, dtype=dtype, residual=residual: _product(
            tokens, rows, columns, dtype, residual
        ),
        WIDE if columns % 16 == 0 else (),
    )
    for tokens, rows, columns, dtype, residual in (
        (1, 256, 4096, torch.bfloat16, False),
        (1, 256, 4096, torch.float32, False),
        (1, 157184, 4096, torch.bfloat16, False),
        (8, 256, 4096, torch.bfloat16, False),
        (4096, 256, 4096, torch.bfloat16, False),
        (4096, 6144, 4096, torch.float16, True),
        (512, 4096, 4096, torch.float32, True),
        (1, 24, 100, torch.float32, True),
        (3, 24, 37, torch.bfloat16, False),
        (40, 24, 48, torch.float16, False),
    )
]
