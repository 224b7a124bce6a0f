"""The float ops in torch, against a scalar transcription of docs/exact-experts.md, dense formulas, and themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import floating
from kernels.formats import Format, Matrix, quantise
from kernels.ops import AttentionPlan, AttentionWeights, Restriction
from tests.kernels.scalars import same_bits, scalar_exp, scalar_lanes

F = np.float32
ONE, NOTHING = F(1), F(0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Scalars: one fp32 operation a time, as the text says.


def scalar_norm(x: Sequence[F], weight: Sequence[F], eps: float) -> list[F]:
    mean = scalar_lanes([a * a for a in x]) / F(len(x))
    scale = ONE / np.sqrt(mean + F(eps))
    return [(a * scale) * w for a, w in zip(x, weight, strict=True)]


def scalar_route(x, weight, bias, k, groups, kept, scale) -> tuple[list[int], list[F]]:
    scores = [ONE / (ONE + scalar_exp(-scalar_lanes([a * b for a, b in zip(x, row, strict=True)]))) for row in weight]
    choices = [score + b for score, b in zip(scores, bias, strict=True)]
    size = len(choices) // groups
    strengths = [sum(sorted(choices[g * size : (g + 1) * size])[:-3:-1]) for g in range(groups)]
    stay = sorted(range(groups), key=lambda g: (-strengths[g], g))[:kept]
    ids = sorted(sorted((e for g in stay for e in range(g * size, (g + 1) * size)), key=lambda e: (-choices[e], e))[:k])
    total = NOTHING
    for e in ids:
        total = total + scores[e]
    return ids, [(scores[e] / (total + F(1e-20)) if k > 1 else scores[e]) * F(scale) for e in ids]


def scalar_attention(q: Sequence[F], keys, values, size: int, scale: float) -> list[F]:
    """Of one query over keys and values [n][D], all of which it sees."""
    scores = []
    for key in keys:
        score = NOTHING
        for a, b in zip(q, key, strict=True):
            score = score + (a * F(scale)) * b
        scores.append(score)
    shares = [scalar_exp(score - max(scores)) for score in scores]
    total, out = NOTHING, [NOTHING] * len(q)
    for first in range(0, len(keys), size):
        total = total + scalar_lanes(shares[first : first + size])
        for d in range(len(q)):
            part = NOTHING
            for share, value in zip(shares[first : first + size], values[first : first + size], strict=True):
                part = part + share * value[d]
            out[d] = out[d] + part
    return [a / total for a in out]


def scalar_total(scores: Sequence[F], allowed: Sequence[bool], temperature: float) -> float:
    top, total = max(scores), 0.0
    for first in range(0, len(scores), 1024):
        chunk = zip(scores[first : first + 1024], allowed[first : first + 1024], strict=True)
        total += float(scalar_lanes([scalar_exp((s - top) / F(temperature)) if yes else NOTHING for s, yes in chunk]))
    return total


def test_square_root_is_correctly_rounded():
    x = draw(100_000).abs() * 2.0 ** torch.randint(-120, 120, (100_000,), generator=torch.Generator().manual_seed(1))
    assert same_bits(floating.square_root(x), torch.from_numpy(np.sqrt(x.numpy())))


@pytest.mark.parametrize("width", [1, 16, 21, 128])
@pytest.mark.parametrize("per_row", [False, True])
def test_norm_is_the_scalar_norm(width, per_row):
    x, weight = draw(5, width) * 3, draw(*((5,) if per_row else ()), width, seed=1)
    rows = zip(x.numpy(), weight.expand(5, width).numpy(), strict=True)
    expected = torch.from_numpy(np.array([scalar_norm(row, w, 1e-6) for row, w in rows]))
    assert same_bits(floating.rms_norm(x, weight, 1e-6), expected)


def test_norm_is_close_to_the_formula_and_small_rows_stay_small():
    x = torch.cat((draw(3, 96), draw(1, 96) * 1e-25, torch.zeros(1, 96)))
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(floating.rms_norm(x, torch.ones(96), 1e-6).double(), exact, rtol=1e-6, atol=1e-30)


def test_norm_of_bf16_rounds_before_and_after_the_weight():
    x, weight = draw(4, 64).bfloat16(), draw(64, seed=1).bfloat16()
    normed = floating.rms_norm(x.float(), torch.ones(64), 1e-6).bfloat16()
    result = floating.rms_norm(x, weight, 1e-6)
    assert result.dtype == torch.bfloat16
    assert same_bits(result, normed * weight)


ROUTERS = [(8, 1, 1, 2), (16, 4, 2, 3), (16, 4, 1, 1), (64, 8, 4, 8), (8, 8, 3, 2)]


@pytest.mark.parametrize(("experts", "groups", "kept", "k"), ROUTERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_route_is_the_scalar_route(experts, groups, kept, k, dtype):
    x, weight, bias = draw(6, 40), draw(experts, 40, seed=1).to(dtype), draw(experts, seed=2) * 0.3 - 0.5
    ids, weights = floating.route(x, weight, bias, experts_per_token=k, groups=groups, groups_kept=kept, scale=2.5)
    for t in range(6):
        given = (x[t].numpy(), weight.float().numpy(), bias.numpy())
        wanted_ids, wanted = scalar_route(*given, k, groups, kept, 2.5)
        assert ids[t].tolist() == wanted_ids
        assert same_bits(weights[t], torch.from_numpy(np.array(wanted)))


def route(x: Tensor, weight: Tensor, bias: Tensor, k: int = 2, groups: int = 4, kept: int = 2) -> tuple[Tensor, Tensor]:
    return floating.route(x, weight, bias, experts_per_token=k, groups=groups, groups_kept=kept, scale=2.5)


def test_route_breaks_ties_to_the_lower_group_and_expert():
    ids, weights = route(draw(3, 8), torch.zeros(16, 8), torch.zeros(16), k=3)
    assert ids.tolist() == [[0, 1, 2]] * 3
    bias = torch.zeros(16)
    bias[[6, 9, 15]] = 1.0
    assert route(draw(1, 8), torch.zeros(16, 8), bias, k=3)[0].tolist() == [[4, 6, 9]]
    torch.testing.assert_close(weights.sum(-1), torch.full((3,), 2.5))


def test_route_with_negative_biases_never_leaves_the_kept_groups():
    bias = torch.full((16,), -5.0)
    bias[8:] = -4.0
    ids, weights = route(draw(20, 8), draw(16, 8, seed=1), bias, k=8)
    assert ids.min() == 8
    torch.testing.assert_close(weights.sum(-1), torch.full((20,), 2.5))


def test_the_bias_never_enters_the_weights():
    x, weight = draw(4, 8), draw(8, 8, seed=1)
    _, alone = route(x, weight, torch.zeros(8), k=8, groups=1, kept=1)
    _, biased = route(x, weight, draw(8, seed=2), k=8, groups=1, kept=1)
    assert same_bits(alone, biased)


def test_one_expert_per_token_weighs_its_own_score():
    x, weight = draw(4, 8), draw(8, 8, seed=1)
    ids, weights = route(x, weight, torch.zeros(8), k=1, groups=1, kept=1)
    scores = torch.sigmoid(x @ weight.T)
    assert torch.equal(ids, scores.argmax(-1, keepdim=True))
    torch.testing.assert_close(weights, scores.amax(-1, keepdim=True) * 2.5)


def attention_weights(hidden: int, heads: int, kv_heads: int, width: int, form: str = "w8a8:32") -> AttentionWeights:
    weight = draw((heads + 2 * kv_heads) * width, hidden, seed=3) / hidden**0.5
    matrix = quantise(weight, Format.parse(form))[0] if form.startswith("w") else Matrix.identity(weight)
    norms = draw(hidden, seed=4), draw(heads + kv_heads, width, seed=5)
    return AttentionWeights(norms[0], matrix, norms[1], 1e-6, heads, kv_heads)


def empty_cache(blocks: int, kv_heads: int, width: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    keys = torch.zeros(blocks, kv_heads, width, size, dtype=dtype)
    return keys, torch.zeros(blocks, kv_heads, size, width, dtype=dtype)


def test_query_key_value_is_norm_product_norm_rotation():
    weights, x = attention_weights(64, 4, 2, 16, "fp32"), draw(3, 64)
    cos, sin, slots = draw(3, 4, seed=6), draw(3, 4, seed=7), torch.tensor([5, 33, 16])
    keys, values = empty_cache(3, 2, 16, 16, torch.float32)
    q = floating.query_key_value(x, weights, cos, sin, keys, values, slots)
    table = weights.query_key_value.floats.numpy()
    for t in range(3):
        normed = scalar_norm(x[t].numpy(), weights.input_norm.numpy(), 1e-6)
        projected = [scalar_lanes([a * b for a, b in zip(normed, row, strict=True)]) for row in table]
        heads = [projected[h * 16 : h * 16 + 16] for h in range(8)]
        for h in range(6):
            head = scalar_norm(heads[h], weights.head_norm[h].numpy(), 1e-6)
            for i, (c, s) in enumerate(zip(cos[t].numpy(), sin[t].numpy(), strict=True)):
                a, b = head[i], head[i + 4]
                head[i], head[i + 4] = a * c - b * s, b * c + a * s
            heads[h] = head
        block, offset = divmod(int(slots[t]), 16)
        assert same_bits(q[t], torch.from_numpy(np.array(heads[:4])))
        assert same_bits(keys[block, :, :, offset], torch.from_numpy(np.array(heads[4:6])))
        assert same_bits(values[block, :, offset], torch.from_numpy(np.array(heads[6:])))
    assert int((keys != 0).any(2).sum()) == 3 * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_query_key_value_of_a_row_does_not_depend_on_its_batch(dtype):
    weights, x = attention_weights(64, 4, 2, 16), draw(9, 64).to(dtype)
    cos, sin, slots = draw(9, 4, seed=6), draw(9, 4, seed=7), torch.randperm(48)[:9]
    whole, single = empty_cache(3, 2, 16, 16, dtype), empty_cache(3, 2, 16, 16, dtype)
    q = floating.query_key_value(x, weights, cos, sin, *whole, slots)
    rows = []
    for t in range(9):
        one = slice(t, t + 1)
        rows.append(floating.query_key_value(x[one], weights, cos[one], sin[one], *single, slots[one]))
    assert q.dtype == dtype
    assert same_bits(q, torch.cat(rows))
    assert same_bits(whole[0], single[0])
    assert same_bits(whole[1], single[1])


def test_a_bf16_cache_holds_the_rounded_keys_and_values():
    weights, x, slots = attention_weights(64, 4, 2, 16), draw(9, 64), torch.arange(9)
    exact, rounded = empty_cache(1, 2, 16, 16, torch.float32), empty_cache(1, 2, 16, 16, torch.bfloat16)
    for cache in (exact, rounded):
        floating.query_key_value(x, weights, draw(9, 4, seed=6), draw(9, 4, seed=7), *cache, slots)
    assert same_bits(rounded[0], exact[0].bfloat16())
    assert same_bits(rounded[1], exact[1].bfloat16())


class Cached:
    """Random keys and values of a few sequences in scattered blocks, and plans over them."""

    def __init__(self, lengths: Sequence[int], heads: int, kv_heads: int, width: int, size: int, dtype: torch.dtype):
        counts = [-(-length // size) for length in lengths]
        order = torch.randperm(sum(counts) + 3, generator=torch.Generator().manual_seed(8)).tolist()
        self.size, self.heads, self.lengths = size, heads, lengths
        self.blocks = [[order.pop() for _ in range(count)] for count in counts]
        self.keys = draw(sum(counts) + 3, kv_heads, width, size, seed=9).to(dtype)
        self.values = draw(sum(counts) + 3, kv_heads, size, width, seed=10).to(dtype)
        self.q = [draw(length, heads, width, seed=20 + s) * 2 for s, length in enumerate(lengths)]

    def plan(self, spans: Sequence[tuple[int, int, int]]) -> tuple[Tensor, AttentionPlan]:
        """Queries and plan of spans (sequence, first position, end)."""
        rows, table, start = [], [], 0
        for sequence, first, end in spans:
            rows.append((start, end - first, first, len(table)))
            table += self.blocks[sequence][: -(-end // self.size)]
            start += end - first
        q = torch.cat([self.q[sequence][first:end] for sequence, first, end in spans])
        return q, AttentionPlan(torch.tensor(rows, dtype=torch.int32), torch.tensor(table, dtype=torch.int32))

    def attend(self, *spans: tuple[int, int, int]) -> Tensor:
        q, plan = self.plan(spans)
        return floating.paged_attention(q, self.keys, self.values, plan, q.shape[-1] ** -0.5)

    def dense(self, sequence: int) -> tuple[Tensor, Tensor]:
        """Keys and values [G, length, D] of a sequence."""
        blocks, length = torch.tensor(self.blocks[sequence]), self.lengths[sequence]
        keys = self.keys[blocks].permute(1, 0, 3, 2).flatten(1, 2)[:, :length]
        return keys, self.values[blocks].transpose(0, 1).flatten(1, 2)[:, :length]


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_is_the_scalar_attention(size, kv_heads):
    cached = Cached([37], 4, kv_heads, 8, size, torch.float32)
    keys, values = (t.numpy() for t in cached.dense(0))
    result = cached.attend((0, 0, 37)).view(37, 4, 8)
    for row in (0, 1, 15, 16, 36):
        for head in range(4):
            g = head // (4 // kv_heads)
            seen = slice(0, row + 1)
            expected = scalar_attention(cached.q[0][row, head].numpy(), keys[g, seen], values[g, seen], size, 8**-0.5)
            assert same_bits(result[row, head], torch.from_numpy(np.array(expected)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_close_to_the_dense_formula(dtype):
    cached = Cached([150, 70], 8, 2, 32, 64, dtype)
    found = torch.split(cached.attend((0, 0, 150), (1, 0, 70)), [150, 70])
    for sequence, length in enumerate([150, 70]):
        q = cached.q[sequence].double().transpose(0, 1)
        keys, values = (t.double().repeat_interleave(4, dim=0) for t in cached.dense(sequence))
        dense = torch.nn.functional.scaled_dot_product_attention(q, keys, values, is_causal=True)
        torch.testing.assert_close(
            found[sequence].view(length, 8, 32).transpose(0, 1).double(), dense, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prefill_whole_in_pieces_and_row_by_row_are_equal(size, dtype):
    cached = Cached([90, 33], 8, 2, 16, size, dtype)
    whole = cached.attend((0, 0, 90))
    pieces = [cached.attend((0, first, min(first + 17, 90)), (1, 0, 33)) for first in range(0, 90, 17)]
    assert same_bits(whole, torch.cat([piece[:-33] for piece in pieces]))
    assert same_bits(whole, torch.cat([cached.attend((0, row, row + 1)) for row in range(90)]))


def test_tiles_of_query_rows_change_nothing(monkeypatch):
    cached = Cached([90], 8, 2, 16, 16, torch.float32)
    whole = cached.attend((0, 0, 90))
    monkeypatch.setattr(floating, "TILE_SCORES", 1)
    assert same_bits(whole, cached.attend((0, 0, 90)))


def test_keys_beyond_a_row_and_blocks_outside_the_plan_are_never_used():
    cached = Cached([40, 20], 4, 2, 16, 16, torch.float32)
    before = cached.attend((0, 30, 34))
    last = cached.blocks[0][2]
    cached.keys[last, :, :, 2:] = 1e30
    cached.values[last, :, 2:] = 1e30
    cached.keys[cached.blocks[1]] = torch.nan
    cached.values[cached.blocks[1]] = torch.nan
    assert same_bits(before, cached.attend((0, 30, 34)))


def test_attention_of_bf16_queries_rounds_the_exact_result():
    cached = Cached([40], 4, 2, 16, 16, torch.bfloat16)
    cached.q = [q.bfloat16() for q in cached.q]
    rounded = cached.attend((0, 0, 40))
    cached.q = [q.float() for q in cached.q]
    assert rounded.dtype == torch.bfloat16
    assert same_bits(rounded, cached.attend((0, 0, 40)).bfloat16())


def score_matrix(scores: Tensor) -> tuple[Tensor, Matrix]:
    """A row and a matrix [V, 16] whose product is `scores`."""
    return torch.eye(16)[:1], Matrix.identity(torch.outer(scores, torch.eye(16)[0]))


def test_head_ranks_restricted_scores_with_ties_in_id_order():
    x, matrix = score_matrix(torch.tensor([2.0, -1.0, 3.0, 3.0, 0.0, -0.0, 9.0, 5.0]))
    allowed = torch.tensor([True, True, True, True, True, True, False, True])
    found = floating.head(x, matrix, 7, [Restriction(allowed, torch.tensor([0, 1, 0, 6, 7]), 2.0)], 7)
    assert found.all_scores.tolist() == [[1.0, -2.0, 3.0, 3.0, 0.0, 0.0, -torch.inf]]
    assert found.ids.tolist() == [[2, 3, 0, 4, 5, 1, 6]]
    assert found.scores.tolist() == [[3.0, 3.0, 1.0, 0.0, 0.0, -2.0, -torch.inf]]
    assert found.totals.tolist() == [0.0]


@pytest.mark.parametrize("size", [100, 1024, 2500])
def test_totals_are_the_scalar_totals_and_close_to_the_exponentials(size):
    scores, allowed = draw(2600) * 4, draw(2600, seed=1) > 0
    x, matrix = score_matrix(scores)
    found = floating.head(x, matrix, size, [Restriction(allowed, temperature=0.7)], 3)
    kept = scores[:size].masked_fill(~allowed[:size], -torch.inf)
    assert float(found.totals[0]) == scalar_total(kept.numpy(), allowed[:size].tolist(), 0.7)
    exact = ((kept.double() - kept.max()) / 0.7).exp().sum()
    torch.testing.assert_close(found.totals[0], exact, rtol=1e-6, atol=0)


def test_head_rows_do_not_depend_on_each_other():
    matrix = quantise(draw(832, 64), Format.parse("w8a8:64"))[0]
    x = draw(5, 64, seed=1)
    restrictions = [Restriction(draw(832, seed=r) > 0, torch.arange(r, 40), 1.1, 0.5 * r) for r in range(5)]
    together = floating.head(x, matrix, 801, restrictions, 20)
    for r in range(5):
        alone = floating.head(x[r : r + 1], matrix, 801, restrictions[r : r + 1], 20)
        assert same_bits(alone.all_scores[0], together.all_scores[r])
        assert torch.equal(alone.ids[0], together.ids[r])
        assert same_bits(alone.scores[0], together.scores[r])
        assert alone.totals[0] == together.totals[r]
