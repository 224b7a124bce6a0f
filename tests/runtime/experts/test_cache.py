"""The cache against a model of it, with a canary in every slot."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.experts.cache import NONE, ExpertCache
from runtime.experts.policy import POLICIES
from tests.runtime.experts.blobs import BLOB, COUNT, GEOMETRY, LAYERS, bytes_at, named_policy, pattern

EXPERTS = st.integers(0, GEOMETRY.blobs - 1)


def cache_of(slots: int, policy: str = "lru") -> ExpertCache:
    return ExpertCache(GEOMETRY, slots, named_policy(policy))


def fill(cache: ExpertCache, expert: int, version: int = 0) -> None:
    """What a reader does between a reservation and its arrival."""
    slot = int(cache._slot_of[expert])
    cache.memory[slot] = torch.from_numpy(pattern(expert, version))


def bring(cache: ExpertCache, *experts: int, now: int = 0, passing: bool = False) -> None:
    for expert in experts:
        assert cache.reserve(expert, now, passing=passing) is not None
        fill(cache, expert)
        cache.publish(expert)


class CacheMachine(RuleBasedStateMachine):
    """Experts arrive, are pinned, used and evicted in any order; a model of plain sets says what must be there."""

    policy = "lru"

    @initialize(slots=st.integers(1, 7))
    def start(self, slots: int) -> None:
        self.cache = cache_of(slots, self.policy)
        self.resident: dict[int, int] = {}  # expert: version of its bytes
        self.arriving: set[int] = set()
        self.pins: dict[int, int] = {}
        self.versions = 0
        self.evicted = 0
        self.now = 0

    @rule(steps=st.integers(1, 2 * LAYERS))
    def time_passes(self, steps: int) -> None:
        self.now += steps

    @rule(expert=EXPERTS, passing=st.booleans())
    def reserve(self, expert: int, passing: bool) -> None:
        if expert in self.resident or expert in self.arriving:
            return
        was_full = not self.cache.has_free
        may_leave = {e for e in self.resident if not self.pins.get(e)}
        slot = self.cache.reserve(expert, self.now, passing=passing)
        if slot is None:
            assert was_full
            assert not may_leave
            return
        self.arriving.add(expert)
        left = {e for e in self.resident if not self.cache.is_resident(e)}
        assert len(left) == was_full
        assert left <= may_leave
        self.evicted += len(left)
        self.resident = {e: version for e, version in self.resident.items() if e not in left}

    @precondition(lambda self: self.arriving)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        expert = data.draw(st.sampled_from(sorted(self.arriving)))
        self.versions += 1
        fill(self.cache, expert, self.versions)
        self.cache.publish(expert)
        self.arriving.remove(expert)
        self.resident[expert] = self.versions

    @precondition(lambda self: self.arriving)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        expert = data.draw(st.sampled_from(sorted(self.arriving)))
        self.cache.abandon(expert)
        self.arriving.remove(expert)
        self.pins.pop(expert, None)
        assert self.cache.has_free

    @precondition(lambda self: self.arriving or self.resident)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        expert = data.draw(st.sampled_from(sorted(self.arriving | self.resident.keys())))
        self.cache.pin([expert])
        self.pins[expert] = self.pins.get(expert, 0) + 1

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        expert = data.draw(st.sampled_from(sorted(self.pins)))
        self.cache.unpin([expert])
        self.pins[expert] -= 1
        if not self.pins[expert]:
            del self.pins[expert]

    @rule(experts=st.sets(EXPERTS, max_size=4))
    def touch(self, experts: set[int]) -> None:
        self.cache.touch(np.array(sorted(experts), dtype=np.int64), self.now)

    @rule(expert=EXPERTS)
    def nothing_else_is_there(self, expert: int) -> None:
        if expert in self.resident:
            return
        assert not self.cache.is_resident(expert)
        assert self.cache.has_slot(expert) == (expert in self.arriving)
        with pytest.raises(LookupError):
            self.cache.blob(expert)
        if expert not in self.arriving:
            with pytest.raises(ValueError, match="not arriving"):
                self.cache.abandon(expert)

    @invariant()
    def it_is_sound(self) -> None:
        self.cache.check_integrity()
        cache = self.cache
        held = [expert for expert in cache._blob_of.tolist() if expert != NONE]
        assert len(cache._free) + len(held) == cache.slots
        assert set(held) == self.arriving | self.resident.keys()
        assert all(cache._blob_of[cache._slot_of[expert]] == expert for expert in held)
        assert cache.resident == len(self.resident)
        assert cache.pinned == len(self.pins)
        assert cache.evictions == self.evicted

    @invariant()
    def canaries(self) -> None:
        """Bytes are those of the expert's last arrival, by both ways that kernels reach them."""
        for layer in range(LAYERS):
            pool = self.cache.pool(layer)
            for index, address in enumerate(pool.addresses.tolist()):
                expert = layer * COUNT + index
                if expert not in self.resident:
                    assert address == 0
                    continue
                expected = pattern(expert, self.resident[expert]).tobytes()
                slot, rest = divmod(address - self.cache.memory.data_ptr(), BLOB)
                assert rest == 0
                assert 0 <= slot < self.cache.slots
                assert bytes_at(address) == expected
                assert pool.blobs[index].numpy().tobytes() == expected


def machine_of(name: str) -> type[CacheMachine]:
    return type(f"CacheUnder{name}", (CacheMachine,), {"policy": name})


def limited(machine: type[CacheMachine]) -> type:
    case: type = machine.TestCase
    case.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)  # type: ignore[attr-defined]
    return case


for _name in POLICIES:
    globals()[f"TestCacheUnder_{_name.replace('-', '_')}"] = limited(machine_of(_name))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_full_cache_gives_a_slot_only_for_what_may_leave(policy: str) -> None:
    cache = cache_of(2, policy)
    bring(cache, 0, 1)
    cache.pin([0, 1])
    assert cache.reserve(2, 1) is None
    cache.unpin([1])
    slot = cache.reserve(2, 1)
    assert slot == 1
    assert cache.is_resident(0)
    assert not cache.has_slot(1)
    assert cache.reserve(3, 1) is None, "what is arriving cannot leave"
    assert cache.evictions == 1


def test_pins_are_counted() -> None:
    cache = cache_of(1)
    bring(cache, 0)
    cache.pin([0])
    cache.pin([0])
    cache.unpin([0])
    assert cache.reserve(1, 0) is None
    cache.unpin([0])
    assert cache.reserve(1, 0) == 0


def test_what_did_not_arrive_gives_its_slot_back_without_its_pins() -> None:
    cache = cache_of(1)
    assert cache.reserve(0, 0) == 0
    cache.pin([0])
    cache.abandon(0)
    assert cache.pinned == 0
    bring(cache, 1)
    cache.unpin([0])
    cache.check_integrity()
    assert cache.reserve(2, 0) == 0


def test_unused_slots_are_taken_lowest_first() -> None:
    cache = cache_of(3)
    assert [cache.reserve(expert, 0) for expert in (7, 3, 9)] == [0, 1, 2]
    for expert in (9, 7):
        cache.abandon(expert)
    assert [cache.reserve(expert, 0) for expert in (1, 2)] == [0, 2]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_pass_leaves_what_was_resident(policy: str) -> None:
    """Of what a pass brings, the latest makes way for the next; what was there before it stays."""
    cache = cache_of(4, policy)
    bring(cache, 0, 1)
    cache.touch(np.array([0, 1]), 0)
    for now, expert in enumerate(range(6, 14), start=1):
        bring(cache, expert, now=now, passing=True)
    assert [cache.is_resident(expert) for expert in (0, 1, 6, 13)] == [True] * 4
    assert cache.resident == 4


@pytest.mark.parametrize("policy", POLICIES)
def test_behind_a_pass_what_it_brought_leaves_first(policy: str) -> None:
    cache = cache_of(3, policy)
    bring(cache, 0)
    cache.touch(np.array([0]), 0)
    bring(cache, 6, 7, now=1, passing=True)
    cache.touch(np.array([6]), 2)
    bring(cache, 12, now=3)
    assert [cache.is_resident(expert) for expert in (0, 6, 7)] == [True, True, False]


def test_only_what_a_pass_brought_leaves_before_all_else() -> None:
    cache = cache_of(2)
    bring(cache, 0)
    bring(cache, 6, now=1, passing=True)
    bring(cache, 12, now=2)
    assert [cache.is_resident(expert) for expert in (0, 6, 12)] == [True, False, True]


def test_what_a_pass_brought_and_decoding_used_is_as_any_other() -> None:
    cache = cache_of(2)
    bring(cache, 0)
    bring(cache, 6, now=1, passing=True)
    cache.touch(np.array([6]), 2)
    bring(cache, 12, now=3)
    assert [cache.is_resident(expert) for expert in (0, 6, 12)] == [False, True, True]


def test_a_layer_sees_its_own_experts_and_no_others() -> None:
    cache = cache_of(2)
    bring(cache, COUNT)
    pool = cache.pool(1)
    assert len(pool.blobs) == COUNT
    assert pool.blobs[0].numpy().tobytes() == pattern(COUNT).tobytes()
    assert len(pool.blobs[0:1]) == 1
    for index in (-1, COUNT):
        with pytest.raises(IndexError):
            pool.blobs[index]
    with pytest.raises(LookupError, match="layer 2, expert 1 is not in memory"):
        pool.blobs[1]
    assert cache.pool(0).addresses.tolist() == [0] * COUNT


def test_resident_of_is_asked_for_many_at_once() -> None:
    cache = cache_of(2)
    bring(cache, 4)
    cache.reserve(5, 0)
    assert cache.resident_of(np.array([3, 4, 5])).tolist() == [False, True, False]


def _listed_twice(cache: ExpertCache) -> None:
    cache._free.append(cache._free[0])


def _lost(cache: ExpertCache) -> None:
    cache._free.pop()


def _elsewhere(cache: ExpertCache) -> None:
    cache._slot_of[0] = 1


def _shared(cache: ExpertCache) -> None:
    cache._slot_of[17] = 0


def _without_slot(cache: ExpertCache) -> None:
    cache._table[17] = cache._base


def _moved(cache: ExpertCache) -> None:
    cache._table[0] += BLOB


def _overdrawn(cache: ExpertCache) -> None:
    cache.unpin([0])


def _pinned_for_nobody(cache: ExpertCache) -> None:
    cache._pins[cache._free[0]] = 1


@pytest.mark.parametrize(
    ("corrupt", "problem"),
    [
        (_listed_twice, "free twice"),
        (_lost, "not all"),
        (_elsewhere, "elsewhere"),
        (_shared, "not its own"),
        (_without_slot, "has no slot"),
        (_moved, "not that of its slot"),
        (_overdrawn, "more often than pinned"),
        (_pinned_for_nobody, "a free slot is pinned"),
    ],
)
def test_every_corruption_is_found(corrupt: Callable[[ExpertCache], None], problem: str) -> None:
    cache = cache_of(4)
    bring(cache, 0, 1)
    cache.check_integrity()
    corrupt(cache)
    with pytest.raises(RuntimeError, match=problem):
        cache.check_integrity()
