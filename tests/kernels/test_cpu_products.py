"""The C++ products equal the definition bit for bit: every variant of this machine, format, shape and thread count."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from kernels import reference
from kernels.cpu import products
from kernels.cpu.variants import Variant
from kernels.formats import Format, Matrix
from kernels.ops import ExpertPool, NonFiniteError, SwiGLUWeights, Wave
from tests.kernels.scalars import same_bits
from tests.kernels.variants import RUNNABLE, set_all_threads

THREADS = (1, 2, 3)

QUANTISED = [
    f"w{bits}a8:{group}{options}"
    for bits, group, options in itertools.product(
        (4, 8), (32, 64, 128), ("", ":fp16", ":zeros", ":fp16:zeros:p2", ":p2", ":p4")
    )
]
FORMATS = [*QUANTISED, "bf16", "fp16", "fp32"]


def random_matrix(form: Format, rows: int, columns: int, seed: int) -> Matrix:
    """Any bytes that the format allows."""
    random = torch.Generator().manual_seed(seed)
    if not form.is_quantised:
        floats = torch.randn(rows, columns, generator=random)
        return Matrix.identity(
            floats.to({"bf16": torch.bfloat16, "fp16": torch.float16}.get(form.scale, torch.float32))
        )
    matrix = Matrix(form, rows, columns, torch.zeros(form.nbytes(rows, columns), dtype=torch.uint8))
    stored = torch.randint(0, 256, matrix.weight_plane.shape, generator=random)
    # At 8 bit -128 is not used; both ends are.
    extremes = torch.randint(0, 4, stored.shape, generator=random) == 0
    stored = torch.where(extremes, torch.tensor(127 if form.bits == 8 else 0), stored)
    if form.bits == 8:
        stored = torch.where(stored == 128, torch.tensor(129), stored)
    matrix.weight_plane.copy_(stored.to(torch.uint8))
    scales = torch.randn(matrix.scale_plane.shape, generator=random) * 0.02
    scales[..., 0] = 1e-7  # subnormal in fp16
    scales[..., 1] = 0.0
    matrix.scale_plane.copy_(scales.to(matrix.scale_plane.dtype))
    if matrix.zero_plane is not None:
        zeros = torch.randint(-8, 9, matrix.zero_plane.shape, generator=random)
        matrix.zero_plane.copy_(zeros.to(torch.int8))
    return matrix


def random_rows(tokens: int, width: int, seed: int) -> Tensor:
    """Rows of many magnitudes, with zero groups, subnormal ones, outliers and halves to round."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=random) * torch.randn(tokens, 1, generator=random).exp()
    x[:, width // 2 : width // 2 + 32] = 0.0
    x[: tokens // 2, :32] *= 2.0**-120
    x[-1, -32:] = torch.arange(-16, 16) + 0.5
    x[-1, -1] = 127.0
    x[0, width // 3] = -40.0
    return x


def random_network(gate_up: str, down: str, hidden: int, inner: int, seed: int) -> SwiGLUWeights:
    return SwiGLUWeights(
        _tamed(random_matrix(Format.parse(gate_up), 2 * inner, hidden, seed)),
        random_matrix(Format.parse(down), hidden, inner, seed + 1),
    )


def _tamed(matrix: Matrix) -> Matrix:
    """Gates that reach both sides of silu's bend."""
    if matrix.format.is_quantised:
        matrix.scale_plane.mul_(0.05)
        return matrix
    return Matrix.identity(matrix.floats * 0.1)


def random_pool(count: int, gate_up: str, down: str, hidden: int, inner: int) -> ExpertPool:
    networks = [random_network(gate_up, down, hidden, inner, 100 + 2 * e) for e in range(count)]
    blobs = tuple(torch.cat([network.gate_up.data, network.down.data]) for network in networks)
    first = networks[0]
    return ExpertPool(
        first.gate_up.format,
        first.down.format,
        hidden,
        inner,
        first.gate_up.nbytes,
        blobs,
        torch.tensor([blob.data_ptr() for blob in blobs]),
    )


@pytest.fixture(params=RUNNABLE, ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    set_all_threads(2)


def test_some_variant_runs_here() -> None:
    assert "portable" in [variant.name for variant in RUNNABLE]


@pytest.mark.parametrize("text", FORMATS)
def test_linear(variant: Variant, text: str) -> None:
    form = Format.parse(text)
    for (rows, columns), tokens in itertools.product(((16, 128), (80, 384), (272, 640)), (1, 2, 3, 4, 5, 8, 17)):
        matrix, x = random_matrix(form, rows, columns, rows), random_rows(tokens, columns, tokens)
        residual = torch.randn(tokens, rows, generator=torch.Generator().manual_seed(5))
        expected, added = reference.linear(x, matrix), reference.linear(x, matrix, residual)
        for threads in THREADS:
            set_all_threads(threads)
            assert same_bits(products.linear(variant, x, matrix), expected), (rows, columns, tokens, threads)
            assert same_bits(products.linear(variant, x, matrix, residual), added), (rows, columns, tokens, threads)


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32"])
def test_floats_of_any_shape(variant: Variant, name: str) -> None:
    shapes = ((32, 1), (32, 15), (64, 50), (1, 64), (3, 32), (17, 160))
    for (rows, columns), tokens in itertools.product(shapes, (1, 2, 7)):
        matrix = random_matrix(Format.parse(name), rows, columns, rows + columns)
        x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(tokens))
        assert same_bits(products.linear(variant, x, matrix), reference.linear(x, matrix))


def test_many_tokens(variant: Variant) -> None:
    matrix, x = random_matrix(Format.parse("w4a8:64"), 96, 256, 1), random_rows(300, 256, 2)
    set_all_threads(3)
    assert same_bits(products.linear(variant, x, matrix), reference.linear(x, matrix))


def test_no_tokens(variant: Variant) -> None:
    matrix = random_matrix(Format.parse("w4a8:64"), 32, 64, 1)
    assert products.linear(variant, torch.empty(0, 64), matrix).shape == (0, 32)


@pytest.mark.parametrize("gate_up", ["w4a8:64", "w8a8:32:zeros", "w4a8:128:p2", "bf16"])
@pytest.mark.parametrize("down", ["w4a8:64", "w8a8:128", "w4a8:32:fp16:p4", "fp32"])
def test_swiglu(variant: Variant, gate_up: str, down: str) -> None:
    network = random_network(gate_up, down, 256, 128, 3)
    for tokens in (1, 3, 5, 17):
        x, residual = random_rows(tokens, 256, tokens), torch.full((tokens, 256), 0.1)
        expected, added = reference.swiglu(x, network), reference.swiglu(x, network, residual)
        for threads in THREADS:
            set_all_threads(threads)
            assert same_bits(products.swiglu(variant, x, network), expected)
            assert same_bits(products.swiglu(variant, x, network, residual), added)


@pytest.mark.parametrize(("gate_up", "inner"), [("w4a8:64", 24), ("w8a8:32", 8), ("bf16", 21), ("fp32", 100)])
def test_hidden_widths_that_split_a_block_of_rows(variant: Variant, gate_up: str, inner: int) -> None:
    network, x = random_network(gate_up, "bf16", 128, inner, 3), random_rows(6, 128, 1)
    assert same_bits(products.swiglu(variant, x, network), reference.swiglu(x, network))


POOLS = [
    ("w4a8:64", "w4a8:64", "w8a8:64", "w8a8:64"),
    ("w4a8:32:zeros", "w4a8:128:zeros:fp16", "w8a8:128", "w4a8:32"),
    ("bf16", "bf16", "bf16", "bf16"),
    ("bf16", "w8a8:64", "w4a8:64", "fp32"),
]


@pytest.mark.parametrize("formats", POOLS, ids="/".join)
def test_experts(variant: Variant, formats: tuple[str, str, str, str]) -> None:
    pool = random_pool(8, *formats[:2], 256, 128)
    shared = random_network(*formats[2:], 256, 128, 7)
    for tokens in (1, 2, 5, 23):
        random = torch.Generator().manual_seed(tokens)
        x, residual = random_rows(tokens, 256, tokens), torch.randn(tokens, 256, generator=random)
        ids = torch.rand(tokens, 8, generator=random).argsort(-1)[:, :3].sort(-1).values.contiguous()
        weights = torch.rand(tokens, 3, generator=random)
        expected = reference.experts(x, ids, weights, pool, shared)
        added = reference.experts(x, ids, weights, pool, shared, residual)
        for threads in THREADS:
            set_all_threads(threads)
            assert same_bits(products.experts(variant, x, ids, weights, pool, shared), expected)
            assert same_bits(products.experts(variant, x, ids, weights, pool, shared, residual), added)


@pytest.mark.parametrize("formats", POOLS, ids="/".join)
def test_waves_of_experts_are_the_whole_layer(variant: Variant, formats: tuple[str, str, str, str]) -> None:
    pool, shared = random_pool(8, *formats[:2], 256, 128), random_network(*formats[2:], 256, 128, 7)
    for tokens in (1, 5, 23):
        random = torch.Generator().manual_seed(tokens)
        x, residual = random_rows(tokens, 256, tokens), torch.randn(tokens, 256, generator=random)
        ids = torch.rand(tokens, 8, generator=random).argsort(-1)[:, :3].sort(-1).values.contiguous()
        weights = torch.rand(tokens, 3, generator=random)
        expected = reference.experts(x, ids, weights, pool, shared, residual)
        for stops in ((8,), (3, 8), (1, 2, 7, 8), (4, 4, 8)):
            for experts in (partial(products.experts, variant), reference.experts):
                assert same_bits(in_waves(experts, x, ids, weights, pool, shared, residual, stops), expected)


def in_waves(
    experts: Callable[..., Tensor],
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    pool: ExpertPool,
    shared: SwiGLUWeights,
    residual: Tensor,
    stops: tuple[int, ...],
) -> Tensor:
    first, total = 0, torch.empty(0)
    for stop in stops:
        # An expert outside of the wave need not be in memory.
        within = torch.arange(len(pool.blobs)).ge(first) & torch.arange(len(pool.blobs)).lt(stop)
        there = replace(pool, addresses=pool.addresses * within)
        wave = Wave(first, stop, total if first else None, last=stop == len(pool.blobs))
        total, first = experts(x, ids, weights, there, shared, residual, wave=wave), stop
    return total


def test_an_expert_that_is_absent_is_an_error(variant: Variant) -> None:
    pool, shared = random_pool(4, "w4a8:64", "w4a8:64", 128, 64), random_network("w8a8:64", "w8a8:64", 128, 64, 7)
    pool.addresses[2] = 0
    x, weights = random_rows(2, 128, 1), torch.rand(2, 1)
    products.experts(variant, x, torch.tensor([[1], [3]]), weights, pool, shared)
    with pytest.raises(LookupError, match="not in memory"):
        products.experts(variant, x, torch.tensor([[1], [2]]), weights, pool, shared)


def test_all_tokens_on_one_expert(variant: Variant) -> None:
    pool, shared = random_pool(4, "w4a8:64", "w4a8:64", 128, 64), random_network("w8a8:64", "w8a8:64", 128, 64, 7)
    x, ids, weights = random_rows(9, 128, 1), torch.full((9, 1), 2), torch.rand(9, 1)
    assert same_bits(
        products.experts(variant, x, ids, weights, pool, shared), reference.experts(x, ids, weights, pool, shared)
    )


def test_experts_round_to_bf16(variant: Variant) -> None:
    pool, shared = random_pool(4, "w4a8:64", "w4a8:64", 128, 64), random_network("w8a8:64", "w8a8:64", 128, 64, 7)
    x = random_rows(6, 128, 1).bfloat16()
    ids, weights = torch.tensor([[0, 2], [1, 3], [0, 1], [2, 3], [0, 3], [1, 2]]), torch.rand(6, 2)
    found = products.experts(variant, x.float(), ids, weights, pool, shared, round_bf16=True)
    assert same_bits(found, reference.experts(x, ids, weights, pool, shared).float())


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_raises(variant: Variant, bad: float) -> None:
    x = random_rows(5, 128, 1)
    x[3, 77] = bad
    network = random_network("w4a8:64", "w8a8:64", 128, 64, 7)
    pool = random_pool(2, "w4a8:64", "w4a8:64", 128, 64)
    with pytest.raises(NonFiniteError, match="linear"):
        products.linear(variant, x, network.gate_up)
    with pytest.raises(NonFiniteError, match="swiglu"):
        products.swiglu(variant, x, network)
    with pytest.raises(NonFiniteError, match="experts"):
        products.experts(variant, x, torch.zeros(5, 1, dtype=torch.int64), torch.ones(5, 1), pool, network)


def test_a_hidden_row_that_overflows_raises(variant: Variant) -> None:
    network = SwiGLUWeights(
        Matrix.identity(torch.full((128, 64), 1e18)), random_matrix(Format.parse("w4a8:64"), 64, 64, 1)
    )
    with pytest.raises(NonFiniteError):
        products.swiglu(variant, torch.full((1, 64), 1e18), network)


def test_unquantised_rows_may_be_anything(variant: Variant) -> None:
    x = torch.full((1, 16), float("inf"))
    assert products.linear(variant, x, Matrix.identity(torch.ones(3, 16))).isinf().all()


def test_a_row_is_the_same_alone_and_among_others(variant: Variant) -> None:
    matrix, x = random_matrix(Format.parse("w4a8:64"), 64, 256, 1), random_rows(19, 256, 2)
    together = products.linear(variant, x, matrix)
    for i in range(19):
        assert same_bits(products.linear(variant, x[i : i + 1].clone(), matrix), together[i : i + 1])


def test_flushing_threads_do_not_flush(variant: Variant) -> None:
    matrix = Matrix.identity(torch.full((16, 16), 2.0**-70))
    x = torch.full((1, 16), 2.0**-60)
    torch.set_flush_denormal(True)
    try:
        found = products.linear(variant, x, matrix)
    finally:
        torch.set_flush_denormal(False)
    assert found[0, 0].item() == 2.0**-126
    assert products.linear(variant, x / 8, matrix)[0, 0].item() == 2.0**-129


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, 64, dtype=torch.bfloat16),
        torch.ones(2, 32),
        torch.ones(64),
        torch.ones(64, 2).T,
        torch.ones(1, 64, device="meta"),
    ],
    ids=["dtype", "width", "dimensions", "strides", "device"],
)
def test_rows_that_cannot_be_read_are_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="contiguous fp32"):
        products.linear(RUNNABLE[0], x, random_matrix(Format.parse("w4a8:64"), 16, 64, 1))


def test_a_matrix_elsewhere_is_refused() -> None:
    form = Format.parse("w4a8:64")
    matrix = Matrix(form, 16, 64, torch.empty(form.nbytes(16, 64), dtype=torch.uint8, device="meta"))
    with pytest.raises(ValueError, match="meta"):
        products.linear(RUNNABLE[0], torch.ones(1, 64), matrix)


def test_a_residual_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows"):
        products.linear(RUNNABLE[0], torch.ones(1, 16), Matrix.identity(torch.ones(8, 16)), torch.ones(2, 8))


def test_what_is_kept_of_a_matrix_goes_with_it() -> None:
    matrix = Matrix.identity(torch.ones(4, 16))
    kept = products.c_matrix(matrix)
    assert products.c_matrix(matrix) is kept
    gone, before = weakref.ref(matrix), len(products._matrices._values)
    del matrix
    gc.collect()
    assert gone() is None
    assert len(products._matrices._values) == before - 1


def test_two_callers_at_once(variant: Variant) -> None:
    matrix, x = random_matrix(Format.parse("w4a8:64"), 512, 512, 1), random_rows(4, 512, 2)
    expected, wrong = products.linear(variant, x, matrix), []

    def call() -> None:
        for _ in range(200):
            if not same_bits(products.linear(variant, x, matrix), expected):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_forked_child_computes(variant: Variant) -> None:
    matrix, x = random_matrix(Format.parse("w4a8:64"), 512, 512, 1), random_rows(4, 512, 2)
    set_all_threads(3)
    expected = products.linear(variant, x, matrix)

    def child() -> None:
        raise SystemExit(0 if same_bits(products.linear(variant, x, matrix), expected) else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
