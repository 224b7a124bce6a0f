"""Paging, layer step by layer step: the right bytes for every expert, honest counters, and nothing left pinned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.ops import Wave
from runtime.errors import ConfigError, ExpertReadError
from runtime.experts.pager import PASSING_ROWS, ComputeWave, ExpertPager
from runtime.experts.policy import POLICIES
from runtime.experts.store import ExpertStore
from tests.runtime.experts.blobs import BLOB, COUNT, GEOMETRY, LAYERS, bytes_at, pattern, write_blobs
from tests.runtime.experts.gate import Gate

Experts = Sequence[int]


class HeldStore(ExpertStore):
    """Reads that a test holds up, or has fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, GEOMETRY, write_blobs(path))
        self.gate = Gate()
        self.failing: set[int] = set()

    def read(self, blob: int, place: memoryview) -> None:
        self.gate.read(blob, 0)
        if blob in self.failing:
            raise ExpertReadError(f"{GEOMETRY.named(blob)} is unreadable", "Pack again.")
        super().read(blob, place)


Opened = Callable[..., ExpertPager]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Makes pagers, whose reads are let go and whose threads end with the test."""
    made: list[ExpertPager] = []

    def open_pager(
        slots: int, *, policy: str = "lru", lookahead: str = "on", readers: int = 2, pass_layers: int | None = None
    ) -> ExpertPager:
        pager = ExpertPager.open(
            HeldStore(tmp_path / f"experts{len(made)}"), slots, policy=policy, lookahead=lookahead, readers=readers,
            experts_per_token=2, pass_layers=pass_layers,
        )  # fmt: skip
        made.append(pager)
        return pager

    yield open_pager
    for pager in made:
        held_store(pager).gate.open(*range(GEOMETRY.blobs))
        pager.close()


def held_store(pager: ExpertPager) -> HeldStore:
    assert isinstance(pager.store, HeldStore)
    return pager.store


def ids(*experts: int, rows: int = 1) -> Tensor:
    """[rows, K]"""
    return torch.tensor([sorted(experts)] * rows)


def computing(pager: ExpertPager, layer: int, experts: Experts, seen: list[int]) -> ComputeWave:
    """A kernel that looks at the bytes of a wave's experts where the page table says they are."""
    pool = pager.pool(layer)

    def compute(wave: Wave) -> Tensor:
        assert (wave.total is None) == (not seen)
        mine = [expert for expert in sorted(set(experts)) if wave.first <= expert < wave.stop]
        for expert in mine:
            assert bytes_at(int(pool.addresses[expert])) == pattern(layer * COUNT + expert).tobytes()
        seen.extend(mine)
        assert wave.last == (seen == sorted(set(experts)))
        return torch.tensor(float(len(seen)))

    return compute


def visit(pager: ExpertPager, layer: int, *experts: int, rows: int = 1) -> None:
    """A layer step that needs these experts: each is computed once, in order, from its own bytes."""
    seen: list[int] = []
    total = pager.compute(pager.ask(layer, ids(*experts, rows=rows)), computing(pager, layer, experts, seen))
    assert seen == sorted(experts)
    assert total.item() == len(experts)
    pager.check_integrity()


def step(pager: ExpertPager, *layers: Experts, rows: int = 1) -> None:
    pager.begin_step(rows)
    for layer, experts in enumerate(layers):
        visit(pager, layer, *experts, rows=rows)
    pager.end_step()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("readers", [1, 4])
@pytest.mark.parametrize("slots", [1, 2, 3, 5, 6, 17, 18])
def test_a_layer_that_needs_more_experts_than_there_are_slots(
    opened: Opened, slots: int, readers: int, policy: str
) -> None:
    pager = opened(slots, policy=policy, readers=readers)
    for _ in range(2):
        step(pager, *[range(COUNT)] * LAYERS)
    stats = pager.stats()
    assert stats.uses == 2 * LAYERS * COUNT == stats.hits + stats.late + stats.misses
    assert stats.bytes_moved == stats.demand_bytes >= LAYERS * COUNT * BLOB
    assert (stats.demand_bytes == LAYERS * COUNT * BLOB) == (slots == LAYERS * COUNT)
    assert stats.verified == LAYERS * COUNT
    assert stats.resident == slots
    assert stats.waves == 2 * LAYERS * (1 if slots >= COUNT else COUNT)


def test_what_is_resident_is_not_read_again(opened: Opened) -> None:
    pager = opened(4)
    step(pager, [0, 3], [5])
    assert pager.stats().demand_bytes == 3 * BLOB
    step(pager, [0, 3], [4, 5])
    stats = pager.stats()
    assert (stats.uses, stats.hits, stats.misses) == (7, 3, 4)
    assert stats.demand_bytes == 4 * BLOB
    assert stats.evictions == 0
    assert stats.hit_rate == 3 / 7


def interrupted_at(number: int, compute: ComputeWave) -> ComputeWave:
    calls = iter(range(100))

    def interrupted(wave: Wave) -> Tensor:
        if next(calls) == number:
            raise KeyboardInterrupt
        return compute(wave)

    return interrupted


@pytest.mark.parametrize("slots", [1, 3, 6, 12])
@pytest.mark.parametrize("number", range(COUNT))
def test_interrupted_while_a_wave_is_computed(opened: Opened, slots: int, number: int) -> None:
    pager = opened(slots)
    pager.begin_step(1)
    asked = pager.ask(0, ids(*range(COUNT)))
    compute = interrupted_at(number, computing(pager, 0, range(COUNT), []))
    if number < len(asked.plan.waves):
        with pytest.raises(KeyboardInterrupt):
            pager.compute(asked, compute)
    else:
        pager.compute(asked, compute)
    pager.check_integrity()
    step(pager, [1, 2], [0, 5], range(COUNT))
    pager.settle()
    pager.check_integrity()


@pytest.mark.parametrize("slots", [1, 2, 6])
def test_interrupted_while_it_waits_for_a_read(opened: Opened, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pager = opened(slots)
    gate = held_store(pager).gate
    gate.shut(*range(COUNT))
    pager.begin_step(1)
    asked = pager.ask(0, ids(0, 1, 4))
    with monkeypatch.context() as patched:
        patched.setattr(pager._transfer._changed, "wait", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            pager.compute(asked, computing(pager, 0, [0, 1, 4], []))
    pager.check_integrity()
    gate.open(*range(COUNT))
    step(pager, [1, 2, 4], [3])
    pager.settle()
    pager.check_integrity()


def _interrupt(timeout: float | None = None) -> bool:
    raise KeyboardInterrupt


def test_an_expert_that_cannot_be_read_is_an_error_for_who_needs_it(opened: Opened) -> None:
    pager = opened(6)
    held_store(pager).failing = {2}
    pager.begin_step(1)
    asked = pager.ask(0, ids(1, 2, 3))
    with pytest.raises(ExpertReadError, match="layer 1, expert 2 is unreadable"):
        pager.compute(asked, computing(pager, 0, [1, 2, 3], []))
    pager.check_integrity()
    step(pager, [1, 3], [2])
    with pytest.raises(ExpertReadError, match="expert 2 is unreadable"):
        visit(pager, 0, 2)
    held_store(pager).failing.clear()
    step(pager, [2, 3])
    assert pager.stats().demand_bytes == 4 * BLOB


@pytest.mark.parametrize("slots", [1, 2, 6])
def test_one_that_cannot_be_read_in_a_later_wave(opened: Opened, slots: int) -> None:
    pager = opened(slots)
    held_store(pager).failing = {5}
    pager.begin_step(1)
    asked = pager.ask(0, ids(*range(COUNT)))
    with pytest.raises(ExpertReadError, match="expert 5 is unreadable"):
        pager.compute(asked, computing(pager, 0, range(COUNT), []))
    pager.check_integrity()
    step(pager, range(5), range(COUNT))


def guessed(pager: ExpertPager, layer: int, *experts: int) -> None:
    """A guess, whose reads have ended."""
    pager.guess(layer, ids(*experts))
    pager.settle()


def test_a_wrong_guess_that_cannot_be_read_is_nobodys_error(opened: Opened) -> None:
    pager = opened(6)
    held_store(pager).failing = {COUNT + 2}
    pager.begin_step(1)
    visit(pager, 0, 0)
    guessed(pager, 1, 2, 3)
    visit(pager, 1, 3)
    pager.end_step()
    assert pager.stats().lookahead_bytes == BLOB


@pytest.mark.parametrize("recovers", [True, False])
def test_a_right_guess_that_could_not_be_read_is_tried_again(opened: Opened, recovers: bool) -> None:
    pager = opened(6)
    held_store(pager).failing = {COUNT + 2}
    pager.begin_step(1)
    visit(pager, 0, 0)
    guessed(pager, 1, 2)
    if recovers:
        held_store(pager).failing.clear()
        visit(pager, 1, 2)
        return
    with pytest.raises(ExpertReadError, match="layer 2, expert 2"):
        visit(pager, 1, 2)
    pager.check_integrity()


def test_a_guess_that_fails_while_it_is_waited_for(opened: Opened) -> None:
    pager = opened(6)
    store = held_store(pager)
    store.failing = {COUNT + 2}
    store.gate.shut(COUNT + 2)
    pager.begin_step(1)
    pager.guess(1, ids(2))
    asked = pager.ask(1, ids(2, 3))
    store.gate.open(COUNT + 2)
    with pytest.raises(ExpertReadError, match="layer 2, expert 2"):
        pager.compute(asked, computing(pager, 1, [2, 3], []))
    pager.check_integrity()


def test_guesses_are_counted(opened: Opened) -> None:
    """Of four guessed two are needed, one of them was there before; two are not, one of which was there before."""
    pager = opened(12)
    step(pager, [0], [1, 2])
    pager.begin_step(1)
    visit(pager, 0, 0)
    guessed(pager, 1, 1, 2, 3, 4)
    visit(pager, 1, 2, 3, 5)
    visit(pager, 2, 0)
    pager.end_step()
    stats = pager.stats()
    assert (stats.guessed, stats.guessed_right, stats.not_guessed, stats.wasted) == (4, 2, 1, 1)
    assert stats.lookahead_bytes == 2 * BLOB
    assert stats.demand_bytes == (3 + 2) * BLOB
    assert (stats.uses, stats.hits, stats.late, stats.misses) == (3 + 5, 3, 0, 5)


def test_without_guesses_nothing_is_guessed_wrong(opened: Opened) -> None:
    pager = opened(6, lookahead="off")
    assert not pager.guesses
    step(pager, [0, 1], [2, 3])
    stats = pager.stats()
    assert (stats.guessed, stats.guessed_right, stats.not_guessed, stats.wasted, stats.lookahead_bytes) == (0,) * 5
    assert stats.lookahead == "off"


def test_a_guess_that_is_still_on_its_way_is_late(opened: Opened) -> None:
    pager = opened(6, readers=1)
    gate = held_store(pager).gate
    gate.shut(COUNT)
    pager.begin_step(1)
    pager.guess(1, ids(0, 1, 2))
    gate.until_begun(COUNT)
    asked = pager.ask(1, ids(0, 2, 3))
    gate.open(COUNT)
    pager.compute(asked, computing(pager, 1, [0, 2, 3], []))
    pager.settle()
    assert [expert for expert, _ in gate.began] == [COUNT, COUNT + 2, COUNT + 3, COUNT + 1], "the needed come first"
    stats = pager.stats()
    assert (stats.uses, stats.hits, stats.late, stats.misses) == (3, 0, 2, 1)
    assert (stats.lookahead_bytes, stats.demand_bytes) == (3 * BLOB, BLOB)
    assert stats.stall_seconds > 0


def test_a_guess_takes_no_slot_of_what_is_needed(opened: Opened) -> None:
    pager = opened(2)
    pager.begin_step(1)
    asked = pager.ask(0, ids(0, 1))
    pager.guess(1, ids(0, 1))
    assert pager.stats().lookahead_bytes == 0
    pager.compute(asked, computing(pager, 0, [0, 1], []))
    pager.settle()
    assert [pager.cache.is_resident(expert) for expert in (0, 1, COUNT)] == [True, True, False]
    pager.check_integrity()


def test_a_guess_keeps_what_it_names_and_has(opened: Opened) -> None:
    """To read one guess ahead at the cost of another would gain nothing."""
    pager = opened(2)
    visit(pager, 1, 0)
    visit(pager, 0, 0)
    pager.begin_step(1)
    guessed(pager, 1, 0, 1)
    assert [pager.cache.is_resident(expert) for expert in (0, COUNT, COUNT + 1)] == [False, True, True]
    assert pager.cache.pinned == 0


def test_guesses_give_way_to_what_is_needed(opened: Opened) -> None:
    """Those that are not being read yet: nobody waits for a slot that a guess holds."""
    pager = opened(3, readers=1)
    gate = held_store(pager).gate
    gate.shut(COUNT)
    pager.begin_step(1)
    pager.guess(1, ids(0, 1, 2))
    gate.until_begun(COUNT)
    asked = pager.ask(0, ids(0, 1))
    gate.open(COUNT)
    pager.compute(asked, computing(pager, 0, [0, 1], []))
    pager.settle()
    assert [expert for expert, _ in gate.began] == [COUNT, 0, 1]
    visit(pager, 1, 5)
    stats = pager.stats()
    assert (stats.guessed, stats.lookahead_bytes, stats.wasted) == (3, BLOB, 1), "what was not read is not wasted"


def test_a_step_forgets_the_guesses_of_the_one_before(opened: Opened) -> None:
    pager = opened(6)
    pager.begin_step(1)
    guessed(pager, 1, 0, 1)
    step(pager, [0], [2])
    stats = pager.stats()
    assert (stats.guessed_right, stats.not_guessed, stats.wasted) == (0, 0, 0)


def totals_of(**uses: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    totals = np.zeros(GEOMETRY.blobs, dtype=np.int64)
    for expert, count in uses.items():
        totals[int(expert[1:])] = count
    return totals


def test_a_profile_warms_the_free_slots_the_most_used_first(opened: Opened) -> None:
    pager = opened(3, readers=1)
    pager.warm(totals_of(e1=5, e4=9, e7=2, e10=7, e12=3))
    pager.settle()
    assert [expert for expert, _ in held_store(pager).gate.began] == [4, 10, 1]
    stats = pager.stats()
    assert (stats.prewarm_bytes, stats.demand_bytes, stats.resident) == (3 * BLOB, 0, 3)
    step(pager, [4, 1], [4])
    assert pager.stats().hits == 3
    pager.check_integrity()


def test_what_was_never_used_is_not_warmed_nor_what_is_there(opened: Opened) -> None:
    pager = opened(6)
    step(pager, [1])
    pager.warm(totals_of(e1=5, e2=1))
    pager.settle()
    assert pager.stats().prewarm_bytes == BLOB
    assert pager.stats().resident == 2


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - {"least-stale"}))
def test_of_what_was_warmed_the_most_used_stays(opened: Opened, policy: str) -> None:
    """Least-stale looks at layers, and not at uses."""
    pager = opened(8, policy=policy)
    pager.warm(totals_of(**{f"e{expert}": 100 - expert for expert in range(8)}))
    pager.settle()
    visit(pager, 2, 0)
    assert pager.cache.is_resident(0)


def test_warming_gives_way_to_what_is_needed(opened: Opened) -> None:
    pager = opened(4, readers=1)
    gate = held_store(pager).gate
    gate.shut(17)
    pager.warm(totals_of(e17=9, e16=8, e15=7, e14=6))
    gate.until_begun(17)
    pager.begin_step(1)
    asked = pager.ask(0, ids(0, 1, 2))
    gate.open(17)
    pager.compute(asked, computing(pager, 0, [0, 1, 2], []))
    pager.settle()
    assert [expert for expert, _ in gate.began] == [17, 0, 1, 2]
    assert pager.stats().prewarm_bytes == BLOB
    pager.check_integrity()


def pass_over(pager: ExpertPager) -> None:
    step(pager, *[range(COUNT)] * LAYERS, rows=PASSING_ROWS)


# Whether a pass reads ahead: the first layer comes after no other.
AHEAD = pytest.mark.parametrize("pass_layers", [None, 1])


@AHEAD
@pytest.mark.parametrize("policy", POLICIES)
def test_of_a_pass_the_next_one_finds_something(opened: Opened, policy: str, pass_layers: int | None) -> None:
    """Where the oldest left first, a second pass would find nothing that it needs."""
    pager = opened(12, policy=policy, pass_layers=pass_layers)
    pass_over(pager)
    assert pager.stats().pass_hits == 0
    pass_over(pager)
    stats = pager.stats()
    assert stats.pass_uses == 2 * LAYERS * COUNT
    assert stats.pass_hits > 0
    assert stats.uses == 0, "a pass is no decode step"


@AHEAD
@pytest.mark.parametrize("policy", POLICIES)
def test_what_decoding_uses_stays_through_a_pass(opened: Opened, policy: str, pass_layers: int | None) -> None:
    pager = opened(14, policy=policy, pass_layers=pass_layers)
    used: tuple[Experts, ...] = ([0], [1], [2])
    for _ in range(3):
        step(pager, *used)
    pass_over(pager)
    before = pager.stats()
    step(pager, *used)
    after = pager.stats()
    assert after.hits - before.hits == LAYERS
    assert after.demand_bytes == before.demand_bytes


def test_a_pass_reads_nothing_that_its_layer_has(opened: Opened) -> None:
    """Though that was used the longest ago."""
    pager = opened(COUNT, pass_layers=1)
    visit(pager, 0, 5)
    visit(pager, 1, *range(5))
    before = pager.stats().demand_bytes
    step(pager, range(COUNT), rows=PASSING_ROWS)
    stats = pager.stats()
    assert (stats.pass_hits, stats.demand_bytes - before) == (1, 5 * BLOB)


@pytest.mark.parametrize("slots", [1, 2, 5, 9, 18])
@pytest.mark.parametrize("pass_layers", [None, 2])
def test_a_pass_reads_ahead_only_for_layers_it_comes_to(opened: Opened, slots: int, pass_layers: int | None) -> None:
    pager = opened(slots, pass_layers=pass_layers)
    step(pager, *[range(COUNT)] * (pass_layers or LAYERS), rows=PASSING_ROWS)
    pager.settle()
    begun = {expert for expert, _ in held_store(pager).gate.began}
    assert begun == set(range((pass_layers or LAYERS) * COUNT))
    pager.check_integrity()


def test_totals_are_rows_for_each_expert(opened: Opened) -> None:
    pager = opened(6)
    pager.begin_step(3)
    pager.compute(pager.ask(1, torch.tensor([[0, 2], [2, 5], [1, 2]])), computing(pager, 1, [0, 1, 2, 5], []))
    visit(pager, 2, 4, rows=3)
    expected = np.zeros(GEOMETRY.blobs, dtype=np.int64)
    expected[[6, 7, 8, 11, 16]] = [1, 1, 3, 1, 3]
    assert pager.totals.tolist() == expected.tolist()


def test_only_decode_steps_decide_about_guessing(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    pager = opened(6)
    told: list[float] = []
    monkeypatch.setattr(pager.lookahead, "step", told.append)
    step(pager, [0], rows=PASSING_ROWS)
    assert told == []
    step(pager, [0], rows=PASSING_ROWS - 1)
    assert len(told) == 1
    assert told[0] > 0
    pager.begin_step(PASSING_ROWS)
    assert not pager.guesses
    pager.begin_step(1)
    assert pager.guesses


def test_a_pin_that_was_forgotten_is_found(opened: Opened) -> None:
    pager = opened(6)
    step(pager, [0])
    pager.ask(0, ids(0))
    with pytest.raises(RuntimeError, match="no layer is being computed"):
        pager.check_integrity()


def test_closing_leaves_what_nobody_needs(opened: Opened) -> None:
    pager = opened(6, readers=1)
    gate = held_store(pager).gate
    gate.shut(0)
    pager.begin_step(1)
    pager.guess(0, ids(0, 1, 2, 3))
    gate.until_begun(0)
    gate.open(0)
    pager.close()
    assert len(gate.began) < 4
    assert not any(thread.is_alive() for thread in pager._transfer._threads)
    pager.close()


def test_a_policy_that_does_not_exist(opened: Opened) -> None:
    with pytest.raises(ConfigError, match="no policy 'fifo'") as caught:
        opened(6, policy="fifo")
    assert "lru" in caught.value.remedy
