"""Queries, keys and values in Triton equal the definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels import floating
from kernels.formats import Format, Matrix, quantise
from kernels.gpu.query_key_value import launch_heads, query_key_value
from kernels.ops import AttentionWeights, NonFiniteError
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits

HIDDEN = 64

# Heads, KV heads, width, half of the rotated width.
HEADS = [(4, 4, 32, 8), (4, 2, 32, 16), (8, 1, 128, 32), (3, 1, 24, 6)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made_weights(heads: int, kv_heads: int, width: int, form: str = "bf16") -> AttentionWeights:
    weight = draw((heads + 2 * kv_heads) * width, HIDDEN, seed=3)
    matrix = Matrix.identity(weight.bfloat16()) if form == "bf16" else quantise(weight, Format.parse(form))[0]
    norms = draw(HIDDEN, seed=4), draw(heads + kv_heads, width, seed=5)
    return AttentionWeights(norms[0], matrix, norms[1], 1e-6, heads, kv_heads)


def on_device(weights: AttentionWeights) -> AttentionWeights:
    matrix = weights.query_key_value
    moved = Matrix(matrix.format, matrix.rows, matrix.columns, matrix.data.to(DEVICE))
    norms = {"input_norm": weights.input_norm.to(DEVICE), "head_norm": weights.head_norm.to(DEVICE)}
    return replace(weights, query_key_value=moved, **norms)


def caches(kv_heads: int, width: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    keys = torch.full((4, kv_heads, width, size), 0.5, dtype=dtype)
    return keys, torch.full((4, kv_heads, size, width), 0.5, dtype=dtype)


def places(tokens: int, size: int) -> Tensor:
    return torch.randperm(4 * size, generator=torch.Generator().manual_seed(8))[:tokens]


@pytest.mark.parametrize(("heads", "kv_heads", "width", "half"), HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "size"), [(1, 16), (3, 64), (7, 16)])
def test_heads(heads: int, kv_heads: int, width: int, half: int, dtype: torch.dtype, tokens: int, size: int) -> None:
    weights = made_weights(heads, kv_heads, width)
    x, cos, sin = draw(tokens, HIDDEN), draw(tokens, half, seed=6), draw(tokens, half, seed=7)
    slots, expected = places(tokens, size), caches(kv_heads, width, size, dtype)
    expected_q = floating.query_key_value(x, weights, cos, sin, *expected, slots)
    normed = floating.rms_norm(x, weights.input_norm, weights.eps)
    projected = floating.linear(normed, weights.query_key_value).to(DEVICE)
    made = [cache.to(DEVICE) for cache in caches(kv_heads, width, size, dtype)]
    q = torch.empty(tokens, heads, width, device=DEVICE)
    angles = [cos.to(DEVICE), sin.to(DEVICE)]
    norm = weights.head_norm.to(DEVICE)
    launch_heads(projected, norm, weights.eps, heads, kv_heads, *angles, *made, slots.to(DEVICE), q)
    assert same_bits(q.cpu(), expected_q)
    assert same_bits(made[0].cpu(), expected[0])
    assert same_bits(made[1].cpu(), expected[1])


def test_tables_are_gathered_by_position_and_rows_without_a_slot_are_not_kept() -> None:
    heads, kv_heads, width, tokens = 4, 2, 32, 3
    projected, norm = draw(tokens, (heads + 2 * kv_heads) * width), draw(heads + kv_heads, width, seed=1)
    cos, sin, positions = draw(40, 8, seed=2), draw(40, 8, seed=3), torch.tensor([33, 0, 39])
    expected, slots = caches(kv_heads, width, 16, torch.float32), torch.tensor([5, -1, 18])

    def run(*given: Tensor, positions: Tensor | None = None) -> Tensor:
        q = torch.empty(tokens, heads, width, device=DEVICE)
        launch_heads(projected.to(DEVICE), norm.to(DEVICE), 1e-6, heads, kv_heads, *given, q, positions)
        return q.cpu()

    keys, values = (cache.to(DEVICE) for cache in expected)
    rows = run(cos[positions].to(DEVICE), sin[positions].to(DEVICE), keys.clone(), values.clone(), slots.to(DEVICE))
    gathered = run(cos.to(DEVICE), sin.to(DEVICE), keys, values, slots.to(DEVICE), positions=positions.to(DEVICE))
    assert same_bits(gathered, rows)
    changed = (keys.cpu() != 0.5).any(dim=2).any(dim=1)
    assert changed.nonzero().tolist() == [[0, 5], [1, 2]]
    assert (values.cpu() != 0.5).any(dim=3).any(dim=1).nonzero().tolist() == [[0, 5], [1, 2]]


def test_nothing_is_written_beyond_the_last_row() -> None:
    heads, kv_heads, width = 8, 1, 32
    projected, norm = (
        draw(2, (heads + 2 * kv_heads) * width).to(DEVICE),
        draw(heads + kv_heads, width, seed=1).to(DEVICE),
    )
    keys, values = (cache.to(DEVICE) for cache in caches(kv_heads, width, 16, torch.float32))
    angles, slots = draw(2, 8, seed=2).to(DEVICE), torch.tensor([3, 7], device=DEVICE)
    q = torch.full((2, heads, width), 9.0, device=DEVICE)
    launch_heads(projected[:1], norm, 1e-6, heads, kv_heads, angles, angles, keys, values, slots, q)
    assert (q[1] == 9).all()
    assert (q[0] != 9).all()


def test_the_op() -> None:
    weights, slots = made_weights(4, 2, 32, "w8a8:32"), places(3, 16)
    x, cos, sin = draw(3, HIDDEN), draw(3, 8, seed=6), draw(3, 8, seed=7)
    expected = caches(2, 32, 16, torch.bfloat16)
    expected_q = floating.query_key_value(x, weights, cos, sin, *expected, slots)
    made = [cache.to(DEVICE) for cache in caches(2, 32, 16, torch.bfloat16)]
    given = [tensor.to(DEVICE) for tensor in (cos, sin, *made, slots)]
    q = query_key_value(x.to(DEVICE), on_device(weights), *given)
    assert same_bits(q.cpu(), expected_q)
    assert same_bits(given[2].cpu(), expected[0])
    assert same_bits(given[3].cpu(), expected[1])


def test_what_is_not_finite_is_refused_and_leaves_the_cache_alone() -> None:
    x, made = draw(3, HIDDEN), [cache.to(DEVICE) for cache in caches(2, 32, 16, torch.float32)]
    x[1, 5] = torch.inf
    given = [tensor.to(DEVICE) for tensor in (draw(3, 4), draw(3, 4), *made, torch.arange(3))]
    with pytest.raises(NonFiniteError):
        query_key_value(x.to(DEVICE), on_device(made_weights(4, 2, 32, "w8a8:32")), *given)
    assert (given[2] == 0.5).all()
    assert (given[3] == 0.5).all()
