"""Plans of a layer step: every expert once, in waves that fit, with a reason for what becomes of it."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from runtime.experts.cost import CostTable
from runtime.experts.plan import WAVE, Action, ExpertPlan, plan_experts

# One expert in 4 bits takes 267 us over PCIe 4 and 111 us on a CPU that reads at 60 GB/s (design, "A decode step").
DESK = CostTable(fetch=tuple(267 * n for n in range(9)), in_place=tuple(111 * n for n in range(9)))

NEEDED = st.lists(st.integers(0, 255), min_size=1, unique=True).map(sorted)
TABLES = st.builds(
    lambda fetch, in_place: CostTable((0, *sorted(fetch)), (0, *sorted(in_place))),
    st.lists(st.integers(0, 1000), min_size=1, max_size=8),
    st.lists(st.integers(0, 1000), min_size=1, max_size=8),
)


@st.composite
def layer_steps(draw: st.DrawFn) -> tuple[list[int], list[bool], int]:
    """Experts needed, which are resident, and slots: never more resident than slots."""
    needed = draw(NEEDED)
    resident = draw(st.lists(st.booleans(), min_size=len(needed), max_size=len(needed)))
    return needed, resident, draw(st.integers(max(1, sum(resident)), 300))


@given(layer_steps(), st.none() | TABLES)
def test_every_needed_expert_is_in_one_wave_in_ascending_order(
    step: tuple[list[int], list[bool], int], costs: CostTable | None
) -> None:
    needed, resident, room = step
    plan = plan_experts(needed, resident, room, costs)
    assert [expert for wave in plan.waves for expert in wave] == needed
    assert [expert.id for expert in plan.experts] == needed
    assert all(0 < len(wave) <= WAVE for wave in plan.waves)


@given(layer_steps())
def test_what_is_held_and_any_two_waves_fit_in_the_room(step: tuple[list[int], list[bool], int]) -> None:
    """While one wave is computed the next arrives, and neither has to wait for the other's slots."""
    needed, resident, room = step
    plan = plan_experts(needed, resident, room)
    assert all(len(plan.held | {*wave}) <= room for wave in plan.waves)
    if room > 1:
        assert all(len(plan.held | {*first} | {*second}) <= room for first, second in pairwise(plan.waves))


@given(layer_steps(), st.none() | TABLES)
def test_actions_say_what_is_true(step: tuple[list[int], list[bool], int], costs: CostTable | None) -> None:
    needed, resident, room = step
    plan = plan_experts(needed, resident, room, costs)
    there = {expert for expert, is_there in zip(needed, resident, strict=True) if is_there}
    assert plan.held <= there
    assert set(plan.acting(Action.RESIDENT)) == plan.held
    assert not there & set(plan.acting(Action.IN_PLACE))
    assert sorted(id for action in Action for id in plan.acting(action)) == needed
    assert all(expert.reason for expert in plan.experts)
    if costs is None:
        assert plan.acting(Action.IN_PLACE) == ()
    else:
        assert set(needed) - there - set(plan.acting(Action.IN_PLACE)) == set(_fetched(plan)) - there
        assert len(set(_fetched(plan)) - there) == costs.fetched(len(needed) - len(there))


def _fetched(plan: ExpertPlan) -> tuple[int, ...]:
    return plan.acting(Action.FETCH)


@given(NEEDED)
def test_one_slot_is_enough(needed: list[int]) -> None:
    plan = plan_experts(needed, [False] * len(needed), 1)
    if len(needed) > 1:
        assert plan.waves == tuple((expert,) for expert in needed)
    assert plan.held == frozenset()


def test_no_slot_is_too_few() -> None:
    with pytest.raises(ValueError, match="needs a slot"):
        plan_experts([1], [False], 0)


def test_as_long_as_all_fit_nothing_that_is_there_makes_way() -> None:
    plan = plan_experts(range(40), [True] * 20 + [False] * 20, 40)
    assert plan.held == frozenset(range(20))
    assert plan.acting(Action.FETCH) == tuple(range(20, 40))
    assert [len(wave) for wave in plan.waves] == [16, 16, 8]


def test_when_not_all_fit_the_last_make_way() -> None:
    plan = plan_experts(range(20), [True] * 8 + [False] * 12, 8)
    assert [len(wave) for wave in plan.waves] == [2] * 10
    assert plan.held == frozenset(range(4))
    assert plan.acting(Action.FETCH) == tuple(range(4, 20))


def reason(plan: ExpertPlan, expert: int) -> str:
    return next(planned.reason for planned in plan.experts if planned.id == expert)


def test_each_choice_has_its_own_reason() -> None:
    crowded = plan_experts(range(20), [True] * 8 + [False] * 12, 8)
    assert reason(crowded, 0) == "it has a slot"
    assert "more experts than there are slots" in reason(crowded, 4)
    assert reason(crowded, 19) == "it is on disk, where nothing computes"
    mixed = plan_experts(range(5), [False] * 5, 8, DESK)
    assert "costs no more time than the others take" in reason(mixed, 0)
    assert "done sooner" in reason(mixed, 4)


def test_of_two_misses_computing_both_is_sooner_of_five_fetching_one_is_free() -> None:
    two = plan_experts([3, 9], [False, False], 8, DESK)
    assert (two.acting(Action.FETCH), two.acting(Action.IN_PLACE)) == ((), (3, 9))
    five = plan_experts([1, 2, 3, 4, 5], [False] * 5, 8, DESK)
    assert (five.acting(Action.FETCH), five.acting(Action.IN_PLACE)) == ((1,), (2, 3, 4, 5))


def test_what_is_computed_in_place_needs_no_slot() -> None:
    plan = plan_experts(range(5), [True, True, False, False, False], 3, CostTable((0, 100), (0, 1)))
    assert plan.held == frozenset({0, 1})
    assert plan.acting(Action.IN_PLACE) == (2, 3, 4)


def time_of(table: tuple[int, ...], count: int) -> float:
    return table[count] if count < len(table) else table[-1] * count / (len(table) - 1)


@given(TABLES, st.integers(0, 20))
def test_no_other_split_is_done_sooner(costs: CostTable, missing: int) -> None:
    times = [max(time_of(costs.fetch, n), time_of(costs.in_place, missing - n)) for n in range(missing + 1)]
    assert times[costs.fetched(missing)] == min(times)
    assert costs.fetched(missing) == times.index(min(times)), "of equals the fewest"


def test_behind_the_end_of_a_table_time_goes_on_as_before() -> None:
    assert CostTable((0, 30), (0, 10)).fetched(8) == 2
    assert CostTable((0,), (0, 10)).fetched(8) == 0, "what was never measured is never chosen"


@pytest.mark.parametrize("times", [(), (1, 2), (0, 5, 4)])
def test_a_table_starts_with_0_and_never_falls(times: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="fetch times"):
        CostTable(times, (0, 1))
    with pytest.raises(ValueError, match="in_place times"):
        CostTable((0, 1), times)
