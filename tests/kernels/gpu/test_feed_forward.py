"""The feed-forward ops in Triton equal the definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels import reference
from kernels.gpu import feed_forward
from kernels.ops import ExpertPool, NonFiniteError, SwiGLUWeights
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.gpu.test_experts import choices, pool_of
from tests.kernels.scalars import same_bits
from tests.kernels.test_cpu_products import in_waves, random_network, random_rows

# Of the pool, then of the shared network; M and F. Floats take the interpreter long.
POOLS = [
    (("w4a8:64", "w4a8:64", "w8a8:64", "w8a8:64"), 128, 64),
    (("w4a8:32:zeros", "w4a8:128:fp16:p2", "w4a8:64", "w4a8:32"), 64, 128),
    (("bf16", "w8a8:32", "w8a8:32", "w8a8:32"), 32, 32),
    (("w4a8:32", "fp16", "w8a8:32", "bf16"), 32, 16),
]


def on_device(network: SwiGLUWeights) -> SwiGLUWeights:
    gate_up, down = network.gate_up, network.down
    return SwiGLUWeights(
        replace(gate_up, data=gate_up.data.to(DEVICE)),
        replace(down, data=down.data.to(DEVICE)),
    )


def on_host(pool: ExpertPool) -> ExpertPool:
    blobs = tuple(blob.cpu() for blob in pool.blobs)
    return replace(pool, blobs=blobs, addresses=torch.tensor([blob.data_ptr() for blob in blobs]))


@pytest.mark.parametrize(
    ("gate_up", "down", "inner"),
    [
        ("w8a8:64", "w4a8:64", 64),
        ("w4a8:32:p2", "w8a8:128:fp16", 128),
        ("w4a8:32:zeros", "fp32", 16),
        ("bf16", "w8a8:32", 32),
        ("fp16", "bf16", 21),
    ],
)
def test_swiglu(gate_up: str, down: str, inner: int) -> None:
    network = random_network(gate_up, down, 64, inner, 3)
    for tokens, residual in ((1, None), (3, torch.full((3, 64), 0.1))):
        x = random_rows(tokens, 64, tokens)
        added = None if residual is None else residual.to(DEVICE)
        got = feed_forward.swiglu(x.to(DEVICE), on_device(network), added)
        assert same_bits(got.cpu(), reference.swiglu(x, network, residual))


def test_rows_and_columns_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a prompt's gates and outputs would not fit."""
    monkeypatch.setattr(feed_forward, "LARGEST", 4 * 2 * 64 * 5)
    pool, shared = pool_of("w4a8:64", "w4a8:64", 192, 64), random_network("w8a8:64", "w8a8:64", 192, 64, 7)
    x, ids = random_rows(12, 192, 12), choices(12)
    weights = torch.rand(12, 2, generator=torch.Generator().manual_seed(3))
    got = feed_forward.experts(x.to(DEVICE), ids.to(DEVICE), weights.to(DEVICE), pool, on_device(shared))
    assert same_bits(got.cpu(), reference.experts(x, ids, weights, on_host(pool), shared))


def networks_of(case: tuple[tuple[str, str, str, str], int, int]) -> tuple[ExpertPool, SwiGLUWeights]:
    formats, hidden, inner = case
    return pool_of(*formats[:2], hidden, inner), random_network(*formats[2:], hidden, inner, 7)


@pytest.mark.parametrize(
    ("case", "tokens"),
    [(POOLS[0], 1), (POOLS[0], 4), (POOLS[1], 1), (POOLS[1], 4), (POOLS[2], 3), (POOLS[3], 3)],
    ids=lambda case: "/".join(case[0]) if isinstance(case, tuple) else str(case),
)
def test_experts(case: tuple[tuple[str, str, str, str], int, int], tokens: int) -> None:
    pool, shared = networks_of(case)
    random = torch.Generator().manual_seed(tokens)
    x, ids = random_rows(tokens, pool.hidden, tokens), choices(tokens)
    residual = torch.randn(tokens, pool.hidden, generator=random)
    weights = torch.rand(tokens, 2, generator=random)
    on = [part.to(DEVICE) for part in (x, ids, weights)]
    expected = reference.experts(x, ids, weights, on_host(pool), shared, residual)
    added = residual.to(DEVICE)
    assert same_bits(feed_forward.experts(*on, pool, on_device(shared), added).cpu(), expected)
    stops = (1, 2, 3, 4, 5) if tokens == 1 else (2, 4, 4, 5)
    assert same_bits(in_waves(feed_forward.experts, *on, pool, on_device(shared), added, stops).cpu(), expected)


def test_all_tokens_on_the_same_experts() -> None:
    pool, shared = pool_of("w4a8:64", "w4a8:64", 64, 64), random_network("w8a8:64", "w8a8:64", 64, 64, 7)
    x, ids, weights = random_rows(33, 64, 1), torch.tensor([[1, 4]]).repeat(33, 1), torch.rand(33, 2)
    got = feed_forward.experts(x.to(DEVICE), ids.to(DEVICE), weights.to(DEVICE), pool, on_device(shared))
    assert same_bits(got.cpu(), reference.experts(x, ids, weights, on_host(pool), shared))


@pytest.mark.parametrize("case", [POOLS[0], POOLS[2]], ids=["integers", "floats"])
def test_an_absent_expert_is_refused_where_it_is_used(case: tuple[tuple[str, str, str, str], int, int]) -> None:
    pool, shared = networks_of(case)
    addresses = pool.addresses.clone()
    addresses[3] = 0
    there = replace(pool, addresses=addresses)
    x, weights = random_rows(2, pool.hidden, 2).to(DEVICE), torch.full((2, 2), 0.5, device=DEVICE)
    used, unused = torch.tensor([[0, 1], [1, 3]]).to(DEVICE), torch.tensor([[0, 1], [1, 4]]).to(DEVICE)
    if pool.gate_up.is_quantised:
        feed_forward.experts(x, unused, weights, there, on_device(shared))
    with pytest.raises(LookupError):
        feed_forward.experts(x, used, weights, there, on_device(shared))


@pytest.mark.parametrize("case", [POOLS[0], POOLS[2]], ids=["integers", "floats"])
def test_what_is_not_finite_is_refused(case: tuple[tuple[str, str, str, str], int, int]) -> None:
    pool, shared = networks_of(case)
    shared = on_device(shared)
    x, weights = random_rows(2, pool.hidden, 2).to(DEVICE), torch.ones(2, 2)
    ids = torch.tensor([[0, 1], [1, 3]]).to(DEVICE)
    x[1, 5] = torch.nan
    with pytest.raises(NonFiniteError):
        feed_forward.swiglu(x, shared)
    with pytest.raises(NonFiniteError):
        feed_forward.experts(x, ids, weights.to(DEVICE), pool, shared)


def test_no_tokens() -> None:
    pool, shared = pool_of("w4a8:64", "w4a8:64"), on_device(random_network("w8a8:64", "w8a8:64", 128, 128, 7))
    x, ids = torch.empty(0, 128, device=DEVICE), torch.empty(0, 2, dtype=torch.int64, device=DEVICE)
    assert feed_forward.experts(x, ids, torch.empty(0, 2, device=DEVICE), pool, shared).shape == (0, 128)
    assert feed_forward.swiglu(x, shared).shape == (0, 128)
