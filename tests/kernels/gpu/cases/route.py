"""What routers and layer steps launch."""

from __future__ import annotations

from functools import partial

import torch

from kernels.gpu.policy import Policy
from kernels.gpu.route import Guesses, RouterShape, RouteScratch, launch_ahead, launch_route, launch_route_step, route
from kernels.gpu.tables import Counter, Fetches, Groups, InPlace, Placement
from tests.kernels.gpu.compiling import Case

HIDDEN, EXPERTS, LAYERS = 4096, 256, 31
SHAPE = RouterShape(8, 8, 4, 2.5)
BLOB = 6_700_032


def ints(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype)


def placement(slots: int, exclusive: bool) -> Placement:
    blobs = LAYERS * EXPERTS
    return Placement(
        location=ints(blobs),
        owner=ints(slots),
        last_used=ints(blobs),
        frequency=torch.empty(blobs),
        now=ints(1),
        counters=ints(len(Counter), dtype=torch.int64),
        slots=torch.empty(slots, BLOB, dtype=torch.uint8, device="meta"),
        frames=ints(1, dtype=torch.int64),
        exclusive=exclusive,
    )


def groups(rows: int) -> Groups:
    most = min(EXPERTS, rows * SHAPE.experts_per_token)
    pairs = rows * SHAPE.experts_per_token
    return Groups(
        count=ints(1),
        experts=ints(most),
        starts=ints(most + 1),
        pairs=ints(pairs),
        addresses=ints(most, dtype=torch.int64),
        kinds=ints(most),
        pair_kinds=ints(pairs),
        most=most,
        most_rows=rows,
        per_token=SHAPE.experts_per_token,
    )


def in_place(rows: int) -> InPlace:
    pairs = rows * SHAPE.experts_per_token
    return InPlace(
        words=ints(2 + 3 * min(EXPERTS, pairs)),
        pairs=ints(pairs),
        q=ints(rows, HIDDEN, dtype=torch.int8),
        scales=torch.empty(rows, HIDDEN // 64),
        outputs=torch.empty(pairs, HIDDEN),
        fault=ints(1),
    )


def policy_of(name: str) -> Policy:
    return Policy(name, LAYERS, EXPERTS, 2.0 * EXPERTS / 8 * LAYERS, 0.8)


def _route(rows: int, dtype: torch.dtype) -> None:
    weight, bias = torch.empty(EXPERTS, HIDDEN, dtype=dtype), torch.empty(EXPERTS)
    route(torch.empty(rows, HIDDEN), weight, bias, experts_per_token=8, groups=8, groups_kept=4, scale=2.5)


def _guess() -> None:
    weight, bias = torch.empty(EXPERTS, HIDDEN, dtype=torch.bfloat16), torch.empty(EXPERTS)
    products = torch.empty(1, EXPERTS)
    launch_route(torch.empty(1, HIDDEN), weight, bias, SHAPE, torch.empty(1, 8), ints(1, 8), products)


def _step(rows: int, slots: int, name: str, exclusive: bool = False, forced: bool = False) -> None:
    policy, most = policy_of(name), min(EXPERTS, 8 * rows)
    launch_route_step(
        torch.empty(rows, HIDDEN),
        torch.empty(EXPERTS, HIDDEN, dtype=torch.bfloat16),
        torch.empty(EXPERTS),
        SHAPE,
        5,
        placement(slots, exclusive),
        ints(most + 1),
        groups(rows),
        torch.empty(rows, 8),
        ints(rows, 8),
        Fetches(ints(1), ints(most, 3)),
        in_place(rows),
        policy,
        RouteScratch.empty(rows, policy, 8, slots, torch.device("cpu")),
        ints(rows, 8) if forced else None,
    )


def _ahead(rows: int, guessing: bool, name: str = "lfru", slots: int = 3000) -> None:
    policy = policy_of(name)
    guesses = Guesses(6, ints(rows, 8), torch.empty(rows, 8), 4) if guessing else None
    launch_ahead(
        placement(slots, False),
        5,
        groups(rows),
        guesses,
        Fetches(ints(1), ints(8, 3)),
        policy,
        RouteScratch.empty(rows, policy, 8, slots, torch.device("cpu")),
        4,
    )


# The products are read 16 bytes at a time, and what programs have written is handed on.
_STEP = (r"cp\.async\.cg|ld\.global.*v4\.b32", r"atom\.global\.gpu\.acq_rel")

CASES = [
    Case("route:1", partial(_route, 1, torch.bfloat16)),
    Case("route:512", partial(_route, 512, torch.float32), architectures=(80, 120)),
    Case("route:guess", _guess, architectures=(90,)),
    # One policy on every architecture, and each on one: what differs is integer arithmetic.
    Case("step:1:lfru", partial(_step, 1, 7936, "lfru"), _STEP),
    Case("step:1:lru", partial(_step, 1, 1024, "lru", exclusive=True), _STEP, (86,)),
    Case("step:1:lfu", partial(_step, 1, 7936, "lfu", forced=True), _STEP, (89,)),
    Case("step:1:slru", partial(_step, 1, 7936, "slru", exclusive=True), _STEP, (90,)),
    Case("step:1:least-stale", partial(_step, 1, 3000, "least-stale"), _STEP, (120,)),
    Case("step:8", partial(_step, 8, 7936, "lfru"), _STEP, (90,)),
    Case("step:63", partial(_step, 63, 20000, "slru"), _STEP, (80,)),
    Case("ahead:guesses", partial(_ahead, 1, True)),
    Case("ahead:guesses:8", partial(_ahead, 8, True, "slru", 7936), architectures=(90,)),
    Case("ahead:admission", partial(_ahead, 1, False), architectures=(80, 120)),
]
