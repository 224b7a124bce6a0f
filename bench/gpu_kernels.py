"""Kernels by themselves: experts over the link, experts in a decode step, and what every token has besides."""

from __future__ import annotations

from functools import partial

import torch

from bench.gpu_model import DEVICE, weights_of
from bench.gpu_report import Report
from bench.gpu_targets import OF_DEVICE_COPY, OF_PINNED_COPY, Target
from bench.gpu_timing import (
    ON_GPU,
    device_copy_rate,
    dram_rate,
    graph_seconds,
    host_rate,
    pinned_copy_rate,
    wall_seconds,
)
from kernels.formats import Matrix
from kernels.gpu.attention import Rows, Workspace, decode_floats, launch_decode_attention
from kernels.gpu.driver import Driver
from kernels.gpu.experts import launch_down, launch_gate_up
from kernels.gpu.head import head
from kernels.gpu.launch import fresh_fault
from kernels.gpu.linear import launch_linear
from kernels.gpu.page_in import launch_page_in, launch_swap
from kernels.gpu.quantise import Quantised
from kernels.gpu.tables import Counter, ExpertShape, Fetches, Groups, Kind, Placement
from kernels.ops import Restriction
from runtime.config import ModelConfig
from runtime.gpu.host_pool import HostPool
from runtime.gpu.opening import expert_shape
from runtime.hardware import usable_cores
from runtime.measuring.random_pack import RandomModel
from runtime.measuring.random_store import RandomStore, RandomWeights

# Experts that are fetched at once, keys that a row sees, and bytes of weights that no cache of a GPU holds.
FETCHED = (1, 2, 4, 8, 16)
CONTEXTS = (1024, 8192) if ON_GPU else (64,)
UNCACHED = (256 << 20) if ON_GPU else 1
SETS = 8 if ON_GPU else 1
BLOCK = 64


def run(report: Report, model: RandomModel) -> None:
    """Two layers of experts are enough for each measurement to have others."""
    model = model.with_layers(model.config.first_k_dense_replace + 2)
    geometry, shape = model.geometry, expert_shape(model.geometry)
    copied, link = device_copy_rate(), pinned_copy_rate()
    report.figure("gb_per_s", {"device_copy": copied / 1e9, "pinned_copy": link / 1e9, "dram": dram_rate() / 1e9})
    with RandomStoreOnHost(model) as pool:
        slots = torch.empty(geometry.blobs, geometry.blob_bytes, dtype=torch.uint8, device=DEVICE)
        placement = _placement(pool, slots)
        _page_in(report, pool, placement, link)
        slots.copy_(pool.memory)
        for count in sorted({min(n, geometry.blobs) for n in OF_DEVICE_COPY}):
            _experts(report, slots, shape, count, model.config.num_experts_per_tok, geometry.content, copied)
        rate = host_rate(pool, shape, geometry.content, model.config.num_experts_per_tok)
        if rate is not None:
            report.figure("gb_per_s", {"host_experts": rate / 1e9})
    for context in CONTEXTS:
        _attention(report, model.config, context, copied)
    weights = weights_of(model)
    _dense(report, weights, copied)
    weights.close()


class RandomStoreOnHost:
    """Every expert of a model in frames."""

    def __init__(self, model: RandomModel) -> None:
        driver = Driver() if ON_GPU else None
        store = RandomStore(model.geometry)
        self._pool = HostPool.load(store, model.geometry.blobs, readers=usable_cores(), pinner=driver)

    def __enter__(self) -> HostPool:
        return self._pool

    def __exit__(self, *error: object) -> None:
        self._pool.close()


def _placement(pool: HostPool, slots: torch.Tensor) -> Placement:
    def zeros(count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(count, dtype=dtype, device=DEVICE)

    blobs = len(pool.location)
    return Placement(
        location=pool.location.to(DEVICE),
        owner=pool.owner(len(slots)).to(DEVICE),
        last_used=zeros(blobs, torch.int32),
        frequency=zeros(blobs, torch.float32),
        now=zeros(1, torch.int32),
        counters=zeros(len(Counter), torch.int64),
        slots=slots,
        frames=torch.tensor([pool.device_base], dtype=torch.int64, device=DEVICE),
        exclusive=False,
    )


def _page_in(report: Report, pool: HostPool, placement: Placement, link: float) -> None:
    """Fetches to slots that lie in another order, compared and timed; and exchanges."""
    if ON_GPU and not pool.pinned:
        report.failure("experts could not be pinned: raise the limit of locked memory")
        return
    blobs, size = len(placement.slots), placement.blob_bytes
    for count in (n for n in FETCHED if n <= blobs):
        moves = [(frame, blobs - 1 - 3 * frame % blobs, 1) for frame in range(count)]
        fetches = _fetches(moves)
        seconds = graph_seconds(partial(launch_page_in, fetches, placement))
        for frame, slot, _ in moves:
            if not torch.equal(placement.slots[slot].cpu(), pool.memory[frame]):
                report.failure(f"page_in of {count}: slot {slot} does not hold frame {frame}")
        there, here = placement.slots[:count], pool.memory[:count]
        plain = graph_seconds(lambda there=there, here=here: there.copy_(here, non_blocking=True))  # type: ignore[misc]
        rates = {"us": seconds * 1e6, "gb_per_s": count * size / seconds / 1e9, "plain": count * size / plain / 1e9}
        report.figure("page_in", {str(count): rates})
        if count == 8:
            of_copy = count * size / seconds / link
            report.target(Target("page_in of 8 experts, of a long pinned copy", OF_PINNED_COPY, of_copy))
            before = [placement.slots[slot].cpu().clone() for _, slot, _ in moves]
            launch_swap(fetches, placement)
            _settle()
            for (frame, _, _), went in zip(moves, before, strict=True):
                if not torch.equal(pool.memory[frame], went):
                    report.failure(f"swap: frame {frame} does not hold what left the slot")
            seconds = graph_seconds(partial(launch_swap, fetches, placement))
            report.figure("swap", {str(count): {"us": seconds * 1e6, "gb_per_s": count * size / seconds / 1e9}})


def _fetches(moves: list[tuple[int, int, int]]) -> Fetches:
    count = torch.tensor([len(moves)], dtype=torch.int32, device=DEVICE)
    return Fetches(count, torch.tensor(moves, dtype=torch.int32, device=DEVICE))


def _experts(
    report: Report, slots: torch.Tensor, shape: ExpertShape, count: int, k: int, content: int, copied: float
) -> None:
    """So many experts with one row each, other ones each time."""
    rows = -(-count // k)
    sets = [_groups(slots[at : at + count], count, rows, k) for at in range(0, len(slots) - count + 1, count)][:SETS]
    a = Quantised.empty(rows, shape.hidden, shape.gate_up.group, DEVICE)
    a.q.random_(-127, 128), a.scales.fill_(0.01)
    hidden = Quantised.empty(rows * k, shape.inner, shape.down.group, DEVICE)
    y, fault = torch.empty(rows * k, shape.hidden, device=DEVICE), fresh_fault(DEVICE)

    def gate_up() -> None:
        for groups in sets:
            launch_gate_up(a, groups, shape, hidden, fault, (Kind.RESIDENT,))

    def down() -> None:
        for groups in sets:
            launch_down(hidden, groups, shape, y, (Kind.RESIDENT,))

    times = {name: graph_seconds(work) / len(sets) for name, work in (("gate_up", gate_up), ("down", down))}
    if int(fault) or not bool(y.isfinite().all()):
        report.failure(f"{count} experts: not finite")
    rate = count * content / sum(times.values())
    figures = {name: seconds * 1e6 for name, seconds in times.items()}
    report.figure("experts_us", {str(count): figures | {"gb_per_s": rate / 1e9, "of_device_copy": rate / copied}})
    if count in OF_DEVICE_COPY:
        report.target(Target(f"decode of {count} experts, of a device copy", OF_DEVICE_COPY[count], rate / copied))


def _groups(blobs: torch.Tensor, count: int, rows: int, k: int) -> Groups:
    """One pair for each of the blobs."""
    numbers = torch.arange(count, dtype=torch.int32, device=DEVICE)
    kinds = torch.full((count,), int(Kind.RESIDENT), dtype=torch.int32, device=DEVICE)
    return Groups(
        count=torch.tensor([count], dtype=torch.int32, device=DEVICE),
        experts=numbers,
        starts=torch.arange(count + 1, dtype=torch.int32, device=DEVICE),
        pairs=numbers,
        addresses=blobs.data_ptr() + blobs.shape[1] * numbers.long(),
        kinds=kinds,
        pair_kinds=kinds,
        most=count,
        most_rows=rows,
        per_token=k,
    )


def _attention(report: Report, config: ModelConfig, context: int, copied: float) -> None:
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    blocks = context // BLOCK
    sets = max(1, min(4 * SETS, UNCACHED // (8 * context * kv_heads * width)))
    q = torch.randn(1, heads, width, device=DEVICE)
    keys = torch.randn(sets * blocks, kv_heads, width, BLOCK, device=DEVICE)
    values = torch.randn(sets * blocks, kv_heads, BLOCK, width, device=DEVICE)
    table = torch.randperm(sets * blocks).to(DEVICE, torch.int32)
    rows = [
        Rows(
            torch.tensor([one * blocks], dtype=torch.int32, device=DEVICE),
            torch.tensor([context], dtype=torch.int32, device=DEVICE),
            table,
            blocks,
        )
        for one in range(sets)
    ]
    out = torch.empty(1, heads * width, device=DEVICE)
    workspace = Workspace.empty(decode_floats(1, blocks, heads, width, BLOCK), DEVICE)

    def attend() -> None:
        for one in rows:
            launch_decode_attention(q, keys, values, one, width**-0.5, out, workspace)

    seconds = graph_seconds(attend) / sets
    share = 8 * context * kv_heads * width / seconds / copied
    report.figure("attention_us", {str(context): {"us": seconds * 1e6, "of_device_copy": share}})


def _dense(report: Report, weights: RandomWeights, copied: float) -> None:
    """Products that every token has, and the head."""
    last = weights.config.num_hidden_layers - 1
    prefix = f"model.layers.{last}"
    parts = ("attention.query_key_value", "attention.dense", "mlp.shared_experts.gate_up", "mlp.shared_experts.down")
    for part in parts:
        _linear(report, part, weights.matrix(f"{prefix}.{part}"), copied)
    matrix = weights.matrix("lm_head")
    matrix = Matrix(matrix.format, matrix.rows, matrix.columns, matrix.data.to(DEVICE))
    _linear(report, "lm_head", matrix, copied)
    x = torch.randn(1, matrix.columns, device=DEVICE)
    head(x, matrix, matrix.rows, [Restriction()], 1)
    seconds = wall_seconds(lambda: head(x, matrix, matrix.rows, [Restriction()], 1).ids.tolist())
    report.figure("head_us", {"greedy, with its launches": seconds * 1e6})


def _linear(report: Report, name: str, matrix: Matrix, copied: float) -> None:
    nbytes = matrix.data.numel()
    copies = [
        Matrix(matrix.format, matrix.rows, matrix.columns, matrix.data.to(DEVICE, copy=True))
        for _ in range(max(1, min(64, UNCACHED // nbytes)))
    ]
    a = Quantised.empty(1, matrix.columns, matrix.format.group, DEVICE)
    a.q.random_(-127, 128), a.scales.fill_(0.01)
    out = torch.empty(1, matrix.rows, device=DEVICE)

    def products() -> None:
        for one in copies:
            launch_linear(a, one, out)

    seconds = graph_seconds(products) / len(copies)
    report.figure("linear_us", {name: {"us": seconds * 1e6, "of_device_copy": nbytes / seconds / copied}})


def _settle() -> None:
    if ON_GPU:
        torch.cuda.synchronize()
