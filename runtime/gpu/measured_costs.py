"""What fetching and computing in place cost on this machine, each while the other goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.gpu.experts import launch_down, launch_gate_up
from kernels.gpu.launch import fresh_fault
from kernels.gpu.page_in import launch_page_in
from kernels.gpu.quantise import Quantised
from kernels.gpu.tables import ExpertShape, Fetches, Groups, Kind, Placement
from runtime.experts.cost import CostTable
from runtime.gpu.costs import measure
from runtime.gpu.host_share import HostShare


@dataclass(frozen=True)
class CostProbe:
    """Fetches experts into a buffer that nothing else uses, and has the host compute others, for a table of costs.

    `buffer` uint8 [W, blob bytes] takes the place of slots; one row of activation goes through each expert.
    """

    shape: ExpertShape
    placement: Placement
    buffer: Tensor
    host: HostShare
    frames: int
    per_token: int

    def table(self) -> CostTable:
        """Of up to as many experts as a token has, or the buffer holds."""
        most = min(self.per_token, len(self.buffer), self.frames // 2)
        return measure(self._fetch, self._in_place, most)

    def _fetch(self, count: int) -> float:
        """Seconds to fetch the first `count` frames and compute with them."""
        device = self.buffer.device
        numbers = torch.arange(count, dtype=torch.int32, device=device)
        fetches = Fetches(_one(count, device), torch.stack((numbers, numbers), dim=1).contiguous())
        groups = self._groups(count, numbers)
        a = Quantised.empty(1, self.shape.hidden, self.shape.gate_up.group, device)
        a.q.zero_(), a.scales.zero_()
        hidden = Quantised.empty(self.per_token, self.shape.inner, self.shape.down.group, device)
        y = torch.empty(self.per_token, self.shape.hidden, device=device)
        target = replace(self.placement, slots=self.buffer, exclusive=False)
        _settle(device)
        started = time.perf_counter()
        launch_page_in(fetches, target)
        launch_gate_up(a, groups, self.shape, hidden, fresh_fault(device), (Kind.FETCHED,))
        launch_down(hidden, groups, self.shape, y, (Kind.FETCHED,))
        _settle(device)
        return time.perf_counter() - started

    def _in_place(self, count: int) -> float:
        """Seconds for the host to compute with the last `count` frames."""
        words = torch.zeros_like(self.host.tables.words)
        words[:2] = torch.tensor([count, 1])
        lines = [(self.frames - 1 - i, i, i + 1) for i in range(count)]
        words[2 : 2 + 3 * count] = torch.tensor(lines, dtype=torch.int32).flatten()
        self.host.tables.words.copy_(words)
        self.host.tables.pairs[:count] = torch.arange(count, dtype=torch.int32)
        started = time.perf_counter()
        self.host.nodes[0].task.run()
        return time.perf_counter() - started

    def _groups(self, count: int, numbers: Tensor) -> Groups:
        device = self.buffer.device
        return Groups(
            count=_one(count, device),
            experts=numbers,
            starts=torch.arange(count + 1, dtype=torch.int32, device=device),
            pairs=numbers,
            addresses=self.buffer.data_ptr() + self.buffer.shape[1] * numbers.long(),
            kinds=torch.full((count,), int(Kind.FETCHED), dtype=torch.int32, device=device),
            pair_kinds=torch.full((count,), int(Kind.FETCHED), dtype=torch.int32, device=device),
            most=count,
            most_rows=1,
            per_token=self.per_token,
        )


def _one(number: int, device: torch.device) -> Tensor:
    return torch.tensor([number], dtype=torch.int32, device=device)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
