"""Quantising an activation in Triton equals the definition."""

from __future__ import annotations

import pytest
import torch

from kernels import reference
from kernels.gpu.launch import fresh_fault
from kernels.gpu.quantise import Quantised, check_fault, launch_quantise
from kernels.ops import NonFiniteError
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits
from tests.kernels.test_cpu_products import random_rows


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("tokens", [1, 3, 17])
def test_quantise(tokens: int, group: int) -> None:
    x = random_rows(tokens, 384, seed=tokens)
    x[0, :group] = 2.0**-101
    into, fault = Quantised.empty(tokens, 384, group, DEVICE), fresh_fault(DEVICE)
    launch_quantise(x.to(DEVICE), into, fault)
    q, scales = reference.quantise_activation(x, group)
    assert same_bits(into.scales.cpu(), scales)
    assert torch.equal(into.q.cpu(), q)
    assert into.group == group
    check_fault(fault)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_sets_the_fault(bad: float) -> None:
    x = random_rows(5, 128, seed=1)
    x[3, 77] = bad
    into, fault = Quantised.empty(5, 128, 32, DEVICE), fresh_fault(DEVICE)
    launch_quantise(x.to(DEVICE), into, fault)
    with pytest.raises(NonFiniteError):
        check_fault(fault)
