"""Of several ways the cheapest is kept, and what trials cost is bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.experts.trials import ENOUGH, HOLD, LONG_TRIAL, SETTLING, TRIAL, Habits, Trials

WAYS = "abc"


def others(used: str) -> list[str]:
    return [way for way in WAYS if way != used]


def run(trials: Trials[str], steps: int, cost: Callable[[str], float]) -> str:
    """The way of each step."""
    ways = ""
    for _ in range(steps):
        ways += trials.active
        trials.step(cost(trials.active))
    return ways


@pytest.mark.parametrize("best", WAYS)
def test_every_way_is_tried_and_the_cheapest_is_kept(best: str) -> None:
    trials = Trials("a", others)
    ways = run(trials, 4 * TRIAL + HOLD // 2, lambda way: 1.0 if way == best else 2.0)
    assert set(ways) == set(WAYS)
    assert ways.endswith(best * (HOLD // 2))
    assert trials.chosen == best


def test_a_small_gain_is_no_reason() -> None:
    ways = run(Trials("a", others, Habits(margin=0.1)), 1000, lambda way: 1.0 if way == "a" else 0.91)
    assert ways.count("a") > 900


def test_a_close_trial_lasts_longer() -> None:
    trials = Trials("a", lambda used: ["b"] if used == "a" else [], Habits(margin=0.1))
    run(trials, TRIAL, lambda way: 1.0)
    run(trials, LONG_TRIAL - 1, lambda way: 0.8)
    assert (trials.active, trials.chosen) == ("b", "a")
    run(trials, 1, lambda way: 0.8)
    assert trials.chosen == "b"


def test_a_hopeless_trial_ends_early() -> None:
    trials = Trials("a", others, Habits(abandon=2.0))
    ways = run(trials, HOLD, lambda way: 1.0 if way == "a" else 5.0)
    assert len(ways) - ways.count("a") == 2 * (SETTLING + ENOUGH)


def test_a_bad_way_is_tried_seldom() -> None:
    cost = {"a": 1.0, "b": 11.0, "c": 1.0}
    ways = run(Trials("a", others, Habits(abandon=2.0, share=0.01)), 20_000, cost.__getitem__)
    assert 0 < 10.0 * ways.count("b") <= 0.011 * len(ways) + 10.0 * (SETTLING + ENOUGH)


def test_where_the_one_in_use_grows_dear_all_are_tried_at_once() -> None:
    trials = Trials("a", others, Habits(abandon=2.0, share=0.001, drift=1.5))
    before, after = {"a": 1.0, "b": 9.0, "c": 9.0}, {"a": 3.0, "b": 2.0, "c": 9.0}
    run(trials, 1000, before.__getitem__)
    assert trials.chosen == "a"
    run(trials, 6 * TRIAL, after.__getitem__)
    assert trials.chosen == "b"


def test_what_was_never_measured_costs_infinitely_much() -> None:
    assert Trials("a", others).median("b") == float("inf")
