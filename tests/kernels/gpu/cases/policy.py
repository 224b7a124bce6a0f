"""What touching and choosing victims launch by themselves."""

from __future__ import annotations

from functools import partial

import torch

from kernels.gpu.policy import launch_touch, launch_victims
from tests.kernels.gpu.cases.route import EXPERTS, LAYERS, ints, policy_of
from tests.kernels.gpu.compiling import Case


def _touch(name: str) -> None:
    blobs = LAYERS * EXPERTS
    launch_touch(ints(8), ints(blobs), torch.empty(blobs), 2000, policy_of(name))


def _victims(name: str) -> None:
    blobs, slots = LAYERS * EXPERTS, 3000
    launch_victims(
        ints(slots),
        ints(blobs),
        torch.empty(blobs),
        torch.empty(slots, dtype=torch.bool),
        ints(8),
        2000,
        policy_of(name),
        ints(slots, dtype=torch.int64),
        ints(3, 24, dtype=torch.int64),
        ints(8),
    )


CASES = [
    Case("policy:touch", partial(_touch, "lfru")),
    Case("policy:victims:lfru", partial(_victims, "lfru"), architectures=(80,)),
    Case("policy:victims:least-stale", partial(_victims, "least-stale"), architectures=(120,)),
]
