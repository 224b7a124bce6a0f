"""Guessing stays on only while it pays: synthetic step times stand for the machine's."""

from __future__ import annotations

import pytest

from runtime.experts.lookahead import HOLD, TRIAL, Lookahead


def run(lookahead: Lookahead, steps: int, *, on: float, off: float) -> list[bool]:
    """The mode of each step, while a step takes `on` seconds with guessing and `off` without."""
    modes: list[bool] = []
    for _ in range(steps):
        modes.append(lookahead.active)
        lookahead.step(on if lookahead.active else off)
    return modes


@pytest.mark.parametrize(("on", "off"), [(1.0, 2.0), (2.0, 1.0)])
def test_it_tries_both_and_keeps_the_faster(on: float, off: float) -> None:
    lookahead = Lookahead("auto")
    modes = run(lookahead, 2 * TRIAL + HOLD, on=on, off=off)
    assert modes[: 2 * TRIAL] == [True] * TRIAL + [False] * TRIAL
    assert modes[2 * TRIAL :] == [on < off] * HOLD


def test_of_equals_it_guesses_not() -> None:
    assert run(Lookahead("auto"), 2 * TRIAL + 1, on=1.0, off=1.0)[-1] is False


@pytest.mark.parametrize("paid", [True, False])
def test_later_it_tries_the_other_again_and_changes_where_that_pays(paid: bool) -> None:
    lookahead = Lookahead("auto")
    before = {"on": 1.0, "off": 2.0} if paid else {"on": 2.0, "off": 1.0}
    after = {"on": before["off"], "off": before["on"]}
    run(lookahead, 2 * TRIAL + HOLD // 2, **before)
    assert run(lookahead, HOLD - HOLD // 2, **after) == [paid] * (HOLD - HOLD // 2)
    assert run(lookahead, TRIAL + HOLD, **after) == [not paid] * (TRIAL + HOLD)


@pytest.mark.parametrize("pays", [True, False])
def test_a_trial_of_the_slower_goes_back_to_the_faster(pays: bool) -> None:
    lookahead = Lookahead("auto")
    on, off = (1.0, 2.0) if pays else (2.0, 1.0)
    run(lookahead, 2 * TRIAL + HOLD, on=on, off=off)
    modes = run(lookahead, TRIAL + HOLD, on=on, off=off)
    assert modes == [not pays] * TRIAL + [pays] * HOLD


def test_one_slow_step_decides_nothing() -> None:
    lookahead = Lookahead("auto")
    run(lookahead, TRIAL - 1, on=1.0, off=2.0)
    lookahead.step(1000.0)
    assert run(lookahead, TRIAL + 1, on=1.0, off=2.0)[-1] is True


def told(lookahead: Lookahead, *times: float) -> None:
    for seconds in times:
        lookahead.step(seconds)


def test_the_first_steps_of_a_trial_do_not_count() -> None:
    """They still wait for reads that the other mode left: without them, six of nine steps are short."""
    lookahead = Lookahead("auto")
    told(lookahead, *[1.0] * TRIAL)
    told(lookahead, *[9.0] * 6, *[0.5] * 6)
    assert lookahead.active is False


def test_a_mode_is_tried_on_its_own_figures_and_not_on_those_of_long_ago() -> None:
    lookahead = Lookahead("auto")
    run(lookahead, 2 * TRIAL + HOLD, on=2.0, off=9.0)
    told(lookahead, *[9.0] * 3, *[1.0] * 5, *[9.0] * 4)
    assert lookahead.active is False


@pytest.mark.parametrize(("mode", "active"), [("on", True), ("off", False)])
def test_what_a_person_says_stays(mode: str, active: bool) -> None:
    lookahead = Lookahead(mode)
    assert run(lookahead, 3 * (TRIAL + HOLD), on=2.0, off=1.0) == [active] * (3 * (TRIAL + HOLD))
    assert run(lookahead, 3 * (TRIAL + HOLD), on=1.0, off=2.0) == [active] * (3 * (TRIAL + HOLD))
    assert str(lookahead) == mode


def test_auto_says_what_it_does() -> None:
    lookahead = Lookahead("auto")
    assert str(lookahead) == "auto (on)"
    run(lookahead, TRIAL, on=1.0, off=1.0)
    assert str(lookahead) == "auto (off)"
