"""Kernels that are wrong on purpose: what the checks of compiled kernels must notice."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import torch
import triton
import triton.language as tl

from kernels.gpu.launch import launch
from tests.kernels.gpu.compiling import Case, compile_case


@triton.jit
def _one_op(p_x, p_y, n, OP: tl.constexpr):
    offsets = tl.program_id(0) * 128 + tl.arange(0, 128)
    mask = offsets < n
    x, y = tl.load(p_x + offsets, mask=mask), tl.load(p_y + offsets, mask=mask)
    if OP == "divide":
        x = x / y
    elif OP == "exp":
        x = tl.exp(x)
    elif OP == "log":
        x = tl.log(x)
    elif OP == "rsqrt":
        x = tl.rsqrt(x)
    elif OP == "sqrt":
        x = tl.sqrt(x)
    elif OP == "fma":
        x = tl.fma(x, y, y)
    else:
        x = x * y + y
    tl.store(p_x + offsets, x, mask=mask)


@triton.jit
def _spill(p_x, p_y):
    offsets = tl.arange(0, 64)[:, None] * 128 + tl.arange(0, 128)[None, :]
    x = tl.load(p_x + offsets)
    total = tl.max(x, axis=1)
    tl.store(p_y + offsets, x * total[:, None] + tl.max(x * total[:, None], axis=0)[None, :])


@triton.jit
def _float_dot(p_x, p_y):
    o_row, o_column = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :]
    x = tl.load(p_x + o_row * 16 + o_column)
    tl.store(p_y + o_row * 16 + o_column, tl.dot(x, x))


@triton.jit
def _float_atomic(p_x, p_y):
    tl.atomic_add(p_y, tl.load(p_x))


@triton.jit
def _crowd(p_x, p_y):
    o_row, o_column = tl.arange(0, 64), tl.arange(0, 1024)
    x = tl.load(p_x + o_row[:, None] * 1024 + o_column[None, :])
    y = tl.load(p_y + o_column[:, None] * 64 + o_row[None, :])
    tl.store(p_x + o_row[:, None] * 64 + o_row[None, :], tl.dot(x, y).to(tl.int8))


@triton.jit
def _copy(p_from, p_to, stride, WIDE: tl.constexpr, SPLIT: tl.constexpr):
    row = tl.program_id(0)
    if WIDE:
        row = row.to(tl.int64)
    columns = tl.arange(0, 128)
    start = row * stride
    if SPLIT:
        start = start.to(tl.int64)
    tl.store(p_to + columns, tl.load(p_from + start + columns))


@triton.jit
def _wrong_types(p_x):
    tl.store(p_x, tl.dot(tl.load(p_x), 3))


def _float(op: str) -> None:
    launch(_one_op, (1,), torch.empty(128), torch.empty(128), 100, OP=op)


def _two(kernel: Any) -> None:
    launch(kernel, (1,), torch.empty(64, 128), torch.empty(64, 128), warps=1)


def _long(wide: bool, split: bool = False) -> None:
    """A copy of one row of a tensor of 2^31 bytes."""
    whole = torch.empty(2**24, 128, dtype=torch.uint8)
    launch(_copy, (2**24,), whole, torch.empty(128, dtype=torch.uint8), whole.stride(0), WIDE=wide, SPLIT=split)


def _bytes(rows: int, columns: int) -> torch.Tensor:
    return torch.empty(rows, columns, dtype=torch.int8)


CASES = [
    *(Case(op, lambda op=op: _float(op)) for op in ("divide", "exp", "log", "rsqrt", "sqrt", "fma", "product and sum")),
    Case("spill", lambda: _two(_spill)),
    Case("float dot", lambda: _two(_float_dot)),
    Case("float atomic", lambda: _two(_float_atomic)),
    Case("crowd", lambda: launch(_crowd, (1,), _bytes(64, 1024), _bytes(1024, 64), warps=8)),
    Case("narrow", lambda: _long(wide=False)),
    Case("widened late", lambda: _long(wide=False, split=True)),
    Case("wide", lambda: _long(wide=True), traits=(r"ld\.global",)),
    Case("traits", lambda: _long(wide=True), traits=(r"ld\.global", r"mma\.sync.*s8")),
    Case("wrong types", lambda: launch(_wrong_types, (1,), torch.empty(1))),
    Case("nothing", lambda: None),
]

# The same expression with fusion, which launch() never allows.
FUSED = Case("fused", lambda: _float("product and sum"))

if __name__ == "__main__":
    made = [one for case in CASES for one in compile_case(case, int(sys.argv[1]))]
    made += compile_case(FUSED, int(sys.argv[1]), fused=True)
    json.dump([asdict(one) for one in made], sys.stdout)
