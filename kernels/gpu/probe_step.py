"""What a GPU plans and copies when it is examined: layer steps beside a plain model of their rules, and blobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import floating
from kernels.gpu.page_in import launch_page_in
from kernels.gpu.policy import Policy
from kernels.gpu.route import Guesses, RouterShape, RouteScratch, launch_ahead, launch_route_step
from kernels.gpu.tables import Counter, Fetches, Groups, InPlace, Kind, Placement

Sides = tuple[Callable[[torch.device], list[Tensor]], Callable[[], list[Tensor]]]

# The router of the 103B model, for few layers; slots for two programs, a few of them free.
ROUTER, EXPERTS, LAYERS, HIDDEN = RouterShape(8, 8, 4, 2.5), 256, 2, 160
SLOTS, FILLED = 136, 132
STEPS, SUREST, MOST_AHEAD = 6, 4, 3

# Bytes of a blob: a few words; and not a whole number of what all programs of a copy take at once.
SMALL, LARGE = 48, 600_016

# Layer steps that went before.
BEFORE = 10


def planned_steps(rows: int, exclusive: bool) -> Sides:
    """Steps of so many rows, each of which fetches some experts and then others ahead: tables, placement, slots."""
    return lambda device: _planned(rows, exclusive, device), lambda: _Plain(rows, exclusive).steps()


def copied_blobs(exclusive: bool) -> Sides:
    """Blobs fetched into slots, exchanged for what is in these or not: slots and frames."""
    moves = ((2, 0, 1), (0, 3, 0), (3, 1, 1))

    def wanted() -> list[Tensor]:
        frames, slots = _bytes(5, LARGE, seed=1), _bytes(4, LARGE, seed=2)
        for frame, slot, leaves in moves:
            left = slots[slot].clone()
            slots[slot] = frames[frame]
            if exclusive and leaves:
                frames[frame] = left
        return [slots, frames]

    return lambda device: _copied(moves, exclusive, device), wanted


def _copied(moves: Iterable[tuple[int, int, int]], exclusive: bool, device: torch.device) -> list[Tensor]:
    frames, slots = _host(_bytes(5, LARGE, seed=1), device), _bytes(4, LARGE, seed=2).to(device)
    count, rows = torch.tensor([3], dtype=torch.int32), torch.tensor([*moves, (4, 2, 1)], dtype=torch.int32)
    placement = _placement(slots, frames, [-1] * 4, [-1] * 4, [0] * 4, exclusive)
    launch_page_in(Fetches(count.to(device), rows.to(device)), placement)
    return [slots.cpu(), frames]


def _bytes(count: int, size: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size), dtype=torch.uint8, generator=random)


def _host(content: Tensor, device: torch.device) -> Tensor:
    """Host memory that the device reads by its address."""
    return content.pin_memory() if device.type == "cuda" else content


def _placement(
    slots: Tensor, frames: Tensor, location: list[int], owner: list[int], last_used: list[int], exclusive: bool
) -> Placement:
    device = slots.device

    def ints(values: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return Placement(
        location=ints(location),
        owner=ints(owner),
        last_used=ints(last_used),
        frequency=torch.zeros(len(location), device=device),
        now=ints([BEFORE]),
        counters=ints([0] * len(Counter), torch.int64),
        slots=slots,
        frames=ints([frames.data_ptr()], torch.int64),
        exclusive=exclusive,
    )


@dataclass(frozen=True)
class _Start:
    """Inputs of some steps, and where everything is before them."""

    x: Tensor  # fp32 [STEPS, T, M]
    weight: Tensor
    bias: Tensor
    fetch_of: list[int]
    location: list[int]
    owner: list[int]
    last_used: list[int]
    frames: Tensor
    slots: Tensor

    @classmethod
    def of(cls, rows: int) -> _Start:
        random = torch.Generator().manual_seed(rows)
        x = torch.randn(STEPS, rows, HIDDEN, generator=random)
        # Some rows come again, so that experts are found where they were put.
        x[-LAYERS:] = x[-2 * LAYERS : -LAYERS]
        blobs = LAYERS * EXPERTS
        owner = [*torch.randperm(blobs, generator=random)[:FILLED].tolist(), *[-1] * (SLOTS - FILLED)]
        location = [-1 - blob for blob in range(blobs)]
        last_used = [0] * blobs
        for slot, blob in enumerate(owner[:FILLED]):
            location[blob], last_used[blob] = slot, 1 + slot * 7 % BEFORE
        frames, slots = _bytes(blobs, SMALL, seed=3), torch.zeros(SLOTS, SMALL, dtype=torch.uint8)
        slots[:FILLED] = frames[owner[:FILLED]]
        return cls(
            x,
            torch.randn(EXPERTS, HIDDEN, generator=random).bfloat16() * 0.1,
            torch.randn(EXPERTS, generator=random) * 0.1,
            [(missing + 1) // 2 for missing in range(_most(rows) + 1)],
            location,
            owner,
            last_used,
            frames,
            slots,
        )


def _most(rows: int) -> int:
    return min(rows * ROUTER.experts_per_token, EXPERTS)


def _planned(rows: int, exclusive: bool, device: torch.device) -> list[Tensor]:
    start, most, k = _Start.of(rows), _most(rows), ROUTER.experts_per_token
    frames = _host(start.frames, device)
    placement = _placement(
        start.slots.to(device, copy=True), frames, start.location, start.owner, start.last_used, exclusive
    )
    policy = Policy("lru", LAYERS, EXPERTS, half_life=1.0, protected=0.5)
    scratch = RouteScratch.empty(rows, policy, k, SLOTS, device)
    x, weight, bias = start.x.to(device), start.weight.to(device), start.bias.to(device)
    fetch_of = torch.tensor(start.fetch_of, dtype=torch.int32, device=device)
    found: list[Tensor] = []
    for step in range(STEPS):
        groups, in_place = _tables(rows, most, device)
        needed, ahead = _no_fetches(most, device), _no_fetches(most, device)
        weights, ids = torch.zeros(rows, k, device=device), torch.zeros(rows, k, dtype=torch.int32, device=device)
        layer = step % LAYERS
        launch_route_step(
            x[step], weight, bias, ROUTER, layer, placement, fetch_of, groups,
            weights, ids, needed, in_place, policy, scratch,
        )  # fmt: skip
        launch_page_in(needed, placement)
        guesses = Guesses((layer + 1) % LAYERS, ids, weights, SUREST) if _is_guessing(step) else None
        launch_ahead(placement, layer, groups, guesses, ahead, policy, scratch, MOST_AHEAD)
        launch_page_in(ahead, placement)
        offsets = torch.where(groups.addresses == 0, 0, groups.addresses - placement.slots.data_ptr() + 1)
        tables = (
            ids, groups.count, groups.experts, groups.starts, groups.kinds, groups.pairs, groups.pair_kinds, offsets,
            needed.count, needed.moves, in_place.words, in_place.pairs, ahead.count, ahead.moves,
        )  # fmt: skip
        found += [weights, torch.cat([table.flatten().long() for table in tables])]
    places = (placement.location, placement.owner, placement.last_used, placement.counters)
    found += [torch.cat([table.long() for table in places]), placement.slots]
    return [tensor.cpu() for tensor in found] + [frames]


def _is_guessing(step: int) -> bool:
    """Else what was computed in place is fetched."""
    return step % 3 > 0


def _no_fetches(most: int, device: torch.device) -> Fetches:
    return Fetches(
        torch.zeros(1, dtype=torch.int32, device=device), torch.zeros(most, 3, dtype=torch.int32, device=device)
    )


def _tables(rows: int, most: int, device: torch.device) -> tuple[Groups, InPlace]:
    """Of a step, all zeros."""
    k = ROUTER.experts_per_token

    def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(*shape, dtype=dtype, device=device)

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
    nothing = torch.zeros(0, device=device)
    in_place = InPlace(ints(2 + 3 * most), ints(rows * k), ints(0, dtype=torch.int8), nothing, nothing, ints(1))
    return groups, in_place


class _Plain:
    """The rules of a step with the policy lru, one expert after another."""

    def __init__(self, rows: int, exclusive: bool) -> None:
        self.rows, self.exclusive, self.most = rows, exclusive, _most(rows)
        self.start = start = _Start.of(rows)
        self.location, self.owner, self.last_used = start.location, start.owner, start.last_used
        self.frames, self.slots = start.frames, start.slots
        self.now = BEFORE
        self.counts = dict.fromkeys(Counter, 0)
        self.guessed: set[int] = set()  # blobs

    def steps(self) -> list[Tensor]:
        found: list[Tensor] = []
        for step in range(STEPS):
            ids, weights = self._route(step)
            layer, first = step % LAYERS, step % LAYERS * EXPERTS
            pairs = [first + expert for expert in ids.flatten().tolist()]
            tables, in_place = self._step(layer, pairs)
            wanted = in_place
            if _is_guessing(step):
                wanted = self._guess((layer + 1) % LAYERS * EXPERTS, ids, weights)
            moves = self._ahead(sorted(set(pairs)), wanted, Counter.AHEAD if _is_guessing(step) else Counter.ADMITTED)
            table = [*ids.flatten().tolist(), *tables, len(moves), *_padded(moves, self.most, 3)]
            found += [weights, torch.tensor(table)]
        places = [*self.location, *self.owner, *self.last_used, *self.counts.values()]
        return [*found, torch.tensor(places), self.slots, self.frames]

    def _route(self, step: int) -> tuple[Tensor, Tensor]:
        return floating.route(
            self.start.x[step],
            self.start.weight,
            self.start.bias,
            experts_per_token=ROUTER.experts_per_token,
            groups=ROUTER.groups,
            groups_kept=ROUTER.groups_kept,
            scale=ROUTER.scale,
        )

    def _step(self, layer: int, pairs: list[int]) -> tuple[list[int], list[int]]:
        """All tables of a step whose pairs use these blobs; those that are computed in place."""
        self.now += (layer - (self.now - 1)) % LAYERS or LAYERS
        used = sorted(set(pairs))
        missing = [blob for blob in used if self.location[blob] < 0]
        pinned = {self.location[blob] for blob in used} - {self.location[blob] for blob in missing}
        count = min(self.start.fetch_of[len(missing)], SLOTS - len(pinned))
        fetched, in_place = missing[:count], missing[count:]
        kinds = dict.fromkeys(used, Kind.RESIDENT) | dict.fromkeys(fetched, Kind.FETCHED)
        kinds |= dict.fromkeys(in_place, Kind.IN_PLACE)
        moves = self._bring(fetched, pinned)
        for blob in used:
            self.last_used[blob] = self.now
        hits, right = len(used) - len(missing), len(self.guessed & set(used))
        self.guessed -= set(range(layer * EXPERTS, (layer + 1) * EXPERTS))
        self._count(USES=len(used), HITS=hits, FETCHED=count, IN_PLACE=len(in_place), GUESSED_RIGHT=right)
        return self._tables(layer, pairs, kinds, moves), in_place

    def _tables(self, layer: int, pairs: list[int], kinds: dict[int, Kind], moves: list[list[int]]) -> list[int]:
        used, most = sorted(kinds), self.most
        by_blob = [[pair for pair, blob in enumerate(pairs) if blob == one] for one in used]
        ordered = [pair for theirs in by_blob for pair in theirs]
        starts = [sum(map(len, by_blob[:index])) for index in range(len(used) + 1)]
        in_place = [index for index, blob in enumerate(used) if kinds[blob] is Kind.IN_PLACE]
        words = [[-1 - self.location[used[index]], starts[index], starts[index + 1]] for index in in_place]
        host_pairs = [pair if kinds[pairs[pair]] is Kind.IN_PLACE else 0 for pair in ordered]
        offsets = [0 if index in in_place else 1 + self.location[blob] * SMALL for index, blob in enumerate(used)]
        return [
            len(used),
            *_filled([blob - layer * EXPERTS for blob in used], most),
            *_filled(starts, most + 1),
            *_filled([kinds[blob] for blob in used], most),
            *ordered,
            *(kinds[blob] for blob in pairs),
            *_filled(offsets, most),
            len(moves),
            *_padded(moves, most, 3),
            len(in_place),
            self.rows,
            *_padded(words, most, 3),
            *host_pairs,
        ]

    def _guess(self, first: int, ids: Tensor, weights: Tensor) -> list[int]:
        """The surest experts of each row as those of the layer that starts at a blob."""
        ranked = weights.sort(dim=-1, descending=True, stable=True).indices[:, :SUREST]
        wanted = sorted({first + expert for expert in ids.gather(-1, ranked).flatten().tolist()})
        self.guessed = self.guessed - set(range(first, first + EXPERTS)) | set(wanted)
        self._count(GUESSED=len(wanted))
        return wanted

    def _ahead(self, used: list[int], wanted: list[int], counter: Counter) -> list[list[int]]:
        """What is fetched after a step: some of the blobs wanted, for which nothing leaves that it used."""
        stay = {self.location[blob] for blob in [*used, *wanted]}
        pinned = {place for place in stay if place >= 0}
        missing = [blob for blob in wanted if self.location[blob] < 0]
        coming = missing[: min(SLOTS - len(pinned), MOST_AHEAD)]
        self._count(**{counter.name: len(coming)})
        return self._bring(coming, pinned)

    def _bring(self, blobs: list[int], pinned: set[int]) -> list[list[int]]:
        """Gives each a slot: one that is free, else the one that was used longest ago, ties to the lower."""
        moves, taken = [], set(pinned)
        for blob in blobs:
            ranked = [(self._age(slot), slot) for slot in range(SLOTS) if slot not in taken]
            slot = min(ranked)[1]
            taken.add(slot)
            frame, left = -1 - self.location[blob], self.owner[slot]
            moves.append([frame, slot, int(left >= 0)])
            self.location[blob], self.owner[slot] = slot, blob
            come = self.frames[frame].clone()
            if left >= 0:
                self.location[left] = -1 - (frame if self.exclusive else left)
                self._count(EVICTED=1)
                if self.exclusive:
                    self.frames[frame] = self.slots[slot]
            self.slots[slot] = come
        return moves

    def _age(self, slot: int) -> int:
        return -1 if self.owner[slot] < 0 else max(self.last_used[self.owner[slot]], 1)

    def _count(self, **amounts: int) -> None:
        for name, amount in amounts.items():
            self.counts[Counter[name]] += amount


def _filled(numbers: Sequence[int], count: int) -> list[int]:
    return [*numbers, *[0] * (count - len(numbers))]


def _padded(rows: Sequence[Sequence[int]], count: int, columns: int) -> list[int]:
    return _filled([number for row in rows for number in row], count * columns)
