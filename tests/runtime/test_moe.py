"""The router against a loop over scalars."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.registry import implementations

CPU = torch.device("cpu")


def params(op: str) -> list[Any]:
    found = [i for i in implementations(op) if i.supports(CPU, torch.float32, None) is None]
    return [pytest.param(i.function, id=i.name) for i in found]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scalar_route(scores: list[float], bias: list[float], k: int, groups: int, kept: int) -> dict[int, float]:
    """Reference section 7 with Python numbers; ties to the lower index. Weights by expert id, before scaling."""
    count, size = len(scores), len(scores) // groups
    choice = [s + b for s, b in zip(scores, bias, strict=True)]
    strength = []
    for g in range(groups):
        two_best = sorted(choice[g * size : (g + 1) * size], reverse=True)[:2]
        strength.append(sum(two_best) if groups > 1 else 0.0)
    best_groups = sorted(range(groups), key=lambda g: (-strength[g], g))[:kept]
    allowed = [e for e in range(count) if e // size in best_groups]
    chosen = sorted(allowed, key=lambda e: (-choice[e], e))[:k]
    total = sum(scores[e] for e in chosen)
    return {e: scores[e] / total for e in chosen}


CASES = [(256, 8, 8, 4), (16, 4, 4, 2), (16, 2, 1, 1), (12, 3, 3, 2), (8, 2, 2, 2), (8, 8, 2, 2)]


def check(op: Any, x: Tensor, weight: Tensor, bias: Tensor, case: tuple[int, int, int, int]) -> None:
    _, k, groups, kept = case
    ids, weights = op(x, weight, bias, experts_per_token=k, groups=groups, groups_kept=kept, scale=2.5)
    scores = torch.sigmoid(x @ weight.T)
    assert torch.equal(ids, ids.sort(dim=-1).values)
    assert torch.allclose(weights.sum(-1), torch.tensor(2.5), atol=1e-5)
    for row in range(x.shape[0]):
        expected = scalar_route(scores[row].tolist(), bias.tolist(), k, groups, kept)
        assert ids[row].tolist() == sorted(expected)
        wanted = torch.tensor([2.5 * expected[e] for e in ids[row].tolist()])
        assert torch.allclose(weights[row], wanted, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", params("route"))
def test_router(op: Any, case: tuple[int, int, int, int]) -> None:
    check(op, random(40, 32), random(case[0], 32, seed=1), 0.2 * random(case[0], seed=2), case)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", params("route"))
def test_all_choices_negative(op: Any, case: tuple[int, int, int, int]) -> None:
    """Masking with zero instead of minus infinity would let experts of dropped groups win."""
    check(op, random(40, 32), random(case[0], 32, seed=1), -1.5 - 0.2 * random(case[0], seed=2).abs(), case)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", params("route"))
def test_ties_go_to_the_lower_id(op: Any, case: tuple[int, int, int, int]) -> None:
    experts, k, groups, kept = case
    bias = torch.zeros(experts)
    check(op, torch.zeros(3, 32), random(experts, 32, seed=1), bias, case)
    ids, _ = op(
        torch.zeros(1, 32),
        random(experts, 32),
        bias,
        experts_per_token=k,
        groups=groups,
        groups_kept=kept,
        scale=1.0,
    )
    assert ids[0].tolist() == list(range(k))


@pytest.mark.parametrize("op", params("route"))
def test_bias_chooses_but_does_not_weigh(op: Any) -> None:
    x, weight = random(20, 32), random(8, 32, seed=1)
    settings: dict[str, Any] = {"experts_per_token": 8, "groups": 2, "groups_kept": 2, "scale": 2.5}
    _, plain = op(x, weight, torch.zeros(8), **settings)
    _, biased = op(x, weight, random(8, seed=2), **settings)
    assert torch.equal(plain, biased)


@pytest.mark.parametrize("op", params("route"))
def test_bias_is_not_rounded(op: Any) -> None:
    """A difference that bfloat16 cannot hold decides between two experts."""
    bias = torch.tensor([1.0, 1.0 + 1e-4])
    ids, _ = op(torch.zeros(1, 16), torch.zeros(2, 16), bias, experts_per_token=1, groups=1, groups_kept=1, scale=1.0)
    assert ids.tolist() == [[1]]
    assert bias.bfloat16()[0] == bias.bfloat16()[1]


@pytest.mark.parametrize("op", params("route"))
def test_routing_does_not_depend_on_the_batch(op: Any) -> None:
    x, weight, bias = random(50, 32), random(24, 32, seed=1), random(24, seed=2)
    settings: dict[str, Any] = {"experts_per_token": 4, "groups": 4, "groups_kept": 2, "scale": 2.5}
    ids, weights = op(x, weight, bias, **settings)
    for row in range(50):
        alone = op(x[row : row + 1], weight, bias, **settings)
        assert torch.equal(alone[0][0], ids[row])
        assert torch.equal(alone[1][0], weights[row])
