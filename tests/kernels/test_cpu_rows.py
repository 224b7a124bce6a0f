"""Norm, router, attention and head in C++: equal to the torch reference in every bit, on every variant and thread count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels import floating
from kernels.cpu import Variant, rows
from kernels.formats import Format, Matrix, quantise
from kernels.ops import AttentionPlan, AttentionWeights, Candidates, NonFiniteError, Restriction
from tests.kernels.scalars import same_bits
from tests.kernels.variants import RUNNABLE, set_all_threads

THREADS = (1, 2, 3)

pytestmark = pytest.mark.skipif(not RUNNABLE, reason="no variant compiles and runs on this machine")


@pytest.fixture(params=RUNNABLE, ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = {variant.name: variant.library.aa_threads() for variant in RUNNABLE}
    yield
    for variant in RUNNABLE:
        variant.library.aa_set_threads(before[variant.name])


def each_thread_count(counts: Sequence[int] = THREADS) -> Iterator[int]:
    for count in counts:
        set_all_threads(count)
        yield count


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [1, 16, 21, 100, 128, 2048])
@pytest.mark.parametrize("tokens", [1, 5, 70])
def test_norm(variant, width, tokens):
    x = draw(tokens, width) * torch.logspace(-22, 15, tokens)[:, None]
    for weight in (draw(width, seed=1), draw(tokens, width, seed=2)):
        expected = floating.rms_norm(x, weight, 1e-6)
        for threads in each_thread_count():
            assert same_bits(rows.rms_norm(variant, x, weight, 1e-6), expected), threads


ROUTERS = [(8, 1, 1, 2), (8, 2, 1, 1), (16, 4, 2, 3), (16, 16, 5, 4), (256, 8, 4, 8), (256, 1, 1, 8)]


@pytest.mark.parametrize(("experts", "groups", "kept", "k"), ROUTERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [96, 100])
def test_route(variant, experts, groups, kept, k, dtype, hidden):
    weight, bias = (draw(experts, hidden, seed=1) / hidden**0.5).to(dtype), draw(experts, seed=2) * 0.2 - 0.3
    weight[experts // 2 :], bias[experts // 2 :] = weight[: experts // 2], bias[: experts // 2]
    for tokens in (1, 3, 37):
        x = draw(tokens, hidden)
        x[tokens // 2] = 0
        options = {"experts_per_token": k, "groups": groups, "groups_kept": kept, "scale": 2.5}
        expected_ids, expected = floating.route(x, weight, bias, **options)
        for threads in each_thread_count():
            ids, weights = rows.route(variant, x, weight, bias, **options)
            assert torch.equal(ids, expected_ids), threads
            assert same_bits(weights, expected), threads


def test_route_of_a_row_that_is_not_finite_still_names_distinct_experts(variant):
    x, weight = draw(2, 32), draw(16, 32, seed=1)
    x[0, 3] = torch.nan
    options = {"experts_per_token": 4, "groups": 4, "groups_kept": 2, "scale": 1.0}
    ids, _ = rows.route(variant, x, weight, torch.zeros(16), **options)
    assert torch.equal(ids, floating.route(x, weight, torch.zeros(16), **options)[0])
    assert ids[0].unique().numel() == 4


def attention_weights(form: str, hidden: int, heads: int, kv_heads: int, width: int) -> AttentionWeights:
    weight = draw((heads + 2 * kv_heads) * width, hidden, seed=3) / hidden**0.5
    matrix = quantise(weight, Format.parse(form))[0] if form.startswith("w") else Matrix.identity(weight.bfloat16())
    norms = draw(hidden, seed=4), draw(heads + kv_heads, width, seed=5)
    return AttentionWeights(norms[0], matrix, norms[1], 1e-6, heads, kv_heads)


@pytest.mark.parametrize("form", ["w8a8:64", "w4a8:32", "bf16"])
@pytest.mark.parametrize(("heads", "kv_heads", "width", "half"), [(4, 4, 16, 4), (8, 2, 32, 16), (8, 1, 128, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_query_key_value(variant, form, heads, kv_heads, width, half, dtype):
    weights, size = attention_weights(form, 128, heads, kv_heads, width), 16
    for tokens in (1, 3, 37):
        x, cos, sin = draw(tokens, 128), draw(tokens, half, seed=6), draw(tokens, half, seed=7)
        slots = torch.randperm(4 * size, generator=torch.Generator().manual_seed(8))[:tokens]
        expected = empty_cache(kv_heads, width, size, dtype)
        expected_q = floating.query_key_value(x, weights, cos, sin, *expected, slots)
        for threads in each_thread_count():
            made = empty_cache(kv_heads, width, size, dtype)
            assert same_bits(rows.query_key_value(variant, x, weights, cos, sin, *made, slots), expected_q), threads
            assert same_bits(made[0], expected[0]), threads
            assert same_bits(made[1], expected[1]), threads


def empty_cache(kv_heads: int, width: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    keys = torch.full((4, kv_heads, width, size), 0.5, dtype=dtype)
    return keys, torch.full((4, kv_heads, size, width), 0.5, dtype=dtype)


def test_query_key_value_refuses_what_is_not_finite_and_leaves_the_cache_alone(variant):
    weights, cache = attention_weights("w8a8:64", 128, 4, 2, 16), empty_cache(2, 16, 16, torch.float32)
    x = draw(3, 128)
    x[1, 5] = torch.inf
    with pytest.raises(NonFiniteError):
        rows.query_key_value(variant, x, weights, draw(3, 4), draw(3, 4), *cache, torch.arange(3))
    assert (cache[0] == 0.5).all()
    assert (cache[1] == 0.5).all()


def plan(spans: Sequence[tuple[int, int]], size: int, blocks: int) -> AttentionPlan:
    """Spans (rows, context) in blocks taken in random order."""
    order = torch.randperm(blocks, generator=torch.Generator().manual_seed(9)).tolist()
    listed, table, start = [], [], 0
    for length, context in spans:
        listed.append((start, length, context, len(table)))
        table += [order.pop() for _ in range(-(-(context + length) // size))]
        start += length
    return AttentionPlan(torch.tensor(listed, dtype=torch.int32), torch.tensor(table, dtype=torch.int32))


HEADS = [(16, 3, 3), (16, 8, 2), (32, 6, 1), (32, 8, 1), (128, 2, 2), (128, 4, 1), (128, 8, 1)]
SPANS = [
    [(1, 0)],
    [(1, 15), (1, 16), (1, 300), (1, 0), (1, 63)],
    [(1, 299)],
    [(41, 0)],
    [(5, 300), (1, 3), (19, 77), (16, 48)],
]


@pytest.mark.parametrize(("width", "heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention(variant, width, heads, kv_heads, size, dtype):
    keys = draw(80, kv_heads, width, size, seed=1).to(dtype)
    values = draw(80, kv_heads, size, width, seed=2).to(dtype)
    for spans in SPANS:
        batch = plan(spans, size, 80)
        q = draw(sum(length for length, _ in spans), heads, width, seed=3) * 2
        expected = floating.paged_attention(q, keys, values, batch, width**-0.5)
        for threads in each_thread_count():
            made = rows.paged_attention(variant, q, keys, values, batch, width**-0.5)
            assert same_bits(made, expected), (spans, threads)


def test_attention_over_a_context_that_takes_several_passes_over_the_queries(variant):
    keys, values = draw(2560, 1, 16, 16, seed=1), draw(2560, 1, 16, 16, seed=2)
    batch, q = plan([(18, 40_000)], 16, 2560), draw(18, 2, 16, seed=3)
    expected = floating.paged_attention(q, keys, values, batch, 0.25)
    for threads in each_thread_count((1, 2)):
        assert same_bits(rows.paged_attention(variant, q, keys, values, batch, 0.25), expected), threads


def test_attention_of_one_row_shared_by_more_threads_than_heads(variant):
    keys, values = draw(20, 2, 32, 64, seed=1), draw(20, 2, 64, 32, seed=2)
    batch, q = plan([(1, 700)], 64, 20), draw(1, 8, 32, seed=3)
    expected = floating.paged_attention(q, keys, values, batch, 0.2)
    for threads in each_thread_count((1, 3, 7)):
        assert same_bits(rows.paged_attention(variant, q, keys, values, batch, 0.2), expected), threads


@pytest.mark.parametrize("width", [24, 40])
def test_attention_with_a_width_that_is_no_multiple_of_the_lanes(variant, width):
    keys, values = draw(8, 2, width, 16, seed=1), draw(8, 2, 16, width, seed=2)
    for spans in ([(1, 50)], [(21, 30)]):
        batch, q = plan(spans, 16, 8), draw(spans[0][0], 4, width, seed=3)
        expected = floating.paged_attention(q, keys, values, batch, 0.3)
        for threads in each_thread_count():
            assert same_bits(rows.paged_attention(variant, q, keys, values, batch, 0.3), expected), threads


def test_keys_beyond_a_row_change_nothing(variant):
    keys, values = draw(3, 1, 32, 16, seed=1), draw(3, 1, 16, 32, seed=2)
    batch, q = plan([(3, 30)], 16, 3), draw(3, 4, 32, seed=3)
    before = rows.paged_attention(variant, q, keys, values, batch, 0.2)
    last = batch.block_table[-1]
    keys[last, :, :, 1:], values[last, :, 1:] = 1e30, -1e30
    assert same_bits(before, rows.paged_attention(variant, q, keys, values, batch, 0.2))


def same_candidates(a: Candidates, b: Candidates) -> bool:
    return (
        same_bits(a.all_scores, b.all_scores)
        and torch.equal(a.ids, b.ids)
        and same_bits(a.scores, b.scores)
        and torch.equal(a.totals.view(torch.int64), b.totals.view(torch.int64))
    )


def restrictions(count: int, vocabulary: int) -> list[Restriction]:
    """Masks from all to a few ids, seen ids that repeat and run past the size, and temperatures."""
    shares = [None, 0.5, 0.01, 1.0, 0.002]
    made = []
    for r in range(count):
        share, noise = shares[r % 5], torch.rand(vocabulary, generator=torch.Generator().manual_seed(r))
        seen = torch.randint(0, vocabulary, (60,), generator=torch.Generator().manual_seed(50 + r))
        made.append(
            Restriction(
                None if share is None else noise < share,
                None if r % 3 == 1 else seen,
                (1.0, 1.3, 0.8)[r % 3],
                (0.0, 0.7, 1.5)[r % 3 if count > 1 else 1],
            )
        )
    return made


@pytest.mark.parametrize("form", ["w8a8:64", "w4a8:64", "bf16"])
@pytest.mark.parametrize(("vocabulary", "size"), [(832, 801), (832, 832), (17_008, 17_000)])
def test_head(variant, form, vocabulary, size):
    matrix = head_matrix(form, vocabulary)
    for count in (1, 11):
        x, given = draw(count, 64, seed=1), restrictions(count, vocabulary)
        for candidates in (1, 20, size):
            expected = floating.head(x, matrix, size, given, candidates)
            for threads in each_thread_count():
                made = rows.head(variant, x, matrix, size, given, candidates)
                assert same_candidates(made, expected), (count, candidates, threads)


def head_matrix(form: str, vocabulary: int) -> Matrix:
    weight = draw(vocabulary, 64)
    return quantise(weight, Format.parse(form))[0] if form.startswith("w") else Matrix.identity(weight.bfloat16())


def exact_scores(scores: Tensor) -> tuple[Tensor, Matrix]:
    """A row and a matrix [V, 16] whose product is `scores`."""
    return torch.eye(16)[:1], Matrix.identity(torch.outer(scores, torch.eye(16)[0]))


def test_head_breaks_ties_in_id_order(variant):
    x, matrix = exact_scores((torch.arange(40_000) % 7 - 3).float())
    for restriction in (Restriction(), Restriction(torch.arange(40_000) % 7 < 4, temperature=0.5)):
        for count in (1, 20, 6000):
            expected = floating.head(x, matrix, 39_999, [restriction], count)
            for threads in each_thread_count():
                made = rows.head(variant, x, matrix, 39_999, [restriction], count)
                assert same_candidates(made, expected), (count, threads)


def test_head_with_fewer_allowed_than_asked_for_fills_up_with_minus_infinity(variant):
    x, matrix = exact_scores(draw(64))
    allowed = torch.zeros(64, dtype=torch.bool)
    allowed[[5, 9]] = True
    given = [Restriction(allowed, temperature=1.0)]
    made = rows.head(variant, x, matrix, 50, given, 6)
    assert same_candidates(made, floating.head(x, matrix, 50, given, 6))
    assert made.scores[0, 2:].tolist() == [-torch.inf] * 4
    assert made.ids[0, 2:].tolist() == [0, 1, 2, 3]


def test_head_shows_scores_that_are_no_numbers_first(variant):
    scores = draw(100)
    scores[[7, 40]], scores[11] = torch.nan, torch.inf
    x, matrix = torch.ones(1, 16), Matrix.identity(scores[:, None].expand(100, 16).contiguous())
    made = rows.head(variant, x, matrix, 100, [Restriction()], 4)
    assert made.ids[0, :3].tolist() == [7, 40, 11]
    assert torch.equal(made.ids, floating.head(x, matrix, 100, [Restriction()], 4).ids)


def test_head_refuses_a_row_that_is_not_finite(variant):
    x = draw(2, 64)
    x[1, 60] = torch.nan
    with pytest.raises(NonFiniteError):
        rows.head(variant, x, head_matrix("w8a8:64", 832), 801, [Restriction()] * 2, 5)


def test_what_the_kernels_cannot_read_is_refused(variant):
    x, weights = draw(3, 128), attention_weights("w8a8:64", 128, 4, 2, 16)
    keys, values = empty_cache(2, 16, 16, torch.float32)
    cos = draw(3, 4)
    with pytest.raises(ValueError, match="contiguous"):
        rows.rms_norm(variant, x.T.contiguous().T, draw(128), 1e-6)
    with pytest.raises(ValueError, match="weight"):
        rows.rms_norm(variant, x, draw(64), 1e-6)
    with pytest.raises(ValueError, match="cache"):
        rows.query_key_value(variant, x, weights, cos, cos, *empty_cache(2, 16, 24, torch.float32), torch.arange(3))
    with pytest.raises(ValueError, match="cache"):
        rows.query_key_value(variant, x, weights, cos, cos, *empty_cache(3, 16, 16, torch.float32), torch.arange(3))
    with pytest.raises(ValueError, match="rows"):
        rows.query_key_value(variant, x, weights, cos, cos, keys, values, torch.arange(2))
    with pytest.raises(ValueError, match="allowed"):
        rows.head(variant, x[:1, :64], head_matrix("bf16", 832), 801, [Restriction(torch.ones(10).bool())], 5)
    with pytest.raises(ValueError, match="size"):
        rows.head(variant, x[:1, :64], head_matrix("bf16", 832), 900, [Restriction()], 5)
    with pytest.raises(ValueError, match="bfloat16"):
        rows.query_key_value(
            variant,
            x,
            replace(weights, input_norm=weights.input_norm.bfloat16()),
            cos,
            cos,
            keys,
            values,
            torch.arange(3),
        )
