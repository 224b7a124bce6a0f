"""The tables that a layer step is planned in, one layer after another in the same memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from kernels.gpu.policy import Policy
from kernels.gpu.route import RouteScratch
from kernels.gpu.tables import ExpertShape, Fetches, Groups, InPlace
from runtime.config import ModelConfig
from runtime.gpu.vram import STAGED

# Columns of a move: the frame, the slot, and whether something leaves the slot for that frame.
MOVE = 3


@dataclass(frozen=True)
class StepTables:
    """For steps of up to so many rows. Staged, fetches are in pinned memory, where the host reads them too."""

    groups: Groups
    needed: Fetches
    ahead: Fetches
    route: RouteScratch
    ids: Tensor  # int32 [L, T, K], what every layer with experts used
    fetch_of: Tensor  # int32 [D + 1], of so many missing, how many are fetched

    @classmethod
    def allocate(
        cls, config: ModelConfig, policy: Policy, slots: int, rows: int, device: torch.device, *, staged: bool
    ) -> Self:
        k, experts = config.num_experts_per_tok, config.num_experts
        most = min(rows * k, experts)

        def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        def fetches() -> Fetches:
            count = min(most, STAGED // 2) if staged else most
            where = "cpu" if staged else device
            is_pinned = staged and device.type == "cuda"
            zeros = (torch.zeros(*shape, dtype=torch.int32, device=where) for shape in ((1,), (count, MOVE)))
            return Fetches(*(tensor.pin_memory() if is_pinned else tensor for tensor in zeros))

        groups = Groups(
            count=ints(1),
            experts=ints(most),
            starts=ints(most + 1),
            pairs=ints(rows * k),
            addresses=ints(most, dtype=torch.int64),
            kinds=ints(most),
            pair_kinds=ints(rows * k),
            most=most,
            most_rows=rows,
            per_token=k,
        )
        return cls(
            groups,
            fetches(),
            fetches(),
            RouteScratch.empty(rows, policy, k, slots, device),
            ints(policy.layers, rows, k),
            torch.arange(most + 1, dtype=torch.int32, device=device),
        )

    def groups_of(self, rows: int) -> Groups:
        """The groups, for fewer rows."""
        most = min(rows * self.groups.per_token, self.groups.most)
        return replace(self.groups, most=most, most_rows=rows)


def unused_in_place(tables: Groups, shape: ExpertShape, device: torch.device) -> InPlace:
    """What a plan writes to where the host computes nothing."""

    def zeros(*size: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(*size, dtype=dtype, device=device)

    return InPlace(
        words=zeros(2 + 3 * tables.most, dtype=torch.int32),
        pairs=zeros(tables.pairs.numel(), dtype=torch.int32),
        q=zeros(0, shape.hidden, dtype=torch.int8),
        scales=zeros(0, shape.hidden // shape.gate_up.group, dtype=torch.float32),
        outputs=zeros(0, shape.hidden, dtype=torch.float32),
        fault=zeros(1, dtype=torch.int32),
    )
