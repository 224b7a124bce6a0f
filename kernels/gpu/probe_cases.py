"""What a GPU computes when it is examined: every op, in the forms that a decode step and a prompt have."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from kernels import floating, reference
from kernels.formats import Format, Matrix
from kernels.gpu import OPS
from kernels.gpu.launch import fresh_fault
from kernels.gpu.norm import launch_rms_norm
from kernels.gpu.probe_step import copied_blobs, planned_steps
from kernels.gpu.quantise import Quantised, launch_quantise
from kernels.ops import AttentionPlan, AttentionWeights, ExpertPool, Restriction, SwiGLUWeights
from kernels.registry import choose

# A step has a row, or a few with drafts or of several sequences; a prompt has many. Each has tiles of its own.
ROWS = (1, 3, 40)

# Rows for each tile of a product, and for those of experts. Multiples of 16 would be compiled once more.
PRODUCT_ROWS, EXPERT_ROWS = (1, 5, 13, 31, 75), (1, 3, 12, 60)

# Not a whole number of loads; groups of 64.
HIDDEN, INNER, OUTPUTS = 1216, 192, 80

# Those of the 103B model, but for how many there are: what they are decides how kernels are compiled.
HEADS, KV_HEADS, WIDTH, ROTARY, BLOCK_SIZE = 8, 1, 128, 64, 64
CACHES = (torch.float32, torch.bfloat16)
EXPERTS, PER_TOKEN, GROUPS, GROUPS_KEPT, SCALE = 256, 8, 8, 4, 2.5
EPS = 1e-6

# Of a layer of experts; not all of them, so that a prompt has several rows for each.
POOL = 10

VOCABULARY, PADDED = 8200, 8208

# Steps of so many rows, whose experts are in memory once or twice.
STEPS = ((1, False), (3, True))


@dataclass(frozen=True)
class Case:
    """What a device makes of some inputs, and what the reference makes of them, both in host memory."""

    name: str
    form: str
    got: Callable[[torch.device], list[Tensor]]
    wanted: Callable[[], list[Tensor]]


def op_case(op: str, form: str, *arguments: Any, written: Sequence[int] = (), **named: Any) -> Case:
    """One call of an op, with `arguments` in host memory; those at the places `written` are outputs too."""
    reference = getattr(choose("cpu", only="torch").ops, op)
    function = getattr(importlib.import_module(f"kernels.gpu.{OPS[op]}"), op)

    def called(function: Callable[..., Any], device: torch.device) -> list[Tensor]:
        there = copied(arguments, device)
        result = function(*there, **copied(named, device))
        return [tensor.cpu() for tensor in (*tensors_in(result), *(there[i] for i in written))]

    return Case(op, form, partial(called, function), partial(called, reference, torch.device("cpu")))


def copied(value: Any, device: torch.device) -> Any:
    """The same with tensors of their own on a device."""
    match value:
        case Tensor():
            return value.to(device, copy=True)
        case tuple() | list():
            return type(value)(copied(item, device) for item in value)
        case dict():
            return {key: copied(item, device) for key, item in value.items()}
        case ExpertPool():
            blobs = copied(value.blobs, device)
            return replace(value, blobs=blobs, addresses=torch.tensor([blob.data_ptr() for blob in blobs]))
        case _ if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{one.name: copied(getattr(value, one.name), device) for one in fields(value)})
    return value


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors of an op's result, in order."""
    if isinstance(result, Tensor):
        return [result]
    parts = result if isinstance(result, tuple) else (getattr(result, one.name) for one in fields(result))
    return list(parts)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows_of(count: int, width: int | None = None, seed: int = 0) -> Tensor:
    """Rows of many magnitudes, with a group of zeros, numbers whose squares are subnormal, outliers and halves."""
    x = draw(count, width or HIDDEN, seed=seed + count) * draw(count, 1, seed=seed + 1).exp()
    x[:, 64:128] = 0.0
    x[:, 128:160] *= 2.0**-66
    x[:, -32:] = torch.arange(-16, 16) + 0.5
    x[:, -1] = 127.0
    x[0, 3] = -40.0
    return x


def matrix_of(name: str, rows: int, columns: int, seed: int) -> Matrix:
    """Any weights that a format has."""
    form, random = Format.parse(name), torch.Generator().manual_seed(seed)
    if not form.is_quantised:
        return Matrix.identity((draw(rows, columns, seed=seed) / columns**0.5).bfloat16())
    matrix = Matrix(form, rows, columns, torch.zeros(form.nbytes(rows, columns), dtype=torch.uint8))
    # At 8 bit -128 is none.
    lowest = -127 if form.bits == 8 else -128
    stored = torch.randint(lowest, 128, matrix.weight_plane.shape, generator=random, dtype=torch.int8)
    matrix.weight_plane.copy_(stored.view(torch.uint8))
    # So that outputs are about as large as inputs.
    scale = 1.7 / (2.0 ** (form.bits - 1) * columns**0.5)
    matrix.scale_plane.copy_(draw(*matrix.scale_plane.shape, seed=seed) * scale)
    return matrix


def network_of(name: str, seed: int) -> SwiGLUWeights:
    return SwiGLUWeights(matrix_of(name, 2 * INNER, HIDDEN, seed), matrix_of(name, HIDDEN, INNER, seed + 1))


def _said(rows: int) -> str:
    return f"{rows} row" + "s" * (rows > 1)


def _norms() -> Iterator[Case]:
    for rows in ROWS:
        yield op_case("rms_norm", _said(rows), rows_of(rows), draw(HIDDEN, seed=1), EPS)
    yield op_case("rms_norm", "a wide row", rows_of(1, 4096), draw(4096, seed=1), EPS)
    yield op_case("rms_norm", "heads", rows_of(3 * HEADS, WIDTH).view(3, HEADS, -1), draw(HEADS, WIDTH, seed=2), EPS)
    yield Case("rms_norm", "quantised", _quantised_norm, _normed_and_quantised)


def _quantised_norm(device: torch.device) -> list[Tensor]:
    """As the norm before a quantised matrix and a router is launched."""
    x, out = rows_of(3).to(device), torch.empty(3, HIDDEN, device=device)
    into = Quantised.empty(3, HIDDEN, 64, device)
    launch_rms_norm(x, draw(HIDDEN, seed=1).to(device), EPS, out, into, fresh_fault(device))
    return [tensor.cpu() for tensor in (out, into.q, into.scales)]


def _normed_and_quantised() -> list[Tensor]:
    normed = floating.rms_norm(rows_of(3), draw(HIDDEN, seed=1), EPS)
    return [normed, *reference.quantise_activation(normed, 64)]


def _products() -> Iterator[Case]:
    for name, rows in product(("w8a8:64", "w4a8:64", "bf16"), PRODUCT_ROWS):
        matrix, x = matrix_of(name, OUTPUTS, HIDDEN, seed=rows), rows_of(rows)
        yield op_case("linear", f"{name}, {_said(rows)}", x, matrix, draw(rows, OUTPUTS, seed=3))
    yield Case("linear", "what is not finite", _noticed, lambda: [torch.tensor([[fault] for fault in (0, 1, 1)]).int()])


def _noticed(device: torch.device) -> list[Tensor]:
    """Whether quantising notes what is not finite, of which there is nothing, a NaN and an infinity."""
    faults = []
    for bad in (0.0, torch.nan, -torch.inf):
        x, fault = rows_of(1), fresh_fault(device)
        x[0, 70] = bad
        launch_quantise(x.to(device), Quantised.empty(1, HIDDEN, 64, device), fault)
        faults.append(fault.cpu())
    return [torch.stack(faults)]


def _networks() -> Iterator[Case]:
    for name, rows in product(("w8a8:64", "w4a8:64", "bf16"), ROWS):
        yield op_case(
            "swiglu", f"{name}, {_said(rows)}", rows_of(rows), network_of(name, seed=4), rows_of(rows, seed=5)
        )


def _routes() -> Iterator[Case]:
    weight, bias = draw(EXPERTS, HIDDEN, seed=6).bfloat16() * 0.02, draw(EXPERTS, seed=7) * 0.1
    options: dict[str, Any] = {
        "experts_per_token": PER_TOKEN,
        "groups": GROUPS,
        "groups_kept": GROUPS_KEPT,
        "scale": SCALE,
    }
    for rows in ROWS:
        yield op_case("route", _said(rows), draw(rows, HIDDEN, seed=8), weight, bias, **options)
    tied = torch.zeros_like(weight)
    yield op_case("route", "ties", draw(1, HIDDEN, seed=8), tied, torch.zeros(EXPERTS), **options)


def _expert_layers() -> Iterator[Case]:
    pool, shared = _pool("w4a8:64"), network_of("w8a8:64", seed=9)
    for rows in EXPERT_ROWS:
        ids = draw(rows, POOL, seed=rows).argsort(-1)[:, :PER_TOKEN].sort(-1).values.contiguous()
        weights = draw(rows, PER_TOKEN, seed=10).abs()
        residual = rows_of(rows, seed=11)
        yield op_case("experts", _said(rows), rows_of(rows), ids, weights, pool, shared, residual)


def _pool(name: str) -> ExpertPool:
    networks = [network_of(name, seed=20 + expert) for expert in range(POOL)]
    blobs = tuple(torch.cat([one.gate_up.data, one.down.data]) for one in networks)
    form, offset = Format.parse(name), networks[0].gate_up.nbytes
    return ExpertPool(form, form, HIDDEN, INNER, offset, blobs, torch.zeros(POOL, dtype=torch.int64))


def _heads() -> Iterator[Case]:
    weights = AttentionWeights(
        draw(HIDDEN, seed=12),
        matrix_of("w8a8:64", (HEADS + 2 * KV_HEADS) * WIDTH, HIDDEN, seed=13),
        draw(HEADS + KV_HEADS, WIDTH, seed=14),
        EPS,
        HEADS,
        KV_HEADS,
    )
    for rows in ROWS:
        cos, sin = draw(rows, ROTARY // 2, seed=15), draw(rows, ROTARY // 2, seed=16)
        slots = torch.randperm(3 * BLOCK_SIZE, generator=torch.Generator().manual_seed(17))[:rows]
        cache = _cache(3, CACHES[-1] if rows > 1 else torch.float32)
        arguments = (rows_of(rows), weights, cos, sin, *cache, slots)
        yield op_case("query_key_value", _said(rows), *arguments, written=(4, 5))


def _cache(blocks: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    keys = draw(blocks, KV_HEADS, WIDTH, BLOCK_SIZE, seed=18)
    return keys.to(dtype), draw(blocks, KV_HEADS, BLOCK_SIZE, WIDTH, seed=19).to(dtype)


def _attention() -> Iterator[Case]:
    keys, values = _cache(6, torch.float32)
    table = torch.tensor([5, 0, 3, 2], dtype=torch.int32)
    # A row that sees a part of its last block, drafts across blocks, a prompt, and all of them at once.
    for spans in (
        [(0, 1, 149, 0)],
        [(0, 3, 126, 0)],
        [(0, 40, 70, 1)],
        [(0, 1, 200, 0), (1, 19, 0, 2), (20, 2, 62, 1)],
    ):
        plan = AttentionPlan(torch.tensor(spans, dtype=torch.int32), table)
        rows = sum(span[1] for span in spans)
        q = draw(rows, HEADS, WIDTH, seed=rows)
        for dtype in CACHES:
            yield op_case("paged_attention", _said(rows), q, keys.to(dtype), values.to(dtype), plan, WIDTH**-0.5)


def _last_layers() -> Iterator[Case]:
    matrix = matrix_of("w8a8:64", PADDED, 192, seed=20)
    allowed = draw(VOCABULARY, seed=21) > 0
    restricted = Restriction(allowed, torch.tensor([5, 77, 4099]), 1.1, 0.7)
    for restrictions in ([Restriction(temperature=0.6)], [Restriction(), restricted, Restriction(allowed)]):
        rows = len(restrictions)
        yield op_case("head", _said(rows), draw(rows, 192, seed=22), matrix, VOCABULARY, restrictions, 64)


def _step_cases() -> Iterator[Case]:
    for rows, exclusive in STEPS:
        yield Case("route_step", _said(rows), *planned_steps(rows, exclusive))


def _copies() -> Iterator[Case]:
    for exclusive in (False, True):
        yield Case("page_in", "exchanged" if exclusive else "copied", *copied_blobs(exclusive))


# In the order in which they build on each other.
CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "linear": _products,
    "rms_norm": _norms,
    "swiglu": _networks,
    "route": _routes,
    "experts": _expert_layers,
    "query_key_value": _heads,
    "paged_attention": _attention,
    "head": _last_layers,
    "page_in": _copies,
    "route_step": _step_cases,
}
