"""Every policy leaves what its definition names: against a slow reading of that definition, over any history."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.experts.policy import DEFAULT, HALF_LIFE, POLICIES, PROTECTED, EvictionPolicy, Rhythm, make_policy

LAYERS, COUNT, PER_TOKEN = 3, 4, 2
RHYTHM = Rhythm.of(LAYERS, COUNT, PER_TOKEN)
EVERY = LAYERS * COUNT


@dataclass
class History:
    """All that a policy may know: when each expert was used, and how often since it came."""

    uses: list[list[int]] = field(default_factory=lambda: [[] for _ in range(EVERY)])
    since_it_came: list[int] = field(default_factory=lambda: [0] * EVERY)

    def last(self, expert: int) -> int:
        return self.uses[expert][-1] if self.uses[expert] else 0

    def frequency(self, expert: int, now: int) -> float:
        """Each use weighs half as much for every half-life that it is old; one is counted for all at time 0."""
        half_life = HALF_LIFE * (COUNT / PER_TOKEN) * LAYERS
        return sum(0.5 ** ((now - use) / half_life) for use in [0, *self.uses[expert]])


# Each reference tells what an expert in a slot is worth; the least leaves. Slots that are pinned are left out.


def value_lru(history: History, slots: list[int], pinned: set[int], now: int) -> dict[int, float]:
    return {i: history.last(e) for i, e in enumerate(slots) if i not in pinned}


def value_lfu(history: History, slots: list[int], pinned: set[int], now: int) -> dict[int, float]:
    return {i: math.log2(history.frequency(e, now)) for i, e in enumerate(slots) if i not in pinned}


def value_lfru(history: History, slots: list[int], pinned: set[int], now: int) -> dict[int, float]:
    return {
        i: math.log2(history.frequency(e, now) / (now - history.last(e) + LAYERS))
        for i, e in enumerate(slots)
        if i not in pinned
    }


def value_slru(history: History, slots: list[int], pinned: set[int], now: int) -> dict[int, float]:
    again = {i for i, e in enumerate(slots) if history.since_it_came[e] > 1}
    free = value_lru(history, slots, pinned, now)
    once = {i: last for i, last in free.items() if i not in again}
    return once if once and len(again) <= PROTECTED * len(slots) else free


def value_least_stale(history: History, slots: list[int], pinned: set[int], now: int) -> dict[int, float]:
    here = now % LAYERS

    def rank(expert: int) -> float:
        last = history.last(expert)
        layer = expert // COUNT if history.uses[expert] else 0
        current = last >= now - here
        passes_round = (layer - here - 1) % LAYERS  # 0 is the next layer
        kind = 2 if current else int(layer > here)
        return kind * 1e6 - passes_round * 1e3 + last / (now + 1)

    return {i: rank(e) for i, e in enumerate(slots) if i not in pinned}


REFERENCES = {
    "lru": value_lru,
    "lfu": value_lfu,
    "lfru": value_lfru,
    "slru": value_slru,
    "least-stale": value_least_stale,
}


def test_every_policy_has_a_reference() -> None:
    assert set(REFERENCES) == set(POLICIES)


steps = st.lists(
    st.tuples(
        st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=3),  # used of the layer
        st.lists(st.integers(0, EVERY - 1), max_size=2),  # left
    ),
    max_size=40,
)


def played(policy: EvictionPolicy, history: History, moves: list[tuple[set[int], list[int]]]) -> np.ndarray:
    """Scores after layer steps, and the history that they stand for."""
    scores = np.zeros((policy.rows, EVERY))
    for now, (used, left) in enumerate(moves):
        experts = [now % LAYERS * COUNT + e for e in sorted(used)]
        policy.touch(scores, np.array(experts, dtype=np.int64), now)
        for expert in experts:
            history.uses[expert].append(now)
            history.since_it_came[expert] += 1
        for expert in left:
            policy.left(scores, expert)
            history.since_it_came[expert] = 0
    return scores


@pytest.mark.parametrize("name", POLICIES)
@given(moves=steps, slots=st.permutations(range(EVERY)), size=st.integers(1, EVERY), data=st.data())
def test_the_victim_is_the_one_its_definition_names(
    name: str, moves: list[tuple[set[int], list[int]]], slots: list[int], size: int, data: st.DataObject
) -> None:
    policy, history = make_policy(name, RHYTHM), History()
    scores = played(policy, history, moves)
    held = slots[:size]
    pinned = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    mask = np.array([i in pinned for i in range(size)])
    now = len(moves)
    victim = policy.victim(scores[:, held], mask, now)
    values = REFERENCES[name](history, held, pinned, now)
    assert victim not in pinned
    assert victim in values
    assert values[victim] == pytest.approx(min(values.values()), abs=1e-9)


@pytest.mark.parametrize("name", POLICIES)
@given(size=st.integers(1, 9), data=st.data())
def test_of_equals_the_lowest_slot_leaves(name: str, size: int, data: st.DataObject) -> None:
    pinned = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    policy = make_policy(name, RHYTHM)
    mask = np.array([i in pinned for i in range(size)])
    assert policy.victim(np.zeros((policy.rows, size)), mask, 0) == min(set(range(size)) - pinned)


@pytest.mark.parametrize("name", ["lfu", "lfru"])
def test_frequencies_do_not_overflow(name: str) -> None:
    policy = make_policy(name, RHYTHM)
    scores = np.zeros((policy.rows, EVERY))
    for now in (1, 10**9, 10**12):
        policy.touch(scores, np.array([0, 1]), now)
    policy.touch(scores, np.array([1]), 10**12)
    assert np.isfinite(scores).all()
    assert policy.victim(scores[:, [1, 0]], np.zeros(2, dtype=bool), 10**12 + 1) == 1


def test_slru_forgets_what_left() -> None:
    policy = make_policy("slru", RHYTHM)
    scores = np.zeros((policy.rows, EVERY))
    for now in range(2):
        policy.touch(scores, np.array([0]), now)
    policy.touch(scores, np.array([1]), 2)
    free = np.zeros(4, dtype=bool)
    assert policy.victim(scores[:, [0, 1, 1, 1]], free, 3) == 1
    policy.left(scores, 0)
    assert policy.victim(scores[:, [0, 1, 1, 1]], free, 3) == 0


def test_an_unknown_policy_is_told_which_there_are() -> None:
    with pytest.raises(ConfigError, match="least-stale"):
        make_policy("random", RHYTHM)
    assert make_policy(None, RHYTHM).name == DEFAULT
