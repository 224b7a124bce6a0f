"""Drawn routing has the skew of the trace it was fitted on, whatever the size of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runtime.experts.replay import hit_curve
from runtime.experts.skew import SkewedRouting
from runtime.experts.trace import Trace, TraceError, read_trace
from tests.runtime.experts.traces import RECORDED, random_trace

SHARES = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9)


def drawn(skew: SkewedRouting, layers: int, experts: int, k: int, steps: int, seed: int = 0) -> Trace:
    """A trace of a source's own choices, one token a step."""
    source = skew.source(layers, experts, k, 1, seed)
    router = torch.zeros(1, k, dtype=torch.int64)
    rows = [np.stack([source(1 + i, router).numpy() for i in range(layers)]).astype(np.int16) for _ in range(steps)]
    return Trace(1, layers, experts, k, tuple(rows))


def rates(trace: Trace, shares: tuple[float, ...] = SHARES) -> list[float]:
    return [point.decode.hit_rate or 0.0 for point in hit_curve(trace, "lru", shares).points]


def test_it_comes_back_as_nano_did() -> None:
    trace = read_trace(RECORDED)
    skew = SkewedRouting.fit(trace)
    assert rates(drawn(skew, 3, 16, 2, 1500)) == pytest.approx(rates(trace), abs=0.03)


def test_a_larger_model_has_the_same_curve_share_for_share() -> None:
    trace = read_trace(RECORDED)
    larger = drawn(SkewedRouting.fit(trace), 4, 64, 4, 1000)
    assert rates(larger) == pytest.approx(rates(trace), abs=0.05)


@pytest.mark.parametrize("skew", [0.6, 1.2])
def test_it_comes_back_as_a_zipf_trace_did(skew: float) -> None:
    trace = random_trace(7, [1] * 1200, layers=2, experts=32, k=2, skew=skew)
    same = drawn(SkewedRouting.fit(trace), 2, 32, 2, 1200)
    assert rates(same) == pytest.approx(rates(trace), abs=0.04)
    assert rates(same)[0] > 0.25 + 0.05 * skew


def test_rows_are_distinct_ascending_experts_of_any_number_of_tokens() -> None:
    source = SkewedRouting((0.7, 0.2, 0.1, 0.0)).source(2, 16, 5, 3, seed=1)
    for tokens in (1, 2, 70):
        ids = source(4, torch.zeros(tokens, 5, dtype=torch.int64))
        assert ids.shape == (tokens, 5)
        assert ids.dtype == torch.int64
        assert bool((ids.diff(dim=1) > 0).all())
        assert 0 <= int(ids.min()) <= int(ids.max()) < 16


def test_all_experts_can_be_asked_for() -> None:
    source = SkewedRouting((1.0, 0.0, 0.0, 0.0)).source(1, 4, 4, 0, seed=1)
    assert source(0, torch.zeros(3, 4, dtype=torch.int64)).tolist() == [[0, 1, 2, 3]] * 3


def test_a_place_is_chosen_as_often_as_it_was() -> None:
    skew = SkewedRouting((0.4, 0.3, 0.2, 0.1))
    again = SkewedRouting.fit(drawn(skew, 1, 4, 2, 4000))
    assert again.places == pytest.approx(skew.places, abs=0.03)


def test_a_seed_gives_one_routing_and_each_layer_its_own() -> None:
    skew = SkewedRouting.fit(read_trace(RECORDED))
    one, same, other = (drawn(skew, 2, 32, 4, 20, seed) for seed in (1, 1, 2))
    assert [s.tolist() for s in one.steps] == [s.tolist() for s in same.steps]
    assert [s.tolist() for s in one.steps] != [s.tolist() for s in other.steps]
    assert any(step[0].tolist() != step[1].tolist() for step in one.steps)


def test_prompts_alone_teach_nothing() -> None:
    with pytest.raises(TraceError, match="no decode step"):
        SkewedRouting.fit(random_trace(1, [5, 9]))
