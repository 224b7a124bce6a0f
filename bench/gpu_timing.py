"""Seconds of launches, and the rates of a machine's links."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from bench.gpu_model import DEVICE
from kernels.gpu.tables import ExpertShape
from runtime.gpu.host_pool import HostPool
from runtime.gpu.host_share import HostShare, native_variant
from runtime.hardware import set_threads, usable_cores
from runtime.rates import memory_rate

ON_GPU = DEVICE.type == "cuda"

# Bytes of a copy that is long enough to show what a link gives.
COPIED = 1 << 30 if ON_GPU else 1 << 20
ROUNDS = 20 if ON_GPU else 1


def graph_seconds(launches: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of what `launches` takes on the device, replayed as a graph; in the interpreter once, as it is."""
    if not ON_GPU:
        return wall_seconds(launches, 1)
    launches()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launches()
    graph.replay()
    taken: list[float] = []
    for _ in range(rounds):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        taken.append(before.elapsed_time(after) / 1e3)
    return statistics.median(taken)


def wall_seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of what `work` takes until the device is done with it."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        if ON_GPU:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def pinned_copy_rate() -> float:
    """Bytes a second from pinned memory to the device, in one long copy."""
    host = torch.ones(COPIED, dtype=torch.uint8, pin_memory=ON_GPU)
    there = torch.empty(COPIED, dtype=torch.uint8, device=DEVICE)
    return COPIED / graph_seconds(lambda: there.copy_(host, non_blocking=True))


def device_copy_rate() -> float:
    """Bytes a second that are read and written together, by a long copy on the device."""
    here, there = (torch.ones(COPIED, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    return 2 * COPIED / graph_seconds(lambda: there.copy_(here))


def dram_rate() -> float:
    """Bytes a second that all cores read."""
    return memory_rate(usable_cores()).bytes_per_s


def host_rate(pool: HostPool, shape: ExpertShape, content: int, per_token: int) -> float | None:
    """Bytes a second of experts that the host computes for one row, None without a compiler for its kernels.

    Other experts each time, as no cache holds all of a model's.
    """
    variant = native_variant()
    if variant is None:
        return None
    set_threads(None)
    count = min(per_token, pool.frames)
    host = HostShare.allocate(variant, None, pool, shape, layers=1, rows=1, per_token=per_token, experts=count)
    host.tables.pairs.copy_(torch.arange(per_token, dtype=torch.int32))
    random, task, taken = np.random.default_rng(0), host.nodes[0].task, []
    for _ in range(ROUNDS + 2):
        words = [count, 1]
        for pair, frame in enumerate(random.choice(pool.frames, count, replace=False).tolist()):
            words += [frame, pair, pair + 1]
        host.tables.words.copy_(torch.tensor(words, dtype=torch.int32))
        started = time.perf_counter()
        task.run()
        taken.append(time.perf_counter() - started)
    return count * content / statistics.median(taken[2:])
