"""What making queries, keys and values launches."""

from __future__ import annotations

import torch

from kernels.gpu.query_key_value import launch_heads
from tests.kernels.gpu.compiling import Case

# Heads, KV heads, width, half of the rotated width, block size, and how a cache keeps numbers.
SHAPES = {
    "103b": (32, 4, 128, 32, 64, torch.bfloat16),
    "103b:fp32": (32, 4, 128, 32, 64, torch.float32),
    "small": (3, 1, 24, 6, 16, torch.bfloat16),
}


def _heads(
    heads: int, kv_heads: int, width: int, half: int, size: int, dtype: torch.dtype, *, gathered: bool = False
) -> None:
    tokens, table = 3, torch.empty(1000, half)
    whole = torch.empty(tokens, dtype=torch.int64)
    # A cache whose offsets need 64 bits.
    keys = torch.empty(2**31 // (kv_heads * width * size), kv_heads, width, size, dtype=dtype, device="meta")
    values = keys.view(-1, kv_heads, size, width)
    projected, norm = torch.empty(tokens, (heads + 2 * kv_heads) * width), torch.empty(heads + kv_heads, width)
    q, positions = torch.empty(tokens, heads, width), whole if gathered else None
    launch_heads(projected, norm, 1e-6, heads, kv_heads, table, table, keys, values, whole, q, positions)


CASES = [Case(f"heads:{name}", lambda shape=shape: _heads(*shape)) for name, shape in SHAPES.items()]
CASES += [Case("heads:gathered", lambda: _heads(*SHAPES["103b"], gathered=True))]
