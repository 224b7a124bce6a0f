"""What leaves a cache on the device is what the runtime's policies say."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kernels.gpu import policy as policies
from kernels.gpu.policy import MOST_SLOTS, POLICIES, Policy, launch_touch, launch_victims
from runtime.experts import policy as runtime_policy
from runtime.experts.policy import HALF_LIFE, LFU, PROTECTED, EvictionPolicy, Rhythm, make_policy
from tests.kernels.gpu.lane import DEVICE

LAYERS, COUNT, PER_TOKEN = 3, 4, 2
EVERY = LAYERS * COUNT
RHYTHM = Rhythm.of(LAYERS, COUNT, PER_TOKEN)
STEP_HALF_LIFE = HALF_LIFE * RHYTHM.reuse * LAYERS

EXACT = ("lru", "slru", "least-stale")
FREQUENT = ("lfu", "lfru")

# Without looking for a smaller example, which takes minutes in the interpreter.
QUICKLY = (Phase.explicit, Phase.reuse, Phase.generate)

# How far fp32 may be from the true score of a blob: by the unit, and by the half-life since its last use.
BOUND, BOUND_BY_AGE = 4e-6, 5e-7


@pytest.fixture(autouse=True)
def chunks_of_four(monkeypatch) -> None:
    """So that slots of a few experts are several chunks."""
    monkeypatch.setattr(policies, "SLOT_CHUNK", 4)


def device_policy(name: str) -> Policy:
    return Policy(name, LAYERS, COUNT, STEP_HALF_LIFE, PROTECTED)


@dataclass
class Device:
    """A policy's arrays, of blobs of which the first N are in the N slots."""

    policy: Policy
    last_used: torch.Tensor = field(default_factory=lambda: torch.zeros(EVERY, dtype=torch.int32, device=DEVICE))
    frequency: torch.Tensor = field(default_factory=lambda: torch.zeros(EVERY, device=DEVICE))

    def touch(self, experts: list[int], now: int) -> None:
        blobs = torch.tensor(experts, dtype=torch.int32, device=DEVICE)
        launch_touch(blobs, self.last_used, self.frequency, now + 1, self.policy)

    def victims(self, owner: list[int], pinned: set[int], protects: list[int], now: int) -> list[int]:
        mask = torch.tensor([slot in pinned for slot in range(len(owner))], device=DEVICE)
        chosen = torch.full((len(protects),), -9, dtype=torch.int32, device=DEVICE)
        launch_victims(
            torch.tensor(owner, dtype=torch.int32, device=DEVICE),
            self.last_used,
            self.frequency,
            mask,
            torch.tensor(protects, dtype=torch.int32, device=DEVICE),
            now + 1,
            self.policy,
            torch.empty(len(owner), dtype=torch.int64, device=DEVICE),
            torch.empty(3, -(-len(owner) // policies.SLOT_CHUNK), dtype=torch.int64, device=DEVICE),
            chosen,
        )
        return chosen.tolist()


def test_the_policies_are_those_of_the_runtime() -> None:
    assert set(POLICIES) == set(runtime_policy.POLICIES)
    with pytest.raises(ValueError, match="least-stale"):
        Policy("random", LAYERS, COUNT, 1.0, PROTECTED)


histories = st.lists(
    st.tuples(
        st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=3),  # used of the layer
        st.integers(0, 3),  # whole passes that went by before
        st.lists(st.integers(0, EVERY - 1), max_size=1),  # left
    ),
    max_size=20,
)


def play(device: Device, reference: EvictionPolicy, moves, touch) -> tuple[np.ndarray, int]:
    """Both through the same layer steps; the reference's scores, and the time after them."""
    scores, now = np.zeros((reference.rows, EVERY)), 0
    for step, (used, passes, left) in enumerate(moves):
        now += passes * LAYERS
        assert now % LAYERS == step % LAYERS
        experts = [now % LAYERS * COUNT + e for e in sorted(used)]
        reference.touch(scores, np.array(experts), now)
        touch(experts, now)
        for expert in left:
            reference.left(scores, expert)
            if device.policy.name == "slru":
                device.frequency[expert] = 0
        now += 1
    return scores, now


@pytest.mark.parametrize("name", EXACT)
@given(moves=histories, slots=st.permutations(range(EVERY)), size=st.integers(2, EVERY), data=st.data())
@settings(max_examples=40, deadline=None, phases=QUICKLY)
def test_victims_are_those_of_the_runtime_one_after_another(name: str, moves, slots, size, data) -> None:
    device, reference = Device(device_policy(name)), make_policy(name, RHYTHM)

    def touch(experts: list[int], now: int) -> None:
        device.last_used[experts] = now + 1
        device.frequency[experts] += 1

    scores, now = play(device, reference, moves, touch)
    held, coming = slots[:size], slots[size:]
    pinned = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    count = min(len(coming), size - len(pinned))
    protects = [int(scores[1, e] > 1) if name == "slru" else 0 for e in coming[:count]]
    chosen = device.victims(list(held), pinned, protects, now)
    stay = set(pinned)
    for slot, expert in zip(chosen, coming, strict=False):
        mask = np.array([i in stay for i in range(size)])
        assert slot == reference.victim(scores[:, held], mask, now)
        if name == "slru":
            scores[1, held[slot]] = 0
        held[slot] = expert
        stay.add(slot)


@pytest.mark.parametrize(("name", "uses"), [("lru", 0), ("slru", 2), ("least-stale", 0)])
def test_a_touch_of_the_others(name: str, uses: int) -> None:
    device = Device(device_policy(name))
    device.touch([0, 2, 7], 0)
    device.touch([2], 4)
    assert device.last_used.tolist() == [1, 0, 5, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert device.frequency.tolist() == [uses // 2, 0, uses, 0, 0, 0, 0, uses // 2, 0, 0, 0, 0]


@pytest.mark.parametrize("name", FREQUENT)
@given(moves=histories, slots=st.permutations(range(EVERY)), size=st.integers(1, EVERY), data=st.data())
@settings(max_examples=8, deadline=None, phases=QUICKLY)
def test_a_victims_score_is_the_lowest_within_the_bound(name: str, moves, slots, size, data) -> None:
    device, reference = Device(device_policy(name)), make_policy(name, RHYTHM)
    scores, now = play(device, reference, moves, device.touch)
    now += data.draw(st.sampled_from((0, 1000 * LAYERS, 10**6 * LAYERS)))
    held = slots[:size]
    pinned = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    (slot,) = device.victims(list(held), pinned, [0], now)
    assert slot not in pinned
    values = scores[0, held] - (np.log2(now + LAYERS - scores[1, held]) if name == "lfru" else 0)
    lowest = min(value for i, value in enumerate(values) if i not in pinned)
    assert values[slot] <= lowest + 2 * (BOUND + BOUND_BY_AGE * now / STEP_HALF_LIFE)


def test_frequencies_stay_within_the_bound_over_a_long_run() -> None:
    """64 experts of one layer that are used often or seldom, and at times that fp32 can't tell apart."""
    policy = Policy("lfu", 3, 64, 40.0, PROTECTED)
    device = Device(policy, torch.zeros(64, dtype=torch.int32).to(DEVICE), torch.zeros(64).to(DEVICE))
    reference, random = LFU(RHYTHM), np.random.default_rng(1)
    reference._half_life = policy.half_life
    scores, last = np.zeros((1, 64)), np.zeros(64)
    for step in range(60):
        now = 3 * step + (3 * 10**6 if step > 40 else 0)
        used = np.flatnonzero(random.random(64) < np.linspace(0.02, 1, 64))
        reference.touch(scores, used, now)
        device.touch(used.tolist(), now)
        last[used] = now
    true = scores[0] - last / policy.half_life
    assert np.abs(device.frequency.double().numpy(force=True) - true).max() < BOUND


@pytest.mark.parametrize("now", [60, 10**8])
@pytest.mark.parametrize("name", FREQUENT)
def test_scores_are_within_the_bound(name: str, now: int, monkeypatch) -> None:
    """Slots in the order in which they leave, at every age."""
    monkeypatch.setattr(policies, "SLOT_CHUNK", 128)
    random, experts = np.random.default_rng(2), 300
    policy = Policy(name, 3, experts // 3, 400.0, PROTECTED)
    ages = np.exp(random.uniform(0, math.log(now), experts)).astype(np.int64)
    device = Device(
        policy,
        torch.tensor(now - ages + 1, dtype=torch.int32, device=DEVICE),
        torch.tensor(random.uniform(0, 7, experts), dtype=torch.float32, device=DEVICE),
    )
    scores = device.frequency.double().numpy(force=True) - ages / policy.half_life
    scores -= np.log2(ages + policy.layers) if name == "lfru" else 0
    order = device.victims(list(range(experts)), set(), [0] * 60, now)
    left = scores[order]
    assert (np.diff(left) > -2 * (BOUND + BOUND_BY_AGE * ages[order][:-1] / policy.half_life)).all()
    assert len(set(order)) == 60


@pytest.mark.parametrize("name", POLICIES)
def test_free_slots_go_first_and_of_equals_the_lowest(name: str) -> None:
    device = Device(device_policy(name))
    assert device.victims([3, -1, 5, 6, -1, 8], {0}, [0] * 5, 7) == [1, 4, 2, 3, 5]


@pytest.mark.parametrize("name", POLICIES)
def test_many_slots(name: str, monkeypatch) -> None:
    """More than a chunk of slots, the lowest at the end."""
    monkeypatch.setattr(policies, "SLOT_CHUNK", 128)
    policy = Policy(name, 10, 200, 100.0, PROTECTED)
    device = Device(policy, torch.full((2000,), 50, dtype=torch.int32), torch.full((2000,), 3.0))
    device.last_used, device.frequency = device.last_used.to(DEVICE), device.frequency.to(DEVICE)
    device.last_used[1500], device.frequency[1500] = 1, 1.0
    device.last_used[300], device.frequency[300] = 2, 1.0
    owner = [*range(1501, 400, -1), 300]
    second = 0 if name == "least-stale" else len(owner) - 1  # of the highest layer
    assert device.victims(owner, set(), [0, 0], 60) == [1, second]


def test_slru_protects_no_more_than_its_part() -> None:
    """Four of six may be protected. Once what comes is too, the longest unused of all leaves."""
    device = Device(device_policy("slru"))
    device.frequency[:4], device.frequency[4:6] = 2, 1
    device.last_used[:6] = torch.arange(1, 7)
    assert device.victims([0, 1, 2, 3, 4, 5], set(), [1, 0], 9) == [4, 0]
    assert device.victims([0, 1, 2, 3, 4, 5], set(), [0, 0], 9) == [4, 5]
    device.frequency[4] = 2
    assert device.victims([0, 1, 2, 3, 4, 5], set(), [0, 0], 9) == [0, 5]
    assert device.victims([0, 1, 2, 3, 4], set(), [0], 9) == [0]


def test_too_many_slots_are_refused() -> None:
    device = Device(device_policy("lru"))
    with pytest.raises(ValueError, match=str(MOST_SLOTS)):
        device.victims([0] * (MOST_SLOTS + 1), set(), [0], 1)


def test_the_bounds_are_worth_something() -> None:
    """Twice the bound is less than what one use makes of a frequency that is 16 half-lives old."""
    assert math.log2(1 + 2**-15) > 2 * (BOUND + 16 * BOUND_BY_AGE)
