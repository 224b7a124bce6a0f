"""Products with quantised matrices in Triton equal the definition, in every format and form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels import reference
from kernels.formats import Format, Matrix
from kernels.gpu.launch import fresh_fault
from kernels.gpu.linear import launch_linear, linear
from kernels.gpu.quantise import Quantised, launch_quantise
from kernels.ops import NonFiniteError
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits
from tests.kernels.test_cpu_products import QUANTISED, random_matrix, random_rows


def on_device(matrix: Matrix) -> Matrix:
    return replace(matrix, data=matrix.data.to(DEVICE))


def check(form: str, tokens: int, rows: int, columns: int) -> None:
    matrix = random_matrix(Format.parse(form), rows, columns, seed=rows)
    x = random_rows(tokens, columns, seed=tokens)
    out = linear(x.to(DEVICE), on_device(matrix))
    assert same_bits(out.cpu(), reference.linear(x, matrix))


@pytest.mark.parametrize("form", QUANTISED)
def test_few_tokens(form: str) -> None:
    check(form, tokens=3, rows=16, columns=640)


@pytest.mark.parametrize("form", QUANTISED)
def test_many_tokens(form: str) -> None:
    check(form, tokens=33, rows=48, columns=256)


@pytest.mark.parametrize("form", ["w4a8:64:zeros:p2", "w8a8:32"])
@pytest.mark.parametrize(
    ("tokens", "rows", "columns"), [(1, 48, 128), (8, 16, 128), (9, 32, 640), (17, 16, 384), (66, 80, 128)]
)
def test_every_form(form: str, tokens: int, rows: int, columns: int) -> None:
    check(form, tokens, rows, columns)


def test_one_group() -> None:
    check("w4a8:128:p4", tokens=2, rows=16, columns=128)


def test_a_long_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.gpu.linear._LONG", 48)
    check("w4a8:64", tokens=3, rows=48, columns=384)


@pytest.mark.parametrize("tokens", [1, 33])
def test_a_residual_is_added_last_and_may_be_the_output(tokens: int) -> None:
    matrix = random_matrix(Format.parse("w8a8:64"), 32, 192, seed=1)
    x, residual = random_rows(tokens, 192, seed=2), torch.randn(tokens, 32)
    a, fault, out = Quantised.empty(tokens, 192, 64, DEVICE), fresh_fault(DEVICE), residual.to(DEVICE).clone()
    launch_quantise(x.to(DEVICE), a, fault)
    launch_linear(a, on_device(matrix), out, out)
    assert same_bits(out.cpu(), reference.linear(x, matrix, residual))


def test_what_is_beyond_the_matrix_and_the_rows_is_not_written() -> None:
    matrix = random_matrix(Format.parse("w4a8:64"), 48, 64, seed=3)
    a = Quantised.empty(33, 64, 64, DEVICE)
    launch_quantise(random_rows(33, 64, seed=4).to(DEVICE), a, fresh_fault(DEVICE))
    room = torch.full((35, 48), 7.0, device=DEVICE)
    launch_linear(a, on_device(matrix), room[1:34])
    assert torch.equal(room[[0, 34]].cpu(), torch.full((2, 48), 7.0))


def test_a_row_is_the_same_among_others() -> None:
    matrix = on_device(random_matrix(Format.parse("w4a8:64"), 32, 640, seed=5))
    x = random_rows(40, 640, seed=6).to(DEVICE)
    together = linear(x, matrix)
    for rows in (slice(0, 1), slice(3, 15), slice(16, 40)):
        assert same_bits(together[rows], linear(x[rows], matrix))


def test_floats_are_not_quantised() -> None:
    matrix = random_matrix(Format.parse("bf16"), 5, 32, seed=7)
    x, residual = random_rows(2, 32, seed=8), torch.randn(2, 5)
    out = linear(x.to(DEVICE), on_device(matrix), residual.to(DEVICE))
    assert same_bits(out.cpu(), reference.linear(x, matrix, residual))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    matrix = on_device(random_matrix(Format.parse("w4a8:64"), 16, 64, seed=9))
    x = torch.ones(3, 64, device=DEVICE)
    x[2, 5] = bad
    with pytest.raises(NonFiniteError):
        linear(x, matrix)


def test_no_token() -> None:
    matrix = on_device(random_matrix(Format.parse("w4a8:64"), 16, 64, seed=10))
    assert linear(torch.empty(0, 64, device=DEVICE), matrix).shape == (0, 16)
