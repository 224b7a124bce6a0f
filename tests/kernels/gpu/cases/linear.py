"""What products with quantised matrices launch."""

from __future__ import annotations

import torch

from kernels.formats import Format, Matrix
from kernels.gpu.linear import launch_linear
from kernels.gpu.quantise import Quantised
from tests.kernels.gpu.compiling import Case


def _product(form: str, tokens: int, rows: int, columns: int, has_residual: bool) -> None:
    parsed = Format.parse(form)
    matrix = Matrix(parsed, rows, columns, torch.empty(parsed.nbytes(rows, columns), dtype=torch.uint8))
    a = Quantised.empty(tokens, columns, parsed.group, torch.device("cpu"))
    out = torch.empty(tokens, rows)
    launch_linear(a, matrix, out, out if has_residual else None)


# Weights in pieces of 16 bytes, and integer tensor cores.
TRAITS = ("cp.async.cg.shared.global", ".s32.s8.s8")

SHAPES = (
    # Queries, keys and values; their output; the vocabulary; a narrow shared network; what tests use.
    ("w8a8:64", 1, 5120, 4096, False),
    ("w8a8:64", 1, 4096, 4096, True),
    ("w8a8:64", 1, 157184, 4096, False),
    ("w8a8:64", 1, 4096, 1024, True),
    ("w4a8:64", 1, 4096, 4096, False),
    ("w4a8:64", 1, 157184, 4096, False),
    ("w8a8:64", 8, 5120, 4096, False),
    ("w8a8:64", 16, 5120, 4096, True),
    ("w8a8:64", 32, 5120, 4096, False),
    ("w8a8:64", 4096, 5120, 4096, False),
    ("w4a8:64", 16, 4096, 4096, False),
    ("w4a8:64", 32, 4096, 4096, False),
    ("w4a8:64", 4096, 4096, 4096, True),
    *((f"w{bits}a8:{group}", tokens, 48, 256, False) for bits in (4, 8) for group in (32, 128) for tokens in (3, 33)),
    *(
        (f"w{bits}a8:64:fp16:zeros{partials}", tokens, 4096, 4096, False)
        for bits in (4, 8)
        for partials in ("", ":p2", ":p4")
        for tokens in (1, 16, 32, 512)
    ),
)

CASES = [
    Case(
        f"linear:{form}:{tokens}x{rows}x{columns}",
        lambda form=form, tokens=tokens, rows=rows, columns=columns, residual=residual: _product(
            form, tokens, rows, columns, residual
        ),
        TRAITS,
    )
    for form, tokens, rows, columns, residual in SHAPES
]
