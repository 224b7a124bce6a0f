"""What the head launches after its product."""

from __future__ import annotations

import torch

from kernels.gpu.head import HeadWorkspace, Restrictions, empty_candidates, launch_candidates
from kernels.ops import Restriction
from tests.kernels.gpu.compiling import Case


def _candidates(rows: int, vocabulary: int, size: int, count: int) -> None:
    cpu = torch.device("cpu")
    one = Restriction(torch.ones(vocabulary, dtype=torch.bool), torch.arange(9), 1.1, 0.6)
    into, workspace = empty_candidates(rows, size, count, cpu), HeadWorkspace.empty(rows, size, count, cpu)
    launch_candidates(torch.empty(rows, vocabulary), Restrictions.of([one] * rows, size, cpu), into, workspace)


CASES = [
    Case("head:greedy", lambda: _candidates(1, 157184, 157184, 1)),
    Case("head:top-k", lambda: _candidates(8, 157184, 157157, 20)),
    Case("head:small", lambda: _candidates(2, 832, 801, 40)),
]
