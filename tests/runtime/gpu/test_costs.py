"""Splits of the missing experts: measured side by side, and corrected until they are close to the best on simulated machines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

from runtime.experts.cost import CostTable
from runtime.gpu import costs as module
from runtime.gpu.costs import Correction, Split, fetch_of, measure, run_beside

IntArray, FloatArray = NDArray[np.int64], NDArray[np.float64]

LAYERS, PER_TOKEN = 31, 8
PAGING: Split = tuple(range(PER_TOKEN + 1))
HOST: Split = (0,) * (PER_TOKEN + 1)


@dataclass(frozen=True)
class Machine:
    """Seconds that an expert takes over the link and on the host, and how much each slows the other down."""

    link: float = 267e-6
    host: float = 111e-6
    slowed_link: float = 1.0
    slowed_host: float = 1.0
    round_trip: float = 10e-6
    all_hit: float = 5.5e-3
    hit_rate: float = 0.7
    noise: float = 0.05

    def layer(self, fetched: int, in_place: int) -> float:
        both = bool(fetched and in_place)
        over_link = fetched * self.link * (self.slowed_link if both else 1)
        on_host = in_place * self.host * (self.slowed_host if both else 1) + self.round_trip * bool(in_place)
        return max(over_link, on_host)

    def misses(self, tokens: int) -> tuple[IntArray, FloatArray]:
        """Of every token how many experts miss in each layer, and what noise makes of its time."""
        generator = np.random.default_rng(tokens)
        missing = generator.binomial(PER_TOKEN, 1 - self.hit_rate, (tokens, LAYERS))
        return missing, generator.uniform(1 - self.noise, 1 + self.noise, tokens)

    def by_missing(self, split: Split) -> FloatArray:
        """Seconds of a layer by how many miss."""
        return np.array([self.layer(n, missing - n) for missing, n in enumerate(split)])

    def measured(self) -> CostTable:
        """What `measure` finds here."""
        return measure(
            lambda n: n * self.link * self.slowed_link,
            lambda n: n * self.host * self.slowed_host + self.round_trip * bool(n),
            PER_TOKEN,
            lambda timed, load: timed(),
        )

    def measured_alone(self) -> CostTable:
        return replace(self, slowed_link=1.0, slowed_host=1.0).measured()


def fixed(run: list[tuple[Machine, int]], split: Split) -> list[float]:
    """Seconds of every token while one machine follows the other; the same misses whatever the split."""
    times: list[float] = []
    for machine, tokens in run:
        missing, noise = machine.misses(tokens)
        times += ((machine.all_hit + machine.by_missing(split)[missing].sum(axis=1)) * noise).tolist()
    return times


def corrected(run: list[tuple[Machine, int]], correction: Correction) -> list[float]:
    """Those with the splits that are told, which learn from them."""
    times: list[float] = []
    for machine, tokens in run:
        by_missing = lru_cache(machine.by_missing)
        for missing, noise in zip(*machine.misses(tokens), strict=True):
            fetched = int(np.array(correction.split)[missing].sum())
            seconds = (machine.all_hit + by_missing(correction.split)[missing].sum()) * noise
            correction.step(fetched, int(missing.sum()) - fetched, float(seconds))
            times.append(float(seconds))
    return times


def best_fixed(machines: list[tuple[Machine, int]], costs: CostTable) -> float:
    return min(sum(fixed(machines, split)) for split in (PAGING, HOST, tuple(fetch_of(costs, PER_TOKEN).tolist())))


DESK = Machine()
FAST_LINK = Machine(link=60e-6, host=900e-6)
SLOW_LINK = Machine(link=2000e-6, host=80e-6)
# Each alone is quick. Together the link is ten times slower, or the host.
SLOWED_LINK = Machine(slowed_link=10.0)
SLOWED_HOST = Machine(link=150e-6, host=120e-6, slowed_host=10.0)
SLOWED = Machine(slowed_link=10.0, slowed_host=10.0)
SCENES = {
    "desk": DESK,
    "fast link, slow host": FAST_LINK,
    "slow link, fast host": SLOW_LINK,
    "slowed link": SLOWED_LINK,
    "slowed host": SLOWED_HOST,
    "both slowed": SLOWED,
    "hits nearly always": replace(DESK, hit_rate=0.97),
    "noisy": replace(DESK, noise=0.3),
}


@pytest.mark.parametrize("alone", [False, True], ids=["as measured", "measured alone"])
@pytest.mark.parametrize("machine", SCENES.values(), ids=SCENES.keys())
def test_it_comes_close_to_the_best_fixed_mode(machine: Machine, alone: bool) -> None:
    costs = machine.measured_alone() if alone else machine.measured()
    run = [(machine, 3000)]
    times = corrected(run, Correction(costs, PER_TOKEN, all_hit=machine.all_hit))
    assert sum(times) <= 1.10 * best_fixed(run, costs)


@pytest.mark.parametrize("wrong", [0.1, 10.0])
def test_a_table_that_is_wrong_by_ten_times_is_corrected(wrong: float) -> None:
    true = DESK.measured()
    costs = CostTable(tuple(round(wrong * one) for one in true.fetch), true.in_place)
    run = [(DESK, 3000)]
    times = corrected(run, Correction(costs, PER_TOKEN, all_hit=DESK.all_hit))
    assert sum(times[1500:]) <= 1.05 * sum(fixed(run, tuple(fetch_of(true, PER_TOKEN).tolist()))[1500:])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (DESK, replace(DESK, host=1500e-6)),
        (FAST_LINK, SLOW_LINK),
        (SLOW_LINK, FAST_LINK),
        (DESK, SLOWED),
        (DESK, replace(DESK, link=40e-6)),
    ],
    ids=["the host grows slow", "the link grows slow", "the host grows slower", "contention", "the link grows fast"],
)
def test_it_follows_a_machine_that_changes(before: Machine, after: Machine) -> None:
    """Close to the best of each half, which no fixed mode need be for both."""
    costs = before.measured()
    times = corrected([(before, 3000), (after, 3000)], Correction(costs, PER_TOKEN, all_hit=before.all_hit))
    assert sum(times[:3000]) <= 1.10 * best_fixed([(before, 3000)], costs)
    assert sum(times[3000:]) <= 1.10 * best_fixed([(after, 3000)], after.measured())


@pytest.mark.parametrize("known", [0.0, 5.5e-3, 1.0], ids=["unknown", "known", "far too long"])
def test_the_time_without_misses_need_not_be_known(known: float) -> None:
    run = [(SLOW_LINK, 2000)]
    costs = FAST_LINK.measured()
    times = corrected(run, Correction(costs, PER_TOKEN, all_hit=known))
    assert sum(times[1000:]) <= 1.10 * sum(fixed(run, HOST)[1000:])


def test_it_says_so_when_the_mode_changes() -> None:
    said: list[str] = []
    correction = Correction(FAST_LINK.measured(), PER_TOKEN, announce=said.append)
    corrected([(SLOW_LINK, 600)], correction)
    assert str(correction) == "auto (host)"
    assert said[-1].startswith("missing experts: host in place of ")
    assert " ms each instead of " in said[-1]
    assert all("\n" not in line for line in said)


def test_it_does_not_go_back_and_forth() -> None:
    """Where two modes cost the same, noise decides at most now and then."""
    same = Machine(link=111e-6, host=111e-6, slowed_link=2.0, slowed_host=2.0, round_trip=0.0, noise=0.1)
    said: list[str] = []
    corrected([(same, 6000)], Correction(same.measured(), PER_TOKEN, announce=said.append))
    assert len(said) <= 3


@pytest.mark.parametrize(("mode", "split"), [("paging", PAGING), ("host", HOST)])
def test_what_a_person_says_stays(mode: str, split: Split) -> None:
    correction = Correction(DESK.measured(), PER_TOKEN, mode=mode)
    assert corrected([(DESK, 300)], correction) == fixed([(DESK, 300)], split)
    assert str(correction) == mode


def test_both_is_the_measured_table() -> None:
    correction = Correction(DESK.measured(), PER_TOKEN, mode="both")
    corrected([(FAST_LINK, 300)], correction)
    assert torch.equal(correction.fetch_of, fetch_of(DESK.measured(), PER_TOKEN))
    assert correction.costs == DESK.measured()


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="mode fast is none of auto, paging"):
        Correction(DESK.measured(), PER_TOKEN, mode="fast")


def test_a_change_is_told_and_equal_times_decide_equally() -> None:
    def changes() -> list[int]:
        correction, found = Correction(DESK.measured(), PER_TOKEN), []
        by_missing = lru_cache(DESK.by_missing)
        for token, missing in enumerate(DESK.misses(800)[0]):
            before = correction.split
            fetched = int(np.array(before)[missing].sum())
            changed = correction.step(fetched, int(missing.sum()) - fetched, float(by_missing(before)[missing].sum()))
            assert changed == (correction.split != before)
            found += [token] * changed
        return found

    assert changes() == changes() != []


def test_steps_without_misses_teach_nothing_of_them() -> None:
    correction = Correction(DESK.measured(), PER_TOKEN, all_hit=1e-3)
    assert not any(correction.step(0, 0, 1e-3) for _ in range(1000))


TABLES = st.builds(
    lambda fetch, in_place: CostTable((0, *sorted(fetch)), (0, *sorted(in_place))),
    st.lists(st.integers(0, 5000), min_size=1, max_size=8),
    st.lists(st.integers(0, 5000), min_size=1, max_size=8),
)


@given(TABLES, st.integers(0, 40))
def test_a_table_of_splits_has_the_best_of_each(costs: CostTable, most: int) -> None:
    table = fetch_of(costs, most)
    assert table.dtype == torch.int32
    assert table.tolist() == [costs.fetched(missing) for missing in range(most + 1)]


@settings(max_examples=30, deadline=None)
@given(TABLES, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.floats(0, 10)), max_size=200))
def test_every_split_is_one(costs: CostTable, steps: list[tuple[int, int, float]]) -> None:
    """Whatever is measured, at most the missing are fetched."""
    correction = Correction(costs, PER_TOKEN)
    for fetched, in_place, seconds in steps:
        correction.step(fetched, in_place, seconds)
        assert len(correction.split) == PER_TOKEN + 1
        assert all(0 <= n <= missing for missing, n in enumerate(correction.split))


@given(st.lists(st.floats(0, 1e-2), min_size=6, max_size=6), st.integers(0, 20))
def test_a_measured_table_never_falls_and_has_the_measured_points(seconds: list[float], most: int) -> None:
    times = iter([0.0, *(one for one in seconds for _ in range(module.REPEATS))] * 2)
    costs = measure(lambda n: next(times), lambda n: 1e-6 * n, most, lambda timed, load: timed())
    assert len(costs.fetch) == len(costs.in_place) == most + 1
    assert all(low <= high for low, high in pairwise(costs.fetch))
    assert costs.in_place == tuple(range(most + 1))
    if most:
        assert costs.fetch[1] == round(1e6 * seconds[0])


def test_between_points_a_table_goes_straight() -> None:
    costs = measure(lambda n: {1: 1e-3, 2: 2e-3, 4: 8e-3, 6: 4e-3}[n], lambda n: 0.0, 6, lambda timed, load: timed())
    assert costs.fetch == (0, 1000, 2000, 5000, 8000, 8000, 8000)


def test_one_is_timed_while_the_other_goes_on() -> None:
    seen: list[tuple[int, int]] = []
    running = {"fetch": 0, "in place": 0}

    def work(name: str, other: str) -> Callable[[int], float]:
        def run(count: int) -> float:
            running[name] += 1
            time.sleep(0.002)
            seen.append((count, running[other]))
            running[name] -= 1
            return count * 1e-3

        return run

    costs = measure(work("fetch", "in place"), work("in place", "fetch"), 4)
    assert costs == CostTable((0, 1000, 2000, 3000, 4000), (0, 1000, 2000, 3000, 4000))
    beside = [others for _, others in seen]
    assert sum(others == 1 for others in beside) > len(beside) // 2
    assert running == {"fetch": 0, "in place": 0}


def test_an_error_of_the_load_is_raised() -> None:
    def broken() -> None:
        raise OSError("no link")

    with pytest.raises(OSError, match="no link"):
        run_beside(lambda: 1.0, broken)
