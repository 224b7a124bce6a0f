"""What the experts of a layer launch: a decode step, a few rows, and a chunk of a prompt."""

from __future__ import annotations

from functools import partial

import torch

from kernels.formats import Format
from kernels.gpu.combine import launch_combine
from kernels.gpu.experts import launch_down, launch_gate_up
from kernels.gpu.feed_forward import launch_gated
from kernels.gpu.launch import fresh_fault
from kernels.gpu.quantise import Quantised
from kernels.gpu.tables import ExpertShape, Groups
from tests.kernels.gpu.compiling import Case

CPU = torch.device("cpu")
TENSOR_CORES = r"(mma|wgmma)\S*s8"
WIDE_LOADS = r"cp\.async\.cg\.shared\.global \[[^]]+\], \[[^]]+\], 0x10"


def shape_of(gate_up: str, down: str, hidden: int, inner: int) -> ExpertShape:
    form = Format.parse(gate_up)
    return ExpertShape(form, Format.parse(down), hidden, inner, form.nbytes(2 * inner, hidden))


def groups_of(tokens: int, per_token: int, experts: int) -> Groups:
    pairs, entries = tokens * per_token, min(tokens * per_token, experts)
    words = partial(torch.empty, dtype=torch.int32)
    addresses = torch.empty(entries, dtype=torch.int64)
    return Groups(
        words(1), words(entries), words(entries + 1), words(pairs), addresses, words(entries), words(pairs),
        entries, tokens, per_token,
    )  # fmt: skip


def _experts(tokens: int, shape: ExpertShape, per_token: int = 8, experts: int = 256) -> None:
    groups = groups_of(tokens, per_token, experts)
    a = Quantised.empty(tokens, shape.hidden, shape.gate_up.group, CPU)
    hidden = Quantised.empty(tokens * per_token, shape.inner, shape.down.group, CPU)
    launch_gate_up(a, groups, shape, hidden, fresh_fault(CPU))
    launch_down(hidden, groups, shape, torch.empty(tokens * per_token, min(shape.hidden, 1024)))


def _combine(tokens: int, hidden: int) -> None:
    out, y = torch.empty(tokens, hidden), torch.empty(tokens * 8, hidden)
    kinds, weights = torch.empty(tokens * 8, dtype=torch.int32), torch.empty(tokens, 8)
    launch_combine(y, weights, out, pair_kinds=kinds, in_place=y, shared=out, residual=out)
    launch_combine(y, weights, out, pair_kinds=kinds, total_in=out)


def _gated(inner: int) -> None:
    gate_up, fault = torch.empty(3, 2 * inner), fresh_fault(CPU)
    launch_gated(gate_up, torch.empty(3, inner), fault)
    launch_gated(gate_up, Quantised.empty(3, inner, 64, CPU), fault)


_BIG = shape_of("w4a8:64", "w4a8:64", 4096, 1024)
_ODD = {
    "w4a8:32/w8a8:128:fp16:p2": shape_of("w4a8:32", "w8a8:128:fp16:p2", 256, 128),
    "w8a8:128:zeros:p4/w4a8:32:zeros": shape_of("w8a8:128:zeros:p4", "w4a8:32:zeros", 1024, 128),
    "w8a8:128/w8a8:128": shape_of("w8a8:128", "w8a8:128", 4096, 1024),
    "w8a8:64/w8a8:64": shape_of("w8a8:64", "w8a8:64", 4096, 1024),
}

CASES = [
    *(
        Case(f"experts:{tokens}", partial(_experts, tokens, _BIG), (TENSOR_CORES, WIDE_LOADS))
        for tokens in (1, 63, 4096)
    ),
    *(
        Case(f"experts:{name}:{tokens}", partial(_experts, tokens, shape, 2, 5), (TENSOR_CORES,), (80, 90))
        for name, shape in _ODD.items()
        for tokens in (1, 300)
    ),
    Case("combine", partial(_combine, 1, 4096), (r"ld\.global\S*\.v4\.b32",)),
    Case("gated", partial(_gated, 1024)),
]
