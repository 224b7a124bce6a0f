"""A layer step's tables are those of a plain model of the same rules, step after step."""

from __future__ import annotations

import pytest

from kernels.gpu import policy as policies
from kernels.gpu import route
from kernels.gpu.route import MOST_ROWS, RouterShape
from kernels.gpu.tables import Counter
from tests.kernels.gpu.step_model import Both, Model

ALL, NONE, HALF = list(range(99)), [0] * 99, [(m + 1) // 2 for m in range(99)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    """So that a few slots are several chunks, and a few columns several loads."""
    monkeypatch.setattr(policies, "SLOT_CHUNK", 4)
    monkeypatch.setattr(route, "TILE", 4)
    monkeypatch.setattr(route, "STEPS", 1)


@pytest.mark.parametrize(
    ("policy", "exclusive"),
    [("lru", False), ("lfu", True), ("lfru", False), ("lfru", True), ("slru", True), ("least-stale", False)],
)
def test_steps_of_every_policy(policy: str, exclusive: bool) -> None:
    both = Both(Model(policy=policy, exclusive=exclusive, rows=2), seed=3)
    for number in range(11):
        both.step((ALL, HALF, NONE)[number % 4 % 3])
    counts = both.host.counts
    assert all(counts[some] for some in (Counter.HITS, Counter.FETCHED, Counter.IN_PLACE, Counter.EVICTED))


@pytest.mark.parametrize("fetch_of", [ALL, NONE, HALF])
def test_one_row(fetch_of: list[int]) -> None:
    both = Both(Model(rows=1, slots=5), seed=1)
    for _ in range(5):
        both.step(fetch_of)


def test_one_slot() -> None:
    both = Both(Model(rows=2, slots=1, exclusive=True), seed=2)
    for _ in range(6):
        both.step(ALL)
    assert both.host.counts[Counter.EVICTED]


@pytest.mark.parametrize("rows", [3, 4])
def test_several_rows_by_their_router(rows: int) -> None:
    """Experts that are no power of two, in groups, and more rows than a tile has."""
    router = RouterShape(3, 3, 2, 1.5)
    both = Both(Model(layers=2, experts=12, slots=9, rows=rows, router=router, policy="lfru", spread=5), seed=rows)
    for _ in range(3):
        both.step(HALF, forced=False)


def test_all_hits() -> None:
    both = Both(Model(layers=1, experts=6, slots=8, rows=2, spread=6), seed=5)
    for _ in range(2):
        both.step(ALL)
    assert not both.host.counts[Counter.FETCHED]


def test_fewer_moves_than_are_wanted() -> None:
    both = Both(Model(most_fetched=1, rows=3), seed=6)
    for _ in range(4):
        both.step(ALL)


def test_rows_that_vary_and_layers_that_are_left_out() -> None:
    both = Both(Model(rows=4, layers=4, policy="least-stale"), seed=7)
    for rows, layer in ((4, 0), (1, 1), (3, 3), (2, 3), (1, 0), (4, 2), (2, 1)):
        both.step(ALL, rows=rows, layer=layer)


@pytest.mark.parametrize("k", [1, 3])
def test_other_numbers_of_experts_per_row(k: int) -> None:
    both = Both(Model(experts=5, router=RouterShape(k, 1, 1, 1.0), slots=6), seed=8)
    for _ in range(3):
        both.step(HALF, forced=False)


@pytest.mark.parametrize(("policy", "exclusive"), [("lfru", False), ("slru", True)])
def test_guesses(policy: str, exclusive: bool) -> None:
    router = RouterShape(3, 1, 1, 2.5)
    both = Both(Model(policy=policy, exclusive=exclusive, slots=9, experts=7, router=router), seed=9)
    for number in range(8):
        both.step(HALF)
        both.ahead(both.draw_ids(2), most=(3, 1, 0, 5)[number % 4], surest=1 + number % 2)
    counts = both.host.counts
    assert counts[Counter.AHEAD]
    assert 0 < counts[Counter.GUESSED_RIGHT] < counts[Counter.GUESSED]


def test_admission() -> None:
    both = Both(Model(policy="slru", slots=6, rows=2), seed=10)
    for number in range(7):
        both.step(NONE if number % 3 else HALF)
        both.ahead(None, most=1 + number % 2)
    assert both.host.counts[Counter.ADMITTED]


def test_what_a_step_used_and_what_is_guessed_does_not_leave_for_a_guess() -> None:
    """One slot more than the step uses: a guess gets that one or none."""
    both = Both(Model(slots=3, rows=1, experts=4), seed=11)
    for _ in range(4):
        both.step(ALL)
        both.ahead(both.draw_ids(1), most=4, surest=2)
    assert both.host.counts[Counter.AHEAD]


def test_more_rows_than_bits_are_refused() -> None:
    with pytest.raises(ValueError, match=str(MOST_ROWS)):
        Both(Model(rows=MOST_ROWS + 1)).step(ALL)


def test_most_rows() -> None:
    Both(Model(rows=MOST_ROWS, experts=5, slots=4, layers=1), seed=12).step(HALF)
