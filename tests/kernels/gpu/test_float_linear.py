"""Products with unquantised matrices in Triton equal the definition."""

from __future__ import annotations

import pytest
import torch

from kernels import reference
from kernels.formats import Matrix
from kernels.gpu.float_linear import float_linear, launch_float_linear
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def _rows(count: int, width: int, seed: int) -> torch.Tensor:
    """Rows whose sums differ with their order."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=random) * torch.randn(count, width, generator=random).exp()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "rows", "columns"), [(1, 5, 528), (1, 3, 37), (3, 6, 300), (17, 33, 200), (16, 4, 16)]
)
def test_float_linear(tokens: int, rows: int, columns: int, dtype: torch.dtype) -> None:
    x, weight = _rows(tokens, columns, seed=1), _rows(rows, columns, seed=2).to(dtype)
    out = float_linear(x.to(DEVICE), weight.to(DEVICE))
    assert same_bits(out.cpu(), reference.linear(x, Matrix.identity(weight)))


@pytest.mark.parametrize("tokens", [1, 2, 18])
def test_a_residual_is_added_last_and_may_be_the_output(tokens: int) -> None:
    x, weight, residual = _rows(tokens, 48, seed=3), _rows(7, 48, seed=4), _rows(tokens, 7, seed=5)
    out = residual.to(DEVICE).clone()
    launch_float_linear(x.to(DEVICE), weight.to(DEVICE), out, out)
    assert same_bits(out.cpu(), reference.linear(x, Matrix.identity(weight), residual))


def test_a_long_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.gpu.float_linear._LONG", 9)
    x, weight = _rows(1, 528, seed=6), _rows(9, 528, seed=7)
    out = float_linear(x.to(DEVICE), weight.to(DEVICE))
    assert same_bits(out.cpu(), reference.linear(x, Matrix.identity(weight)))


def test_a_row_is_the_same_among_others() -> None:
    x, weight = _rows(17, 100, seed=8).to(DEVICE), _rows(9, 100, seed=9).to(DEVICE)
    together = float_linear(x, weight)
    assert same_bits(together[:1], float_linear(x[:1], weight))
    assert same_bits(together[3:8], float_linear(x[3:8], weight))


def test_no_token() -> None:
    assert float_linear(torch.empty(0, 32, device=DEVICE), torch.ones(4, 32, device=DEVICE)).shape == (0, 4)
