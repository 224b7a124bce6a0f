"""Every registered implementation of every op: its meaning, equality with the reference, independence of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import batched, reference
from kernels.ops import TILE_ROWS, Ops, plan_attention
from kernels.registry import Implementation, choose, implementations

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]


def params(op: str) -> list[Any]:
    found = [i for i in implementations(op) if i.supports(CPU) is None]
    return [pytest.param(i.function, id=i.name) for i in found]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_rows_independent(op: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Each row alone, at every place within a tile, and beside other neighbours, has the bits it has among all."""
    whole = op(x)
    for row in range(0, x.shape[0], 7):
        assert torch.equal(op(x[row : row + 1]), whole[row : row + 1])
    for shift in range(1, TILE_ROWS + 1):
        assert torch.equal(op(x.roll(shift, 0)).roll(-shift, 0), whole)
    assert torch.equal(op(x[3:20]), whole[3:20])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(16, 8), (96, 40), (256, 384), (64, 4096), (130, 2560)])
@pytest.mark.parametrize("op", params("linear"))
def test_linear(op: Any, shape: tuple[int, int], dtype: torch.dtype) -> None:
    inner, columns = shape
    x, weight = random(45, inner, dtype=dtype), random(columns, inner, seed=1, dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.5
    assert torch.allclose(op(x, weight).float(), x.float() @ weight.float().T, atol=tolerance, rtol=1e-2)
    assert torch.equal(op(x, weight), reference.linear(x, weight))
    assert_rows_independent(lambda rows: op(rows, weight), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", params("rms_norm"))
def test_rms_norm(op: Any, dtype: torch.dtype) -> None:
    x, weight = random(33, 200, dtype=dtype), random(200, seed=1, dtype=dtype)
    scale = torch.tensor([1 / math.sqrt(float(row.double().square().mean()) + 1e-6) for row in x.float()])
    normed = (x.float() * scale[:, None]).to(dtype)
    assert torch.allclose(op(x, weight, 1e-6).float(), (normed * weight).float(), atol=1e-5, rtol=1e-2)
    assert_rows_independent(lambda rows: op(rows, weight, 1e-6), x)


def test_rms_norm_rounds_twice_in_bfloat16() -> None:
    """After normalising and after scaling: one rounding at the end gives other bits somewhere."""
    x, weight = random(64, 128, dtype=torch.bfloat16), random(128, seed=1, dtype=torch.bfloat16)
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    once = (normed * weight.float()).to(torch.bfloat16)
    assert torch.equal(reference.rms_norm(x, weight, 1e-6), normed.to(torch.bfloat16) * weight)
    assert not torch.equal(reference.rms_norm(x, weight, 1e-6), once)


@pytest.mark.parametrize("op", params("rope"))
def test_rope_pairs_halves(op: Any) -> None:
    x, angle = random(5, 3, 12), random(5, 4, seed=1)
    turned = op(x, angle.cos(), angle.sin())
    for i in range(4):
        c, s = angle[:, i, None].cos(), angle[:, i, None].sin()
        assert torch.allclose(turned[:, :, i], x[:, :, i] * c - x[:, :, i + 4] * s, atol=1e-6)
        assert torch.allclose(turned[:, :, i + 4], x[:, :, i + 4] * c + x[:, :, i] * s, atol=1e-6)
    assert torch.equal(turned[:, :, 8:], x[:, :, 8:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [24, 64, 2304])
@pytest.mark.parametrize("op", params("swiglu"))
def test_swiglu(op: Any, inner: int, dtype: torch.dtype) -> None:
    x = random(40, 32, dtype=dtype)
    gate_up, down = random(2 * inner, 32, seed=1, dtype=dtype), random(32, inner, seed=2, dtype=dtype)
    gate, up = gate_up[:inner].float(), gate_up[inner:].float()
    expected = (F.silu(x.float() @ gate.T) * (x.float() @ up.T)) @ down.float().T
    error = (op(x, gate_up, down).float() - expected).abs().max() / expected.abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 2e-2)
    assert torch.equal(op(x, gate_up, down), reference.swiglu(x, gate_up, down))
    assert_rows_independent(lambda rows: op(rows, gate_up, down), x)


@pytest.mark.parametrize("width", [1, 16, 24, 64, 100])
@pytest.mark.parametrize("function", [F.silu, torch.sigmoid, torch.exp])
@pytest.mark.parametrize("threads", [1, 2])
def test_elementwise_does_not_depend_on_the_place(function: Any, width: int, threads: int) -> None:
    x = random(1500, width)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = reference.elementwise(function, x)
        parts = torch.cat([reference.elementwise(function, part) for part in torch.split(x, 77)])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(whole, parts)
    assert torch.allclose(whole, function(x))


@dataclass(frozen=True)
class Rows:
    """A span as the ops see it."""

    start: int
    length: int
    context: int
    blocks: tuple[int, ...]


HEADS, KV_HEADS, WIDTH, BLOCK = 6, 2, 24, 8


def pool(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return random(40, BLOCK, KV_HEADS, WIDTH, seed=3, dtype=dtype), random(
        40, BLOCK, KV_HEADS, WIDTH, seed=4, dtype=dtype
    )


def attend(op: Any, q: Tensor, spans: list[Rows]) -> Tensor:
    plan = plan_attention(spans, block_size=BLOCK, heads=HEADS, device=CPU)
    return op(q, *pool(q.dtype), plan, WIDTH**-0.5)


def plain_attention(q: Tensor, span: Rows) -> Tensor:
    """Softmax over all visible keys, row by row, in float64."""
    keys, values = (p[list(span.blocks)].flatten(0, 1).double() for p in pool(q.dtype))
    rows = []
    for i in range(span.length):
        seen = span.context + i + 1
        k, v = (t[:seen].repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (keys, values))
        shares = torch.einsum("hd,nhd->hn", q[span.start + i].double(), k).mul(WIDTH**-0.5).softmax(-1)
        rows.append(torch.einsum("hn,nhd->hd", shares, v))
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", params("paged_attention"))
def test_attention(op: Any, dtype: torch.dtype) -> None:
    spans = [
        Rows(0, 37, 0, (5, 3, 9, 20, 1)),
        Rows(37, 1, 16, (7, 8, 30)),
        Rows(38, 5, 60, tuple(range(10, 19))),
    ]
    q = random(43, HEADS, WIDTH, dtype=dtype)
    expected = torch.cat([plain_attention(q, span) for span in spans])
    assert torch.allclose(attend(op, q, spans).double(), expected, atol=1e-5 if dtype == torch.float32 else 2e-2)
    assert torch.equal(attend(op, q, spans), attend(reference.paged_attention, q, spans))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", params("paged_attention"))
def test_attention_decodes_as_it_prefills(op: Any, dtype: torch.dtype) -> None:
    """Any cut into chunks, any place in the tile, any companions: the same bits."""
    blocks, q = (4, 2, 33, 11, 17, 26, 8, 3), random(60, HEADS, WIDTH, dtype=dtype)
    whole = attend(op, q, [Rows(0, 60, 0, blocks)])
    for row in range(60):
        alone = Rows(0, 1, row, blocks[: row // BLOCK + 1])
        assert torch.equal(attend(op, q[row : row + 1], [alone])[0], whole[row])
    for cut in (1, 15, 16, 17, 33):
        parts = [Rows(0, cut, 0, blocks), Rows(cut, 60 - cut, cut, blocks)]
        assert torch.equal(attend(op, q, parts), whole)
        swapped = [Rows(60 - cut, cut, 0, blocks), Rows(0, 60 - cut, cut, blocks)]
        assert torch.equal(attend(op, q.roll(-cut, 0), swapped).roll(cut, 0), whole)


def test_attention_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spans, q = [Rows(0, 60, 0, (4, 2, 33, 11, 17, 26, 8, 3))], random(60, HEADS, WIDTH)
    whole = attend(reference.paged_attention, q, spans)
    monkeypatch.setattr("kernels.ops.CHUNK_SCORES", 1)
    plan = plan_attention(spans, block_size=BLOCK, heads=HEADS, device=CPU)
    assert [len(chunk.rows) for chunk in plan.chunks] == [1, 1, 1, 1]
    assert torch.equal(attend(reference.paged_attention, q, spans), whole)


def test_every_op_has_a_reference_and_the_best_supported_is_chosen() -> None:
    choice = choose("cpu")
    for field in fields(Ops):
        assert [i.name for i in implementations(field.name)][-1] == "torch"
        supported = [i for i in implementations(field.name) if i.supports(CPU) is None]
        assert choice.names[field.name] == supported[0].name
        assert getattr(choice.ops, field.name) is supported[0].function


def test_refusals_keep_their_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Implementation("linear", "broken", 99, lambda: None, lambda device: f"no {device.type} here")
    monkeypatch.setitem(implementations.__globals__["_registered"], ("linear", "broken"), broken)
    choice = choose("cpu")
    assert choice.names["linear"] != "broken"
    assert [(r.op, r.name, r.reason) for r in choice.refusals if r.name == "broken"] == [
        ("linear", "broken", "no cpu here")
    ]


def test_batched_is_refused_where_its_bits_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_bits(a: Tensor, b: Tensor, out: Tensor) -> None:
        torch.bmm(a, b, out=out)
        out += 1e-3

    batched._probe.cache_clear()
    monkeypatch.setattr(batched, "product_at_once", other_bits)
    reason = batched.same_bits(CPU)
    batched._probe.cache_clear()
    assert reason is not None
    assert "other bits" in reason


def test_short_tiles_are_used_only_where_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random(48, 32).t()
    batched._short_is_exact.cache_clear()
    assert batched.fewest_rows(batched.SHORT_ROWS + 1, 1, weight) == TILE_ROWS
    assert batched.fewest_rows(1, 1, weight) in (batched.SHORT_ROWS, TILE_ROWS)

    def short_tiles_differ(a: Tensor, b: Tensor, out: Tensor) -> None:
        torch.bmm(a, b, out=out)
        out += 1e-3 if a.shape[1] == batched.SHORT_ROWS else 0

    batched._short_is_exact.cache_clear()
    monkeypatch.setattr(batched, "product_at_once", short_tiles_differ)
    assert batched.fewest_rows(1, 1, weight) == TILE_ROWS
    batched._short_is_exact.cache_clear()
