"""Norms in Triton equal the definition, and so does what they quantise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels import floating, reference
from kernels.gpu.launch import fresh_fault
from kernels.gpu.norm import launch_rms_norm, rms_norm
from kernels.gpu.quantise import Quantised, check_fault
from kernels.ops import NonFiniteError
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits
from tests.kernels.test_cpu_products import random_rows

EPS = 1e-6


def _rows(*shape: int, seed: int = 1) -> Tensor:
    """Rows whose sums of squares differ with their order."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random) * torch.randn(shape, generator=random).exp()


@pytest.mark.parametrize(
    ("tokens", "width"), [(1, 4096), (1, 2048), (1, 1040), (3, 1024), (2, 8), (5, 100), (17, 128), (3, 37), (1, 8192)]
)
def test_norm(tokens: int, width: int) -> None:
    x, weight = _rows(tokens, width), _rows(width, seed=2)
    assert same_bits(rms_norm(x.to(DEVICE), weight.to(DEVICE), EPS).cpu(), floating.rms_norm(x, weight, EPS))


@pytest.mark.parametrize(("tokens", "heads", "width"), [(3, 3, 128), (1, 40, 64), (2, 5, 2048)])
def test_heads_have_a_weight_row_each(tokens: int, heads: int, width: int) -> None:
    x, weight = _rows(tokens, heads, width), _rows(heads, width, seed=2)
    assert same_bits(rms_norm(x.to(DEVICE), weight.to(DEVICE), EPS).cpu(), floating.rms_norm(x, weight, EPS))


def test_narrow_weights() -> None:
    x, weight = _rows(2, 48), _rows(48, seed=2).bfloat16()
    assert same_bits(rms_norm(x.to(DEVICE), weight.to(DEVICE), EPS).cpu(), floating.rms_norm(x, weight, EPS))


def test_eps_counts() -> None:
    x, weight = torch.full((1, 64), 1e-4), torch.ones(64)
    x[0, 3] = 3.7e-4
    assert same_bits(rms_norm(x.to(DEVICE), weight.to(DEVICE), 1e-5).cpu(), floating.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("has_out", [False, True])
@pytest.mark.parametrize(("tokens", "width", "group"), [(1, 4096, 64), (5, 384, 32), (3, 640, 128), (3, 32, 32)])
def test_quantised_at_once(tokens: int, width: int, group: int, has_out: bool) -> None:
    x, weight = random_rows(tokens, width, seed=width), _rows(width, seed=2)
    out = torch.full((tokens, width), float("nan"), device=DEVICE) if has_out else None
    into, fault = Quantised.empty(tokens, width, group, DEVICE), fresh_fault(DEVICE)
    launch_rms_norm(x.to(DEVICE), weight.to(DEVICE), EPS, out, into, fault)
    normed = floating.rms_norm(x, weight, EPS)
    q, scales = reference.quantise_activation(normed, group)
    assert same_bits(into.scales.cpu(), scales)
    assert torch.equal(into.q.cpu(), q)
    assert out is None or same_bits(out.cpu(), normed)
    check_fault(fault)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_sets_the_fault(bad: float) -> None:
    x = torch.ones(3, 64, device=DEVICE)
    x[2, 63] = bad
    into, fault = Quantised.empty(3, 64, 32, DEVICE), fresh_fault(DEVICE)
    launch_rms_norm(x, torch.ones(64, device=DEVICE), EPS, None, into, fault)
    with pytest.raises(NonFiniteError):
        check_fault(fault)


def test_rows_beyond_the_last_are_not_written() -> None:
    x, weight = _rows(3, 128).to(DEVICE), torch.ones(128, device=DEVICE)
    room, q, scales = (torch.full(shape, 7.0, device=DEVICE) for shape in ((5, 128), (5, 128), (5, 2)))
    into = Quantised(q.to(torch.int8)[1:4], scales[1:4])
    launch_rms_norm(x, weight, EPS, room[1:4], into, fresh_fault(DEVICE))
    for written in (room, scales):
        assert bool((written[[0, 4]] == 7.0).all())


def test_no_row() -> None:
    assert rms_norm(torch.empty(0, 64, device=DEVICE), torch.ones(64, device=DEVICE), EPS).shape == (0, 64)
