"""Recorded calls of every op with the reference's results, for kernels that run where Python doesn't."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kernels import floating, reference
from kernels.formats import Format, Matrix
from kernels.ops import AttentionWeights, ExpertPool, NonFiniteError, Restriction, SwiGLUWeights, plan_attention

OPS = ("rms_norm", "linear", "swiglu", "experts", "route", "query_key_value", "paged_attention", "head")
FORMATS = (
    "w4a8:32", "w4a8:64", "w4a8:128", "w8a8:32", "w8a8:64", "w8a8:128",
    "w4a8:64:fp16", "w4a8:32:fp16:zeros", "w4a8:128:zeros:p2", "w8a8:64:zeros:p4", "w4a8:64:p4", "bf16", "fp16", "fp32",
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One call: its arrays in the order that replay.cpp takes them, inputs then expected outputs."""

    op: str
    arrays: tuple[Tensor, ...]

    def to_bytes(self) -> bytes:
        parts = [struct.pack("<QQ", OPS.index(self.op) + 1, len(self.arrays))]
        for array in self.arrays:
            data = array.contiguous().flatten().view(torch.uint8) if array.numel() else array
            parts += [struct.pack("<Q", array.nbytes), bytes(data.numpy()) if array.numel() else b""]
        return b"".join(parts)


class Draw:
    """A stream of random inputs."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self._generator)

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """Random bytes of a format that are valid in it: no -128, scales like a trained matrix's."""
        form = Format.parse(name)
        if not form.is_quantised:
            return Matrix.identity((self.normal(rows, columns) / columns**0.5).to(getattr(torch, _TORCH[form.scale])))
        matrix = Matrix(form, rows, columns, torch.zeros(form.nbytes(rows, columns), dtype=torch.uint8))
        plane = matrix.weight_plane
        codes = self.integers(0, 256, *plane.shape) if form.bits == 4 else self.integers(-127, 128, *plane.shape)
        plane.copy_(codes.to(torch.uint8) if form.bits == 4 else codes.to(torch.int8).view(torch.uint8))
        scales = self.normal(*matrix.scale_plane.shape) / (columns**0.5 * (4 if form.bits == 4 else 64))
        matrix.scale_plane.copy_(scales)
        if matrix.zero_plane is not None:
            matrix.zero_plane.copy_(self.integers(-8, 9, *matrix.zero_plane.shape))
        return matrix


_TORCH = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
NOTHING = torch.empty(0)


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def floats(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def layout(form: Format, rows: int, columns: int, start: int = 0) -> Tensor:
    planes = form.planes(rows, columns)
    return ints(
        form.bits, form.group, int(form.scale == "fp16"), form.partials, rows, columns,
        start, start + planes.scales, start + planes.zeros, int(form.zeros),
    )  # fmt: skip


def stored(matrix: Matrix) -> tuple[Tensor, Tensor]:
    return layout(matrix.format, matrix.rows, matrix.columns), matrix.data


def all_records() -> Iterator[Record]:
    """Every op over formats, shapes and corner cases."""
    draw = Draw(0)
    yield from norms(draw)
    for name in FORMATS:
        yield from linears(draw, name)
        yield from feed_forwards(draw, name)
    yield from routes(draw)
    yield from attentions(draw)
    yield from heads(draw)


def norms(draw: Draw) -> Iterator[Record]:
    for rows, width in ((1, 128), (3, 2048), (5, 32)):
        for weight in (draw.normal(width), draw.normal(rows, width)):
            x = draw.normal(rows, width)
            count = weight.shape[0] if weight.dim() == 2 else 1
            out = floating.rms_norm(x, weight, 1e-6)
            yield Record("rms_norm", (ints(count, rows, width), floats(1e-6), x, weight, out))


def linears(draw: Draw, name: str) -> Iterator[Record]:
    for rows, columns, tokens in ((16, 128, 1), (48, 384, 3), (80, 256, 17), (16, 640, 5), (32, 128, 33)):
        matrix, x = draw.matrix(name, rows, columns), draw.normal(tokens, columns) * 3
        for residual in (None, draw.normal(tokens, rows)):
            yield _linear(x, matrix, residual)
    matrix, x = draw.matrix(name, 16, 256), draw.normal(4, 256)
    yield _linear(x * 2.0**-110, matrix, None)
    yield _linear(torch.zeros_like(x), matrix, None)
    if matrix.format.is_quantised:
        x[2, 200] = torch.nan
        yield _linear(x, matrix, None)


def _linear(x: Tensor, matrix: Matrix, residual: Tensor | None) -> Record:
    try:
        out, status = reference.linear(x, matrix, residual), 0
    except NonFiniteError:
        out, status = x.new_zeros(x.shape[0], matrix.rows), 1
    given = NOTHING if residual is None else residual
    return Record("linear", (ints(x.shape[0], status), x, *stored(matrix), given, out))


def feed_forwards(draw: Draw, name: str) -> Iterator[Record]:
    hidden, inner, experts = 256, 128, 6
    shared = SwiGLUWeights(draw.matrix("w8a8:64", 2 * inner, hidden), draw.matrix("w8a8:32", hidden, inner))
    own = SwiGLUWeights(draw.matrix(name, 2 * inner, hidden), draw.matrix(name, hidden, inner))
    pool, data, stride = _pool(draw, name, hidden, inner, experts)
    for tokens, chosen in ((1, 2), (5, 2), (19, 1), (40, 3)):
        x, residual = draw.normal(tokens, hidden), draw.normal(tokens, hidden)
        out = reference.swiglu(x, own, residual)
        yield Record("swiglu", (ints(tokens), x, *stored(own.gate_up), *stored(own.down), residual, out))
        yield from _experts(draw, x, chosen, pool, data, stride, shared, residual)


def _pool(draw: Draw, name: str, hidden: int, inner: int, count: int) -> tuple[ExpertPool, Tensor, int]:
    form = Format.parse(name)
    down_at = form.nbytes(2 * inner, hidden)
    stride = -(-(down_at + form.nbytes(hidden, inner)) // 4096) * 4096
    data = torch.zeros(count, stride, dtype=torch.uint8)
    for blob in data:
        gate_up, down = draw.matrix(name, 2 * inner, hidden), draw.matrix(name, hidden, inner)
        blob[:down_at] = gate_up.data
        blob[down_at : down_at + down.nbytes] = down.data
    addresses = data.data_ptr() + torch.arange(count) * stride
    return ExpertPool(form, form, hidden, inner, down_at, tuple(data), addresses), data, stride


def _experts(
    draw: Draw,
    x: Tensor,
    chosen: int,
    pool: ExpertPool,
    data: Tensor,
    stride: int,
    shared: SwiGLUWeights,
    residual: Tensor,
) -> Iterator[Record]:
    """Expert 0 gets no token; of one per token, all go to the same."""
    tokens = x.shape[0]
    picks = [draw.integers(0, 1000, len(data) - 1).argsort()[:chosen].sort().values + 1 for _ in range(tokens)]
    ids = torch.stack(picks) if chosen > 1 else torch.full((tokens, 1), 3)
    weights = draw.normal(tokens, chosen).abs()
    layouts = (
        layout(pool.gate_up, 2 * pool.inner, pool.hidden),
        layout(pool.down, pool.hidden, pool.inner, pool.down_offset),
    )
    out = reference.experts(x, ids, weights, pool, shared, residual)
    yield Record(
        "experts",
        (
            ints(tokens, chosen, len(data), 0, stride, (0, 3, 6)[tokens % 3]), x, ids, weights, data, *layouts,
            *stored(shared.gate_up), *stored(shared.down), residual, out,
        ),
    )  # fmt: skip


def routes(draw: Draw) -> Iterator[Record]:
    for experts, chosen, groups, kept, width in (
        (256, 8, 8, 4, 2048),
        (16, 2, 8, 4, 256),
        (12, 3, 3, 2, 32),
        (8, 1, 1, 1, 64),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            for tokens in (1, 7):
                x, weight = draw.normal(tokens, width), (draw.normal(experts, width) / width**0.5).to(dtype)
                bias = -draw.normal(experts).abs() if tokens == 7 else torch.zeros(experts)
                x[-1] *= float(chosen != 3)
                ids, weights = floating.route(
                    x, weight, bias, experts_per_token=chosen, groups=groups, groups_kept=kept, scale=2.5
                )
                numbers = ints(tokens, width, int(dtype == torch.bfloat16), experts, chosen, groups, kept)
                yield Record("route", (numbers, floats(2.5), x, weight, bias, ids, weights))


@dataclass(frozen=True)
class Span:
    start: int
    length: int
    context: int
    blocks: tuple[int, ...]


def attentions(draw: Draw) -> Iterator[Record]:
    shapes = ((4, 2, 32, 16), (16, 4, 128, 64), (8, 1, 16, 16))
    for heads, kv_heads, width, block in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            yield from _attention(draw, heads, kv_heads, width, block, dtype)
            yield _query_key_value(draw, heads, kv_heads, width, block, dtype)


def _attention(draw: Draw, heads: int, kv_heads: int, width: int, block: int, dtype: torch.dtype) -> Iterator[Record]:
    for lengths, contexts in (((1,), (0,)), ((1, 1), (100, 37)), ((20, 1, 33), (0, 64, 50)), ((70,), (0,))):
        blocks, spans, start = iter(range(1, 60)), [], 0
        for length, context in zip(lengths, contexts, strict=True):
            owned = tuple(next(blocks) for _ in range(-(-(length + context) // block)))
            spans.append(Span(start, length, context, owned))
            start += length
        q = draw.normal(start, heads, width)
        keys = draw.normal(next(blocks), kv_heads, width, block).to(dtype)
        values = draw.normal(keys.shape[0], kv_heads, block, width).to(dtype)
        plan = plan_attention(spans, block_size=block, device=torch.device("cpu"))
        out = floating.paged_attention(q, keys, values, plan, width**-0.5)
        numbers = ints(start, heads, kv_heads, width, int(dtype == torch.bfloat16), block, len(spans))
        inputs = (floats(width**-0.5), q, keys, values, plan.spans, plan.block_table)
        yield Record("paged_attention", (numbers, *inputs, out))


def _query_key_value(draw: Draw, heads: int, kv_heads: int, width: int, block: int, dtype: torch.dtype) -> Record:
    tokens, hidden, half = 6, 256, width // 4
    weights = AttentionWeights(
        draw.normal(hidden), draw.matrix("w8a8:64", (heads + 2 * kv_heads) * width, hidden),
        draw.normal(heads + kv_heads, width), 1e-6, heads, kv_heads,
    )  # fmt: skip
    x, angles = draw.normal(tokens, hidden), draw.normal(tokens, half) * 9
    cos, sin, slots = angles.cos(), angles.sin(), draw.integers(0, 999, 4 * block).argsort()[:tokens]
    keys, values = (
        torch.zeros(4, kv_heads, width, block, dtype=dtype),
        torch.zeros(4, kv_heads, block, width, dtype=dtype),
    )
    before = keys.clone(), values.clone()
    q = floating.query_key_value(x, weights, cos, sin, keys, values, slots)
    numbers = ints(tokens, heads, kv_heads, width, half, int(dtype == torch.bfloat16), block)
    inputs = (floats(1e-6), x, weights.input_norm, *stored(weights.query_key_value), weights.head_norm, cos, sin, slots)
    return Record("query_key_value", (numbers, *inputs, *before, q, keys, values))


def heads(draw: Draw) -> Iterator[Record]:
    vocabulary, size, count = 2064, 2050, 40
    for name in ("w4a8:64", "w8a8:64", "fp32"):
        matrix, x = draw.matrix(name, vocabulary, 256), draw.normal(4, 256)
        mask = draw.integers(0, 40, vocabulary) == 0
        seen = draw.integers(0, 9999, size).argsort()[:50]
        restrictions = [
            Restriction(),
            Restriction(seen=seen, penalty=1.3, temperature=0.6),
            Restriction(allowed=mask, temperature=1.0),
            Restriction(allowed=mask, seen=seen, penalty=1.05, temperature=2.0),
        ]
        yield _head(x, matrix, size, restrictions, count)
        yield _head(x * 0, matrix, size, restrictions, count)
        yield _head(x[2:3], matrix, size, restrictions[2:3], 1)


def _head(x: Tensor, matrix: Matrix, size: int, restrictions: Sequence[Restriction], count: int) -> Record:
    found = floating.head(x, matrix, size, restrictions, count)
    everything = torch.ones(matrix.rows, dtype=torch.bool)
    masks = torch.stack([everything if r.allowed is None else r.allowed for r in restrictions])
    seen = [torch.empty(0, dtype=torch.int64) if r.seen is None else r.seen for r in restrictions]
    inputs = (
        masks, ints(*(r.allowed is not None for r in restrictions)), torch.cat(seen), ints(*map(len, seen)),
        floats(*(r.penalty for r in restrictions)), floats(*(r.temperature for r in restrictions)),
    )  # fmt: skip
    numbers = ints(len(restrictions), size, count, matrix.rows)
    outputs = (found.all_scores, found.ids, found.scores, found.totals)
    return Record("head", (numbers, x, *stored(matrix), *inputs, *outputs))


def write(path: Path) -> int:
    """Writes every record and returns their number."""
    count = 0
    with path.open("wb") as file:
        for record in all_records():
            file.write(record.to_bytes())
            count += 1
    return count
