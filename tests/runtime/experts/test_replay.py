"""Hit rates of replays: bounds that hold for any trace, and what a small cache does, counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.experts.pager import PASSING_ROWS, ExpertPager
from runtime.experts.policy import DEFAULT, POLICIES
from runtime.experts.replay import BELADY, HitCurve, hit_curve, replay
from runtime.experts.trace import Trace, read_trace
from runtime.prediction.hit_curves import RECORDED, recorded_curve
from tests.runtime.experts.blobs import COUNT, LAYERS, stored
from tests.runtime.experts.traces import RECORDED as RECORDED_TRACE
from tests.runtime.experts.traces import random_trace

SHARES = (0.01, 0.15, 0.25, 0.5, 0.8, 1.0)


def one_layer(*steps: list[int], experts: int = 4) -> Trace:
    """A trace of steps of one token, in a model of one layer."""
    arrays = tuple(np.array([[sorted(ids)]], dtype=np.int16) for ids in steps)
    return Trace(0, 1, experts, len(steps[0]), arrays)


def hits(curve: HitCurve) -> list[int]:
    return [point.decode.hits for point in curve.points]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.lists(st.sampled_from([1, 1, 1, 2, 7, PASSING_ROWS]), max_size=40))
@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_beats_belady(policy: str, seed: int, rows: list[int]) -> None:
    trace = random_trace(seed, rows)
    bound, curve = hit_curve(trace, BELADY, SHARES), hit_curve(trace, policy, SHARES)
    for best, point in zip(bound.points, curve.points, strict=True):
        assert point.every.uses == best.every.uses
        assert point.every.hits <= best.every.hits


@pytest.mark.parametrize("policy", [*POLICIES, BELADY])
def test_with_a_slot_for_each_only_the_first_use_misses(policy: str) -> None:
    trace = random_trace(1, [1, 3, 1, 1, 2, 1])
    used = {(layer, int(e)) for step in trace.steps for layer, ids in enumerate(step) for e in ids.ravel()}
    (point,) = hit_curve(trace, policy, [1.0]).points
    assert point.slots == trace.blobs
    assert point.every.uses - point.every.hits == len(used)


def test_lru_by_hand() -> None:
    trace = one_layer([0], [1], [0], [2], [0], [1])
    curve = hit_curve(trace, "lru", [0.25, 0.5, 0.75])
    assert [point.slots for point in curve.points] == [1, 2, 3]
    assert hits(curve) == [0, 2, 3]


def test_belady_by_hand() -> None:
    """Of 0, 1 and 2 in turn, two slots keep one that is used next; LRU keeps none."""
    trace = one_layer([0], [1], [2], [0], [1], [2])
    assert hits(hit_curve(trace, BELADY, [0.5])) == [2]
    assert hits(hit_curve(trace, "lru", [0.5])) == [0]


def test_what_a_layer_needs_is_pinned() -> None:
    """With two slots and two experts at once, the second must not put out the first."""
    trace = one_layer([0, 1], [2, 3], [2, 3])
    for policy in [*POLICIES, BELADY]:
        assert hits(hit_curve(trace, policy, [0.5])) == [2]


def test_more_experts_than_slots_end_and_are_counted() -> None:
    trace = random_trace(2, [20, 1, 20, 1])
    for policy in [*POLICIES, BELADY]:
        (point,) = hit_curve(trace, policy, [0.01]).points
        assert point.slots == 1
        assert point.every.uses > 16
        assert 0 <= point.every.hits < point.every.uses


def test_a_pass_is_not_counted_and_does_not_put_out_what_is_used() -> None:
    one = np.array([[[0]]], dtype=np.int16)
    prompt = np.arange(PASSING_ROWS, dtype=np.int16)[None, :, None] % 6 + 2
    steps = (one, one, prompt, one)
    (point,) = hit_curve(Trace(0, 1, 8, 1, steps), "lru", [0.875]).points
    assert (point.every.uses, point.every.hits) == (3, 2)
    # In half the slots the prompt's six experts come in two waves: the first needs all of them.
    (point,) = hit_curve(Trace(0, 1, 8, 1, steps), "lru", [0.5]).points
    assert (point.every.uses, point.every.hits) == (3, 1)


def paged(trace: Trace, path: Path, slots: int, policy: str) -> tuple[int, int]:
    """Uses and hits that the pager itself counts over a trace."""
    store = stored(path)
    pager = ExpertPager.open(store, slots, policy=policy, lookahead="off", readers=1, experts_per_token=2)
    for step in trace.steps:
        pager.begin_step(step.shape[1])
        for layer, ids in enumerate(step):
            visit = pager.ask(layer, torch.from_numpy(ids.astype(np.int64)))
            pager.compute(visit, lambda wave: torch.zeros(1))
        pager.end_step()
    counted = pager.stats()
    pager.close()
    return counted.uses, counted.hits


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slots", [6, 9, 13])
def test_a_replay_counts_what_the_pager_counts(tmp_path: Path, policy: str, slots: int) -> None:
    trace = random_trace(slots, [1, 2, 1, 1, 3, 1, 1, 1] * 20, LAYERS, COUNT)
    (point,) = hit_curve(trace, policy, [(slots + 0.5) / trace.blobs]).points
    assert point.slots == slots
    assert (point.every.uses, point.every.hits) == paged(trace, tmp_path / "experts", slots, policy)
    assert 0 < point.every.hits < point.every.uses


def test_a_replay_in_numbers() -> None:
    trace = random_trace(3, [PASSING_ROWS, 1, 1, 4])
    told: list[tuple[int, int | None]] = []
    found = replay(trace, ("lru", "lfu"), (0.5, 1.0), lambda done, total: told.append((done, total))).to_json()
    assert [curve["policy"] for curve in found["curves"]] == ["lru", "lfu", BELADY]
    assert (found["steps"], found["decode_steps"], found["tokens"]) == (4, 2, PASSING_ROWS + 6)
    assert [point["slots"] for point in found["curves"][0]["points"]] == [8, 16]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_trace_with_no_decode_step_has_no_decode_hit_rate() -> None:
    found = replay(random_trace(4, [3, 3]), ("lru",), (0.5,)).to_json()
    assert found["curves"][0]["points"][0]["decode_hit_rate"] is None


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no policy"):
        hit_curve(random_trace(5, [1]), "guess")


def test_the_curve_that_plan_reads_is_that_of_the_recorded_trace() -> None:
    trace = read_trace(RECORDED_TRACE)
    points = hit_curve(trace, DEFAULT, [0.25, 0.5]).points
    curve = recorded_curve(trace.experts, trace.experts_per_token, RECORDED)
    assert DEFAULT in curve.source
    assert [curve.at(p.share) for p in points] == pytest.approx([p.decode.hit_rate for p in points], abs=1e-4)


def test_the_default_policy_wins_on_the_recorded_trace() -> None:
    trace, shares = read_trace(RECORDED_TRACE), (0.1, 0.2, 0.3, 0.5)
    mean = {name: np.mean([p.decode.hit_rate for p in hit_curve(trace, name, shares).points]) for name in POLICIES}
    assert max(mean, key=mean.__getitem__) == DEFAULT
