"""The reference against a scalar transcription of the definition, bit for bit, and against float64, closely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import reference, registry
from kernels.formats import FLOATS, Format, Matrix, assemble, dequantise, integers, layout_of, quantise, scales, zeros
from kernels.ops import ExpertPool, NonFiniteError, SwiGLUWeights
from tests.kernels.scalars import same_bits, scalar_exp, scalar_lanes

F32 = np.float32
ZERO, ONE = F32(0), F32(1)
QUANTISED = [
    "w4a8:32",
    "w4a8:64:p2",
    "w4a8:128",
    "w4a8:32:fp16:zeros:p4",
    "w8a8:64",
    "w8a8:32:zeros:p2",
    "w8a8:128:fp16",
]
FORMATS = [*QUANTISED, "bf16", "fp16", "fp32"]
HIDDEN, INNER, EXPERTS = 256, 128, 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(text: str, rows: int, columns: int, seed: int = 0) -> Matrix:
    """A random matrix with about unit rows; its scales have either sign, its zeros are anything."""
    format, weight = Format.parse(text), random(rows, columns, seed=seed) / columns**0.5
    if not format.is_quantised:
        return Matrix.identity(weight.to(FLOATS[text]))
    if not format.zeros:
        return quantise(weight, format)[0]
    layout, generator = layout_of(format), torch.Generator().manual_seed(seed)
    q = torch.randint(layout.lowest, layout.highest + 1, (rows, columns), generator=generator).to(torch.int8)
    groups = (rows, columns // format.group)
    z = torch.randint(-8, 9, groups, generator=generator).to(torch.int8)
    s = (random(*groups, seed=seed) / layout.highest / columns**0.5).to(FLOATS[format.scale])
    return assemble(format, q, s, z)


def network(text: str, seed: int = 0, hidden: int = HIDDEN, inner: int = INNER) -> SwiGLUWeights:
    return SwiGLUWeights(make(text, 2 * inner, hidden, seed), make(text, hidden, inner, seed + 1))


def expert_pool(networks: list[SwiGLUWeights]) -> ExpertPool:
    """Networks laid out one blob each, with a gap before `down`."""
    first = networks[0]
    offset = first.gate_up.nbytes + 64
    blobs = tuple(
        torch.cat((net.gate_up.data, torch.full((64,), 255, dtype=torch.uint8), net.down.data)) for net in networks
    )
    addresses = torch.tensor([blob.data_ptr() for blob in blobs])
    return ExpertPool(
        first.gate_up.format, first.down.format, first.down.rows, first.down.columns, offset, blobs, addresses
    )


def routing(tokens: int, per_token: int, among: int = EXPERTS, seed: int = 0) -> tuple[Tensor, Tensor]:
    ids = random(tokens, among, seed=seed).topk(per_token).indices.sort().values
    return ids, random(tokens, per_token, seed=seed + 1).abs() + 0.1


# The definition once more, one number at a time.


def scalar_quantised(group: list[F32]) -> tuple[list[int], F32]:
    amax = max(abs(v) for v in group)
    if amax < F32(2.0**-100):
        return [0] * len(group), ZERO
    r = F32(127) / amax
    return [int(np.rint(v * r)) for v in group], amax / F32(127)


@dataclass(frozen=True)
class ScalarMatrix:
    """What a matrix holds, as numbers: q, s, z by row, or floats."""

    matrix: Matrix

    def times(self, x: list[F32]) -> list[F32]:
        if not self.matrix.format.is_quantised:
            rows = self.matrix.floats.float().numpy()
            return [scalar_lanes([a * b for a, b in zip(x, row, strict=True)]) for row in rows]
        groups = [scalar_quantised(x[j : j + self.group]) for j in range(0, len(x), self.group)]
        return [self._row(n, groups) for n in range(self.matrix.rows)]

    @property
    def group(self) -> int:
        return self.matrix.format.group

    def _row(self, n: int, groups: list[tuple[list[int], F32]]) -> F32:
        q, s, z = integers(self.matrix)[n].tolist(), scales(self.matrix)[n].float().numpy(), zeros(self.matrix)
        count, partials = len(groups), self.matrix.format.partials
        sums = [ZERO] * partials
        for p in range(partials):
            for g in range(p * count // partials, (p + 1) * count // partials):
                q_a, s_a = groups[g]
                zero = 0 if z is None else int(z[n, g])
                d = sum((w - zero) * a for w, a in zip(q[g * self.group :], q_a, strict=False))
                sums[p] = sums[p] + F32(d) * (s[g] * s_a)
        if partials == 4:
            return (sums[0] + sums[1]) + (sums[2] + sums[3])
        return sums[0] + sums[1] if partials == 2 else sums[0]


def scalar_feed_forward(x: list[F32], weights: SwiGLUWeights) -> list[F32]:
    both = ScalarMatrix(weights.gate_up).times(x)
    gates, ups = both[: len(both) // 2], both[len(both) // 2 :]
    h = [(g / (ONE + scalar_exp(-g))) * u for g, u in zip(gates, ups, strict=True)]
    return ScalarMatrix(weights.down).times(h)


def scalar_experts(x: Tensor, ids: Tensor, weights: Tensor, nets: list[SwiGLUWeights], shared: SwiGLUWeights) -> Tensor:
    rows: list[Tensor] = []
    for token, row in enumerate(x.float().numpy()):
        total = [ZERO] * x.shape[1]
        for e, w in zip(ids[token].tolist(), weights[token].numpy(), strict=True):
            y = scalar_feed_forward(list(row), nets[e])
            total = [t + w * v for t, v in zip(total, y, strict=True)]
        y_shared = scalar_feed_forward(list(row), shared)
        rows.append(torch.tensor(np.array(total)).to(x.dtype) + torch.tensor(np.array(y_shared)).to(x.dtype))
    return torch.stack(rows)


def awkward(rows: int, columns: int) -> Tensor:
    """Rows with -0, subnormal groups, groups at both sides of 2^-100, ties to be rounded to even, and large numbers."""
    x = random(rows, columns, seed=7)
    x[0, :32] = torch.linspace(-1e-39, 1e-39, 32)
    x[0, 32:64] = -0.0
    x[1, :32] = torch.linspace(-1, 1, 32) * 2.0**-100
    x[1, 32:64] = torch.linspace(-0.99, 0.99, 32) * 2.0**-100
    x[2, :32] = torch.arange(32) + 0.5
    x[2, 31] = -127.0
    x[3] *= 1e18
    return x


@pytest.mark.parametrize("text", FORMATS)
def test_linear_is_the_definition_bit_for_bit(text: str) -> None:
    matrix, x = make(text, 16, 384), awkward(4, 384)
    expected = torch.tensor(np.array([ScalarMatrix(matrix).times(list(row)) for row in x.numpy()]))
    assert same_bits(reference.linear(x, matrix), expected)


@pytest.mark.parametrize("columns", [2, 16, 36])
def test_lanes_that_end_early(columns: int) -> None:
    matrix, x = make("fp32", 16, columns), random(3, columns, seed=1)
    expected = torch.tensor(np.array([ScalarMatrix(matrix).times(list(row)) for row in x.numpy()]))
    assert same_bits(reference.linear(x, matrix), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("text", ["w4a8:32", "w8a8:32:zeros:p2", "bf16"])
def test_experts_are_the_definition_bit_for_bit(text: str, dtype: torch.dtype) -> None:
    nets, shared = [network(text, 2 * seed, 64, 32) for seed in range(4)], network(text, 8, 64, 32)
    x = awkward(4, 64)[:3].to(dtype)
    ids, weights = routing(3, 3, among=4)
    expected = scalar_experts(x, ids, weights, nets, shared)
    assert same_bits(reference.experts(x, ids, weights, expert_pool(nets), shared), expected)
    residual = random(3, 64, seed=9).to(dtype)
    with_residual = reference.experts(x, ids, weights, expert_pool(nets), shared, residual)
    assert same_bits(with_residual, residual + expected)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_activations_are_quantised_as_defined(group: int) -> None:
    x = awkward(4, 256)
    q, s = reference.quantise_activation(x, group)
    for row in range(4):
        for g in range(256 // group):
            expected_q, expected_s = scalar_quantised(list(x[row, g * group : (g + 1) * group].numpy()))
            assert q[row, g * group : (g + 1) * group].tolist() == expected_q
            assert s[row, g].item() == expected_s
            assert not torch.signbit(s[row, g])
    assert q.dtype == torch.int8
    assert s.dtype == torch.float32


def test_halves_go_to_even_and_small_groups_to_zero() -> None:
    x = torch.zeros(1, 128)
    x[0, :6] = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -127.0])
    x[0, 32], x[0, 64] = 2.0**-100, float(np.nextafter(F32(2.0**-100), ZERO))
    q, s = reference.quantise_activation(x, 32)
    assert q[0, :6].tolist() == [0, 2, 2, 0, -2, -127]
    assert q[0, 32] == 127
    assert q[0, 33:].eq(0).all()
    assert s[0].tolist() == [1.0, F32(2.0**-100) / F32(127), 0.0, 0.0]


def test_a_reciprocal_is_multiplied_with() -> None:
    """Near a half, dividing by the scale would give other integers."""
    amax = random(2000, 1, seed=3).abs() + 0.1
    halves = (torch.arange(31) * 4 + 0.5) * (amax / 127)
    x = torch.cat((amax, halves), dim=1)
    q, s = reference.quantise_activation(x, 32)
    assert q.tolist() == [scalar_quantised(list(row))[0] for row in x.numpy()]
    assert not torch.equal(q, torch.round(x / s).to(torch.int8))


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    x = random(5, 128)
    x[3, 100] = bad
    with pytest.raises(NonFiniteError, match="row 3"):
        reference.linear(x, make("w4a8:64", 16, 128))


@pytest.mark.parametrize("text", QUANTISED)
def test_dots_are_exact_integers(text: str) -> None:
    """The largest that there can be, too."""
    matrix = make(text, 16, 256)
    z = torch.zeros_like(scales(matrix), dtype=torch.int8) if zeros(matrix) is None else zeros(matrix)
    weights = integers(matrix).int() - z.int().repeat_interleave(matrix.format.group, 1)
    weights[0] = -135
    q = reference.quantise_activation(random(5, 256), matrix.format.group)[0]
    q[0] = 127
    by_group = weights.float().view(16, -1, matrix.format.group)
    dots = reference.group_dots(q, by_group)
    exact = (q.long()[:, None] * weights.long()).view(5, 16, -1, matrix.format.group).sum(-1)
    assert torch.equal(dots.long(), exact.permute(2, 0, 1))
    assert torch.equal(dots, dots.round())


def dense(x: Tensor, weights: SwiGLUWeights) -> Tensor:
    """The network in float64, without quantised activations."""
    gate, up = (x.double() @ dequantise(weights.gate_up).double().T).chunk(2, dim=-1)
    return (gate * torch.sigmoid(gate) * up) @ dequantise(weights.down).double().T


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).norm() / b.norm())


@pytest.mark.parametrize("text", FORMATS)
def test_linear_is_near_float64(text: str) -> None:
    x, matrix = random(7, 512), make(text, 48, 512, seed=1)
    error = relative(reference.linear(x, matrix), x.double() @ dequantise(matrix).double().T)
    assert error < (0.02 if matrix.format.is_quantised else 1e-6)


@pytest.mark.parametrize("text", FORMATS)
def test_swiglu_is_near_float64(text: str) -> None:
    x, weights = random(7, HIDDEN), network(text)
    error = relative(reference.swiglu(x, weights), dense(x, weights))
    assert error < (0.05 if weights.down.format.is_quantised else 1e-5)


@pytest.mark.parametrize("text", FORMATS)
def test_experts_are_near_float64(text: str) -> None:
    nets, shared, x = [network(text, 2 * seed) for seed in range(EXPERTS)], network(text, 99), random(9, HIDDEN)
    ids, weights = routing(9, 3)
    expected = dense(x, shared)
    for token, row in enumerate(ids.tolist()):
        for e, w in zip(row, weights[token], strict=True):
            expected[token] += w.double() * dense(x[token], nets[e])
    error = relative(reference.experts(x, ids, weights, expert_pool(nets), shared), expected)
    assert error < (0.05 if shared.down.format.is_quantised else 1e-5)


def assert_rows_independent(op: Callable[[Tensor], Tensor], rows: int) -> None:
    """op of row numbers: each alone, among others and in any order has the same bits."""
    every = torch.arange(rows)
    whole = op(every)
    for row in (0, rows // 2, rows - 1):
        assert same_bits(op(every[row : row + 1]), whole[row : row + 1])
    order = random(rows, seed=5).argsort()
    assert same_bits(op(order), whole[order])
    assert same_bits(op(every[2:7]), whole[2:7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("text", FORMATS)
def test_a_row_alone_is_a_row_among_others(text: str, dtype: torch.dtype) -> None:
    x = random(19, HIDDEN).to(dtype)
    weights, nets = network(text), [network(text, 2 * seed) for seed in range(3)]
    pool, (ids, shares) = expert_pool(nets), routing(19, 2, among=3)
    assert_rows_independent(lambda rows: reference.linear(x[rows], weights.gate_up), 19)
    assert_rows_independent(lambda rows: reference.experts(x[rows], ids[rows], shares[rows], pool, weights), 19)


@pytest.mark.parametrize("text", ["w4a8:64", "w8a8:32:zeros:p2", "bf16"])
def test_chunks_change_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = random(19, HIDDEN), network(text)
    whole = reference.swiglu(x, weights)
    monkeypatch.setattr(reference, "LARGEST", 5 * 32 * HIDDEN)
    monkeypatch.setattr(reference, "UNPACKED", 32 * HIDDEN)
    monkeypatch.setattr(reference, "CACHED", 5 * 16 * 32)
    assert same_bits(reference.swiglu(x, weights), whole)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int) -> None:
    x, weights = random(40, HIDDEN), network("w4a8:64")
    whole, before = reference.swiglu(x, weights), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert same_bits(reference.swiglu(x, weights), whole)
    finally:
        torch.set_num_threads(before)


def test_all_tokens_on_one_expert_and_only_touched_ones_are_read() -> None:
    nets, shared, x = [network("w4a8:64", 2 * seed) for seed in range(3)], network("w8a8:64", 99), random(6, HIDDEN)
    pool = expert_pool(nets)
    for untouched in (0, 2):
        pool.blobs[untouched].fill_(255)
    out = reference.experts(x, torch.ones(6, 1, dtype=torch.int64), torch.full((6, 1), 0.5), pool, shared)
    expected = reference.swiglu(x, nets[1]) * 0.5 + reference.swiglu(x, shared)
    assert out.isfinite().all()
    assert same_bits(out, expected)


@pytest.mark.parametrize("op", ["linear", "swiglu", "experts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_residual_is_added_last(op: str, dtype: torch.dtype) -> None:
    """To what has been rounded: in bf16 a single rounding at the end gives other bits somewhere."""
    x, weights, residual = random(19, HIDDEN).to(dtype), network("w4a8:64"), random(19, HIDDEN, seed=3).to(dtype)
    arguments: dict[str, tuple[Any, ...]] = {
        "linear": (x, make("w4a8:64", HIDDEN, HIDDEN)),
        "swiglu": (x, weights),
        "experts": (x, *routing(19, 2), expert_pool([network("w4a8:64", seed) for seed in range(EXPERTS)]), weights),
    }
    function = getattr(reference, op)
    out = function(*arguments[op])
    assert out.dtype == dtype
    assert same_bits(function(*arguments[op], residual), residual + out)


def test_bfloat16_rounds_the_sum_and_the_shared_expert_apart() -> None:
    x, shared, pool = random(19, HIDDEN).bfloat16(), network("w4a8:64", 9), expert_pool([network("w4a8:64")])
    ids, weights = torch.zeros(19, 1, dtype=torch.int64), torch.ones(19, 1)
    routed, beside = (reference.feed_forward(x.float(), w) for w in (pool.expert(0), shared))
    out = reference.experts(x, ids, weights, pool, shared)
    assert same_bits(out, routed.bfloat16() + beside.bfloat16())
    assert not same_bits(out, (routed + beside).bfloat16())


def test_no_tokens() -> None:
    x, weights = torch.zeros(0, HIDDEN), network("w4a8:64")
    ids, shares = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2)
    assert reference.linear(x, weights.gate_up).shape == (0, 2 * INNER)
    assert reference.experts(x, ids, shares, expert_pool([weights]), weights).shape == (0, HIDDEN)


@pytest.mark.parametrize("op", list(reference.OPS))
def test_the_reference_runs_where_nothing_else_does(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", ("kernels.reference",))
    # Below it are those that must be asked for by name.
    lowest = [one for one in registry.implementations(op) if one.rank >= 0][-1]
    assert (lowest.name, lowest.function) == ("torch", reference.OPS[op])
    assert lowest.supports(torch.device("cpu"), torch.bfloat16, None) is None
