"""A layer step's tables in plain Python, after the same rules, beside those of the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kernels import floating
from kernels.gpu.policy import Policy
from kernels.gpu.route import Guesses, RouterShape, RouteScratch, launch_ahead, launch_route_step
from kernels.gpu.tables import Counter, Fetches, Groups, InPlace, Kind, Placement
from runtime.experts.policy import HALF_LIFE, PROTECTED, Rhythm, make_policy
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits

HIDDEN, BLOB = 24, 48
GARBAGE = -77


def ints(*shape: int, fill: int = GARBAGE, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.full(shape, fill, dtype=dtype, device=DEVICE)


@dataclass(frozen=True)
class Model:
    """Sizes of a model, and how it is paged."""

    layers: int = 3
    experts: int = 6
    slots: int = 7
    rows: int = 2
    policy: str = "lru"
    exclusive: bool = False
    router: RouterShape = field(default_factory=lambda: RouterShape(2, 1, 1, 2.5))
    most_fetched: int = 99
    spread: int = 0  # slots that are filled at first

    @property
    def blobs(self) -> int:
        return self.layers * self.experts

    @property
    def k(self) -> int:
        return self.router.experts_per_token

    @property
    def most(self) -> int:
        return min(self.experts, self.rows * self.k)


class Host:
    """What the tables must be: `location`, `owner`, scores and counts."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.policy = make_policy(model.policy, Rhythm.of(model.layers, model.experts, model.k))
        self.scores = np.zeros((self.policy.rows, model.blobs))
        self.now = -1
        self.owner = [-1] * model.slots
        self.location = [-1 - blob for blob in range(model.blobs)]
        self.guessed: dict[int, set[int]] = {}
        self.counts: dict[Counter, int] = dict.fromkeys(Counter, 0)
        for slot in range(min(model.spread, model.slots)):
            blob = slot * 5 % model.blobs
            self.owner[slot], self.location[blob] = blob, slot

    def step(self, layer: int, ids: np.ndarray, fetch_of: list[int], chosen: list[int]) -> dict:
        model = self.model
        self.now += (layer - self.now) % model.layers or model.layers
        used = sorted(set(ids.flatten().tolist()))
        blobs = [layer * model.experts + expert for expert in used]
        frames = {blob: -1 - self.location[blob] for blob in blobs}
        missing = [blob for blob in blobs if self.location[blob] < 0]
        pinned = {self.location[blob] for blob in blobs} - {-1 - frame for frame in frames.values() if frame >= 0}
        fetched = min(fetch_of[len(missing)], model.slots - len(pinned), model.most_fetched)
        self.policy.touch(self.scores, np.array(blobs), self.now)
        kinds = {
            blob: Kind.RESIDENT if blob not in missing else Kind.FETCHED if blob in missing[:fetched] else Kind.IN_PLACE
            for blob in blobs
        }
        moves = self._bring(missing[:fetched], pinned, chosen)
        pairs = [[p for p, e in enumerate(ids.flatten().tolist()) if e == expert] for expert in used]
        self._count(USES=len(used), HITS=len(used) - len(missing), FETCHED=fetched, IN_PLACE=len(missing) - fetched)
        self._count(GUESSED_RIGHT=len(self.guessed.pop(layer, set()) & set(used)))
        return {
            "used": used,
            "pairs": pairs,
            "kinds": [kinds[blob] for blob in blobs],
            "moves": moves,
            "frames": frames,
        }

    def ahead(
        self, layer: int, used: list[int], wanted: list[int], wanted_layer: int, most: int, chosen, guessing
    ) -> list:
        model = self.model
        stay = {self.location[layer * model.experts + expert] for expert in used}
        blobs = [wanted_layer * model.experts + expert for expert in wanted]
        missing = [blob for blob in blobs if self.location[blob] < 0]
        pinned = {place for place in stay | {self.location[blob] for blob in blobs} if place >= 0}
        fetched = min(len(missing), most, model.slots - len(pinned))
        if guessing:
            self.guessed[wanted_layer] = set(wanted)
            self._count(GUESSED=len(wanted), AHEAD=fetched)
        else:
            self._count(ADMITTED=fetched)
        return self._bring(missing[:fetched], pinned, chosen)

    def _bring(self, coming: list[int], pinned: set[int], chosen: list[int]) -> list[tuple[int, int, int]]:
        """Gives slots as the device has `chosen` them, each of which must be one that the policy may choose."""
        moves, pinned = [], set(pinned)
        for blob, slot in zip(coming, chosen, strict=False):
            assert slot in self._candidates(pinned), (slot, self._candidates(pinned))
            pinned.add(slot)
            frame, left = -1 - self.location[blob], self.owner[slot]
            moves.append((frame, slot, int(left >= 0)))
            self.owner[slot], self.location[blob] = blob, slot
            if left >= 0:
                self.location[left] = -1 - (frame if self.model.exclusive else left)
                self.policy.left(self.scores, left)
                self._count(EVICTED=1)
        return moves

    def _candidates(self, pinned: set[int]) -> list[int]:
        if -1 in self.owner:
            return [self.owner.index(-1)]
        mask = np.array([slot in pinned for slot in range(self.model.slots)])
        if self.policy.name not in ("lfu", "lfru"):
            return [self.policy.victim(self.scores[:, self.owner], mask, self.now)]
        scores = self.scores[:, self.owner]
        age = np.log2(self.now + self.model.layers - scores[1]) if self.policy.name == "lfru" else 0
        values = np.where(mask, np.inf, scores[0] - age)
        return np.flatnonzero(values <= values.min() + 1e-4).tolist()

    def _count(self, **amounts: int) -> None:
        for name, amount in amounts.items():
            self.counts[Counter[name]] += amount


class Device:
    """The same on the device, after the launches of which it is one side."""

    def __init__(self, model: Model, host: Host, seed: int = 0) -> None:
        self.model = model
        random = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(model.experts, HIDDEN, generator=random)
        self.bias = torch.randn(model.experts, generator=random) * 0.3
        half_life = HALF_LIFE * model.experts / model.k * model.layers
        self.policy = Policy(model.policy, model.layers, model.experts, half_life, PROTECTED)
        self.placement = Placement(
            location=torch.tensor(host.location, dtype=torch.int32, device=DEVICE),
            owner=torch.tensor(host.owner, dtype=torch.int32, device=DEVICE),
            last_used=ints(model.blobs, fill=0),
            frequency=torch.zeros(model.blobs, device=DEVICE),
            now=ints(1, fill=0),
            counters=ints(len(Counter), fill=0, dtype=torch.int64),
            slots=torch.zeros(model.slots, BLOB, dtype=torch.uint8, device=DEVICE),
            frames=ints(1, fill=0, dtype=torch.int64),
            exclusive=model.exclusive,
        )
        self.scratch = RouteScratch.empty(model.rows, self.policy, model.k, model.slots, DEVICE)
        self.fetches = self._fetches(min(model.most, model.most_fetched))
        self.ahead_fetches = self._fetches(model.most)
        self.fresh_tables(model.rows)

    def _fetches(self, most: int) -> Fetches:
        return Fetches(ints(1), ints(most, 3 if self.model.exclusive else 2))

    def fresh_tables(self, rows: int) -> None:
        model, pairs = self.model, rows * self.model.k
        most = min(model.experts, pairs)
        self.groups = Groups(
            count=ints(1),
            experts=ints(most),
            starts=ints(most + 1),
            pairs=ints(pairs),
            addresses=ints(most, dtype=torch.int64),
            kinds=ints(most),
            pair_kinds=ints(pairs),
            most=most,
            most_rows=rows,
            per_token=model.k,
        )
        self.in_place = InPlace(
            words=ints(2 + 3 * most),
            pairs=ints(pairs),
            q=ints(rows, HIDDEN, dtype=torch.int8),
            scales=torch.zeros(rows, 1),
            outputs=torch.zeros(pairs, HIDDEN),
            fault=ints(1),
        )
        self.weights, self.ids = torch.full((rows, model.k), -1.0, device=DEVICE), ints(rows, model.k)

    def step(self, x: Tensor, layer: int, fetch_of: list[int], forced: Tensor | None) -> None:
        self.fresh_tables(x.shape[0])
        self.fetches.moves.fill_(GARBAGE)
        launch_route_step(
            x.to(DEVICE),
            self.weight.to(DEVICE),
            self.bias.to(DEVICE),
            self.model.router,
            layer,
            self.placement,
            torch.tensor(fetch_of, dtype=torch.int32, device=DEVICE),
            self.groups,
            self.weights,
            self.ids,
            self.fetches,
            self.in_place,
            self.policy,
            self.scratch,
            None if forced is None else forced.to(DEVICE),
        )

    def ahead(self, layer: int, guesses: Guesses | None, most: int) -> None:
        self.ahead_fetches.moves.fill_(GARBAGE)
        launch_ahead(self.placement, layer, self.groups, guesses, self.ahead_fetches, self.policy, self.scratch, most)


class Both:
    """Steps on both sides, compared after each."""

    def __init__(self, model: Model, seed: int = 0) -> None:
        self.model = model
        self.host = Host(model)
        self.device = Device(model, self.host, seed)
        self.random = np.random.default_rng(seed)
        self.layer = -1

    def draw_ids(self, rows: int) -> np.ndarray:
        """Distinct experts of each row, the lower the likelier."""
        odds = 1.0 / (1 + np.arange(self.model.experts)) ** 0.7
        k = self.model.k
        drawn = [
            np.sort(self.random.choice(self.model.experts, k, replace=False, p=odds / odds.sum())) for _ in range(rows)
        ]
        return np.stack(drawn)

    def step(
        self, fetch_of: list[int], *, forced: bool = True, rows: int | None = None, layer: int | None = None
    ) -> None:
        rows = self.model.rows if rows is None else rows
        self.layer = (self.layer + 1) % self.model.layers if layer is None else layer
        x = torch.from_numpy(self.random.standard_normal((rows, HIDDEN))).float()
        ids = torch.from_numpy(self.draw_ids(rows)).int() if forced else None
        self.device.step(x, self.layer, fetch_of, ids)
        expected_ids, expected = self._routed(x, ids)
        assert torch.equal(self.device.ids.cpu().long(), expected_ids)
        assert same_bits(self.device.weights.cpu(), expected)
        self.told = self.host.step(self.layer, expected_ids.numpy(), fetch_of, self._chosen(self.device.fetches))
        self._check_groups(rows)
        self._check_in_place(rows)
        self._check_moves(self.device.fetches, self.told["moves"])
        self._check_placement()

    def ahead(self, guessed: np.ndarray | None, most: int, *, surest: int = 1) -> None:
        """Guesses [T, K] for the next layer, weighed at random with ties, or none to admit what was computed in place."""
        model, guesses = self.model, None
        used, wanted, wanted_layer = self.told["used"], [], self.layer
        if guessed is not None:
            wanted_layer = (self.layer + 1) % model.layers
            weights = self.random.integers(1, 4, guessed.shape).astype(np.float32)
            best = np.argsort(-weights, axis=1, kind="stable")[:, :surest]
            wanted = sorted(set(np.take_along_axis(guessed, best, 1).flatten().tolist()))
            ids = torch.from_numpy(guessed).int().to(DEVICE)
            guesses = Guesses(wanted_layer, ids, torch.from_numpy(weights).to(DEVICE), surest)
        else:
            kinds = zip(used, self.told["kinds"], strict=True)
            wanted = [expert for expert, kind in kinds if kind == Kind.IN_PLACE]
        self.device.ahead(self.layer, guesses, most)
        chosen = self._chosen(self.device.ahead_fetches)
        moves = self.host.ahead(self.layer, used, wanted, wanted_layer, most, chosen, guessed is not None)
        self._check_moves(self.device.ahead_fetches, moves)
        self._check_placement()

    def _routed(self, x: Tensor, forced: Tensor | None) -> tuple[Tensor, Tensor]:
        router, device = self.model.router, self.device
        options = {"groups": router.groups, "groups_kept": router.groups_kept, "scale": router.scale}
        if forced is None:
            return floating.route(x, device.weight, device.bias, experts_per_token=router.experts_per_token, **options)
        # A bias that leaves only these, and no group.
        options |= {"groups": 1, "groups_kept": 1}
        routed = [
            floating.route(
                x[row : row + 1],
                device.weight,
                torch.full((self.model.experts,), -9.0).index_fill(0, forced[row].long(), 9.0),
                experts_per_token=self.model.k,
                **options,
            )
            for row in range(len(x))
        ]
        return torch.cat([ids for ids, _ in routed]), torch.cat([weights for _, weights in routed])

    def _chosen(self, fetches: Fetches) -> list[int]:
        return fetches.moves[: int(fetches.count), 1].tolist()

    def _check_groups(self, rows: int) -> None:
        groups, told, placement = self.device.groups, self.told, self.device.placement
        count = len(told["used"])
        assert groups.count.item() == count
        assert groups.experts.tolist()[:count] == told["used"]
        assert groups.starts.tolist()[: count + 1] == np.cumsum([0, *map(len, told["pairs"])]).tolist()
        assert groups.pairs.tolist() == [pair for pairs in told["pairs"] for pair in pairs]
        assert groups.kinds.tolist()[:count] == told["kinds"]
        kind_of = dict(zip(told["used"], told["kinds"], strict=True))
        assert groups.pair_kinds.tolist() == [kind_of[expert] for expert in self.device.ids.flatten().tolist()]
        base = placement.slots.data_ptr()
        slots = [self.host.location[self.layer * self.model.experts + expert] for expert in told["used"]]
        expected = [
            0 if kind == Kind.IN_PLACE else base + slot * BLOB for slot, kind in zip(slots, told["kinds"], strict=True)
        ]
        assert groups.addresses.tolist()[:count] == expected
        for table in (groups.experts, groups.kinds, groups.addresses, groups.starts[1:]):
            assert set(table[count:].tolist()) <= {GARBAGE}
        assert not self.device.scratch.rows_of.any()
        assert not self.device.scratch.tickets.any()

    def _check_in_place(self, rows: int) -> None:
        words, told = self.device.in_place.words.tolist(), self.told
        pairs = self.device.in_place.pairs.tolist()
        listed = []
        starts = self.device.groups.starts.tolist()
        for i, (kind, expert) in enumerate(zip(told["kinds"], told["used"], strict=True)):
            if kind == Kind.IN_PLACE:
                listed += [told["frames"][self.layer * self.model.experts + expert], starts[i], starts[i + 1]]
                assert pairs[starts[i] : starts[i + 1]] == told["pairs"][i]
            else:
                assert set(pairs[starts[i] : starts[i + 1]]) == {GARBAGE}
        assert words[: 2 + len(listed)] == [len(listed) // 3, rows, *listed]
        assert set(words[2 + len(listed) :]) <= {GARBAGE}

    def _check_moves(self, fetches: Fetches, moves: list[tuple[int, int, int]]) -> None:
        columns = fetches.moves.shape[1]
        assert fetches.count.item() == len(moves)
        assert fetches.moves.tolist()[: len(moves)] == [list(move[:columns]) for move in moves]
        assert set(fetches.moves[len(moves) :].flatten().tolist()) <= {GARBAGE}

    def _check_placement(self) -> None:
        host, placement, model = self.host, self.device.placement, self.model
        assert placement.location.tolist() == host.location
        assert placement.owner.tolist() == host.owner
        assert placement.now.item() == host.now + 1
        assert placement.counters.tolist() == [host.counts[counter] for counter in Counter]
        assert self.device.scratch.guessed.nonzero().flatten().tolist() == sorted(
            layer * model.experts + expert for layer, some in host.guessed.items() for expert in some
        )
        if model.policy in ("lru", "slru", "least-stale"):
            assert (placement.last_used - 1).clamp(min=0).tolist() == host.scores[0].tolist()
        if model.policy == "slru":
            assert placement.frequency.tolist() == host.scores[1].tolist()
        self._check_integrity()

    def _check_integrity(self) -> None:
        host, model = self.host, self.model
        for slot, blob in enumerate(host.owner):
            assert blob < 0 or host.location[blob] == slot
        held = [blob for blob in range(model.blobs) if host.location[blob] >= 0]
        assert len(held) == sum(blob >= 0 for blob in host.owner)
        frames = [-1 - place for place in host.location if place < 0]
        assert len(set(frames)) == len(frames)
        if not model.exclusive:
            assert frames == [blob for blob in range(model.blobs) if blob not in held]
