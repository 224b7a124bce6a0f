"""The router in Triton equals the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels import floating
from kernels.gpu.route import RouterShape, launch_route, route
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check(x: Tensor, weight: Tensor, bias: Tensor, k: int, groups: int, kept: int, scale: float = 2.5) -> None:
    options = {"experts_per_token": k, "groups": groups, "groups_kept": kept, "scale": scale}
    expected_ids, expected = floating.route(x, weight, bias, **options)
    ids, weights = route(x.to(DEVICE), weight.to(DEVICE), bias.to(DEVICE), **options)
    assert torch.equal(ids.cpu(), expected_ids)
    assert same_bits(weights.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("experts", "groups", "kept", "k"),
    [
        (16, 4, 2, 4),
        (12, 3, 2, 5),  # no power of two anywhere
        (10, 1, 1, 3),
        (6, 6, 3, 2),  # groups of one expert
        (16, 4, 4, 4),
        (8, 2, 1, 4),  # a whole group
        (5, 1, 1, 5),  # all experts
        (9, 3, 1, 1),
    ],
)
def test_route(experts: int, groups: int, kept: int, k: int, dtype: torch.dtype) -> None:
    x, weight = draw(3, 40), draw(experts, 40, seed=1).to(dtype)
    check(x, weight, draw(experts, seed=2) * 0.3, k, groups, kept)


def test_a_router_of_the_103b_model() -> None:
    check(draw(2, 64), draw(256, 64, seed=1).bfloat16() * 0.2, draw(256, seed=2) * 0.1, 8, 8, 4, 2.5)


@pytest.mark.parametrize(
    "bias",
    [
        torch.zeros(16),
        torch.tensor([0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0.0]),
        torch.tensor([1, 1, 0, 0] * 4).float(),
        -torch.arange(16).float(),
        torch.full((16,), -3.0),
        torch.full((16,), -torch.inf),
    ],
)
def test_ties_go_to_the_lower_group_and_the_lower_expert(bias: Tensor) -> None:
    check(draw(2, 8), torch.zeros(16, 8), bias, 3, 4, 2)
    check(draw(2, 8), torch.zeros(16, 8), bias, 5, 1, 1)


def test_extreme_scores() -> None:
    x = torch.tensor([[1e4, 0.0], [-1e4, 0.0], [1e-30, 1e-38]])
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1e-3, 1.0], [-1e-3, 1.0], [0.0, 0.0], [1e-5, -1.0]])
    check(x, weight, draw(6) * 0.1, 3, 2, 1, 1.1)
    # All scores are subnormal, and add up to less than what keeps the sum from being zero.
    check(x[:1], -weight[:4].abs() - 1, draw(4), 2, 1, 1)


def test_a_row_that_is_not_finite_still_names_distinct_experts() -> None:
    x = draw(3, 8)
    x[0, 0], x[1, 0] = torch.nan, torch.inf
    options = {"experts_per_token": 4, "groups": 4, "groups_kept": 2, "scale": 2.5}
    ids, _ = route(x.to(DEVICE), draw(16, 8, seed=1).to(DEVICE), torch.zeros(16, device=DEVICE), **options)
    assert torch.equal(ids.cpu(), floating.route(x, draw(16, 8, seed=1), torch.zeros(16), **options)[0])


def test_a_row_is_the_same_alone() -> None:
    x, weight, bias = draw(4, 32), draw(16, 32, seed=1), draw(16, seed=2)
    shape = RouterShape(4, 4, 2, 2.5)
    ids = torch.empty(4, 4, dtype=torch.int32, device=DEVICE)
    weights, products = torch.empty(4, 4, device=DEVICE), torch.empty(4, 16, device=DEVICE)
    launch_route(x.to(DEVICE), weight.to(DEVICE), bias.to(DEVICE), shape, weights, ids, products)
    for row in range(4):
        alone = floating.route(x[row : row + 1], weight, bias, experts_per_token=4, groups=4, groups_kept=2, scale=2.5)
        assert torch.equal(ids[row].cpu().long(), alone[0][0])
        assert same_bits(weights[row].cpu(), alone[1][0])
