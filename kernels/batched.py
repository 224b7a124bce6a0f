"""The ops of reference.py with all tiles of a step in one torch call, and short tiles for a few rows.

Both only where they were seen to give the same bits as whole tiles one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import torch
from torch import Tensor

from kernels import reference
from kernels.ops import TILE_ROWS
from kernels.registry import register

# Rows of a short tile: a quarter of the work, and what one decoding sequence needs.
SHORT_ROWS = 4

# Tiles, inner width and columns of the products that are tried on a device before it is trusted.
PROBES = ((2, 64, 64), (5, 128, 256), (3, 256, 512), (17, 96, 40), (2, 1024, 128))

DTYPES = (torch.float32, torch.bfloat16)


def product_at_once(a: Tensor, b: Tensor, out: Tensor) -> None:
    """All tiles in one call."""
    torch.bmm(a, b, out=out)


def fewest_rows(used: int, repeats: int, *weights: Tensor) -> int:
    """A short tile where the real rows fit one and every product gives them the bits of a whole tile."""
    if used > SHORT_ROWS:
        return TILE_ROWS
    threads = torch.get_num_threads()
    exact = all(
        _short_is_exact(*weight.shape[-2:], weight.stride(-1) == 1, repeats, weight.dtype, weight.device, threads)
        for weight in weights
    )
    return SHORT_ROWS if exact else TILE_ROWS


@cache
def _short_is_exact(
    inner: int,
    columns: int,
    plain: bool,
    repeats: int,
    dtype: torch.dtype,
    device: torch.device,
    threads: int,
) -> bool:
    """Tries the very shape and layout to be used: torch chooses a kernel by shape, not by value."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, repeats, TILE_ROWS, inner, generator=generator).to(device, dtype)
    b = torch.randn(3, columns, inner, generator=generator).to(device, dtype).transpose(1, 2)
    b = b.contiguous() if plain else b
    whole = _product(reference.product_by_tile, a, b)
    starts = range(0, TILE_ROWS, SHORT_ROWS)
    parts = [_product(product_at_once, a[:, :, start : start + SHORT_ROWS], b) for start in starts]
    one = _product(product_at_once, a[:1, :, :SHORT_ROWS], b[:1])
    return torch.equal(torch.cat(parts, dim=2), whole) and torch.equal(one, whole[:1, :, :SHORT_ROWS])


def _product(product: reference.Product, a: Tensor, b: Tensor) -> Tensor:
    """a [n, r, rows, K] times b [n, K, N]: [n, r, rows, N]."""
    out = a.new_empty(a.shape[0], a.shape[1] * a.shape[2], b.shape[2])
    product(a.flatten(1, 2).contiguous(), b, out)
    return out.view(*a.shape[:3], -1)


def same_bits(device: torch.device) -> str | None:
    """None where torch.bmm gives each tile the bits that it gets alone, else the reason to refuse."""
    return _probe(str(device), torch.get_num_threads())


@cache
def _probe(device: str, threads: int) -> str | None:
    for a, b in _probe_operands(torch.device(device)):
        if not torch.equal(_product(product_at_once, a, b), _product(reference.product_by_tile, a, b)):
            return f"torch.bmm gives a tile other bits beside others than alone, with {threads} threads"
    return None


def _probe_operands(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        for tiles, inner, columns in PROBES:
            a = torch.randn(tiles, 1, TILE_ROWS, inner, generator=generator).to(device, dtype)
            weights = torch.randn(tiles, columns, inner, generator=generator).to(device, dtype)
            yield a, weights.transpose(1, 2)
            yield a, weights[0].t().expand(tiles, inner, columns)


AT_ONCE = reference.Tiling(product_at_once, fewest_rows)

# The ops that multiply matrices.
OPS = ("linear", "swiglu", "route", "experts", "paged_attention")

for _name in OPS:
    _function = partial(reference.OPS[_name], tiling=AT_ONCE)
    register(_name, "torch-batched", _function, rank=10, supports=same_bits)
