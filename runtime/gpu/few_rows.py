"""Runs steps of few rows: tells the device what to compute, has it done as one graph, and reads what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.gpu.tables import Counter
from runtime.config import ModelConfig
from runtime.errors import NumericsError
from runtime.experts.lookahead import Lookahead
from runtime.gpu.device_experts import DeviceExperts
from runtime.gpu.expert_step import Paths
from runtime.gpu.graphs import Graphs
from runtime.gpu.split import Split
from runtime.gpu.step import LayerStep
from runtime.gpu.step_inputs import StepTransfer
from runtime.gpu.step_rows import StepRows, provided_blocks
from runtime.gpu.step_tables import StepTables
from runtime.kv_cache import KVCache
from runtime.sequence import Batch

Observer = Callable[[int, Tensor], None]
Source = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class _Report:
    """What a step leaves for the host, in pinned memory."""

    faults: Tensor  # int32 [layers]
    ids: Tensor  # int32 [L, T, K]
    counters: Tensor  # int64 [len(Counter)]


class FewRows:
    """Forward passes over up to `most` rows, with the same bits whatever is resident, fetched or left to the host.

    State of its own is what is measured of steps: whether guesses pay, and how the missing are split.
    """

    def __init__(
        self,
        config: ModelConfig,
        experts: DeviceExperts,
        step: LayerStep,
        tables: StepTables,
        paths: Paths,
        graphs: Graphs,
        split: Split,
        lookahead: Lookahead,
        *,
        most: int,
        table: int,
    ) -> None:
        """`table` is how many blocks of keys a sequence may have; those of a step may share some."""
        self.most = most
        self._config = config
        self._experts = experts
        self._step = step
        self._tables = tables
        self._paths = paths
        self._graphs = graphs
        self._split = split
        self._lookahead = lookahead
        self._table = table
        self._transfers: dict[int, StepTransfer] = {}
        self._report = self._empty_report()
        self._before = torch.zeros(len(Counter), dtype=torch.int64)
        tables.fetch_of.copy_(split.fetch_of)

    def run(
        self, batch: Batch, embedded: Tensor, cache: KVCache, source: Source | None, observer: Observer | None
    ) -> Tensor:
        """Hidden states fp32 [T, M] after the final norm, of embedded tokens [T, M]. Raises NumericsError."""
        started = time.perf_counter()
        transfer = self._transfer(len(embedded))
        transfer.host.write(batch, embedded)
        if source is not None:
            self._force(transfer.host.forced_ids, source)
        rows = StepRows(transfer.device, cache, _blocks(batch, cache.block_size), forced=source is not None)
        paths = replace(self._paths, guessing=self._paths.guessing and self._lookahead.active)
        kind = (rows.count, rows.blocks, rows.forced, paths.guessing, cache.keys.data_ptr())
        self._graphs.run(kind, lambda: self._launch(transfer, rows, paths))
        out = self._step.out(rows.count)
        if out.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        self._check()
        self._note(rows.count, observer, time.perf_counter() - started)
        # The next step writes to the same memory.
        return out.clone()

    def _launch(self, transfer: StepTransfer, rows: StepRows, paths: Paths) -> None:
        transfer.launch()
        self._step.launch(rows, paths)
        self._report.faults.copy_(self._step.faults, non_blocking=True)
        # As a whole: rows of every layer would be gathered in memory of their own, which no capture allows.
        self._report.ids.copy_(self._tables.ids, non_blocking=True)
        self._report.counters.copy_(self._experts.placement.counters, non_blocking=True)

    def _check(self) -> None:
        faults = self._report.faults.nonzero()
        if self._paths.host is not None:
            in_place = self._paths.host.tables.fault
            layers = [self._experts.geometry.layers[i] for i in in_place.nonzero().flatten().tolist()]
            in_place.zero_()
        else:
            layers = []
        layers += faults.flatten().tolist()
        if layers:
            raise NumericsError(
                f"layer {min(layers)} was given an activation that is not finite",
                "The weights are damaged or of another model: verify them, or pack them again.",
            )

    def _note(self, rows: int, observer: Observer | None, seconds: float) -> None:
        """Counts what was used, and learns what the step took."""
        layers = [layer for layer in self._experts.geometry.layers if layer < self._config.num_hidden_layers]
        ids = self._report.ids[: len(layers), :rows].long()
        self._experts.count(0, ids)
        if observer is not None:
            for layer, used in zip(layers, ids, strict=True):
                observer(layer, used)
        change = self._report.counters - self._before
        self._before = self._report.counters.clone()
        self._lookahead.step(seconds)
        fetch_of = self._split.observe(int(change[Counter.FETCHED]), int(change[Counter.IN_PLACE]), seconds)
        if fetch_of is not None:
            self._tables.fetch_of.copy_(fetch_of)

    def _force(self, forced_ids: Tensor, source: Source) -> None:
        for position, layer in enumerate(self._experts.geometry.layers):
            if layer < self._config.num_hidden_layers:
                forced_ids[position].copy_(source(layer, forced_ids[position].long()))

    def _transfer(self, rows: int) -> StepTransfer:
        if rows not in self._transfers:
            forced = (len(self._experts.geometry.layers), self._config.num_experts_per_tok)
            device = self._experts.placement.location.device
            self._transfers[rows] = StepTransfer.allocate(
                rows, self._config.hidden_size, rows * self._table, forced, device
            )
        return self._transfers[rows]

    def _empty_report(self) -> _Report:
        on_device = (self._step.faults, self._tables.ids, self._experts.placement.counters)
        return _Report(*(torch.zeros_like(t, device="cpu", pin_memory=t.device.type == "cuda") for t in on_device))


def _blocks(batch: Batch, block_size: int) -> int:
    """How many blocks of keys the launches of a batch provide for."""
    return provided_blocks(max(-(-(span.context + span.length) // block_size) for span in batch.spans))
