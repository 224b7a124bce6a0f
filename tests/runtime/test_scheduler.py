from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.errors import CapacityError
from runtime.kv_cache import BlockAllocator
from runtime.scheduler import Commit, Scheduler
from runtime.sequence import Batch, Sequence


def make(blocks: int = 8, block_size: int = 4, max_batch_tokens: int = 8, max_sequences: int = 4) -> Scheduler:
    return Scheduler(BlockAllocator(blocks), block_size, max_batch_tokens=max_batch_tokens, max_sequences=max_sequences)


def add(scheduler: Scheduler, sequence_id: int, length: int, limit: int | None = None) -> Sequence:
    tokens = [100 * sequence_id + i for i in range(length)]
    sequence = Sequence(sequence_id, tokens, limit or length + 4)
    scheduler.add(sequence)
    return sequence


def step(scheduler: Scheduler) -> Batch:
    """One step in which every sequence that has logits gets a token."""
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.commit(batch, [Commit(span.sequence_id, append=(7,)) for span in batch.sampling_spans()])
    return batch


def lengths(batch: Batch) -> dict[int, int]:
    return {span.sequence_id: span.length for span in batch.spans}


def test_batch_layout() -> None:
    scheduler = make(max_batch_tokens=16)
    add(scheduler, 1, 5)
    add(scheduler, 2, 3)
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.token_ids.tolist() == [100, 101, 102, 103, 104, 200, 201, 202]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.slots.tolist() == [0, 1, 2, 3, 4, 8, 9, 10]
    assert [(s.sequence_id, s.start, s.length, s.context, s.blocks) for s in batch.spans] == [
        (1, 0, 5, 0, (0, 1)),
        (2, 5, 3, 0, (2,)),
    ]
    assert batch.logit_rows.tolist() == [4, 7]


def test_a_long_prompt_is_cut_into_chunks_and_only_the_last_has_logits() -> None:
    scheduler = make()
    add(scheduler, 1, 19)
    chunks = [step(scheduler) for _ in range(4)]
    assert [lengths(c)[1] for c in chunks] == [8, 8, 3, 1]
    assert [c.logit_rows.tolist() for c in chunks] == [[], [], [2], [0]]


def test_decoding_goes_on_while_a_newcomer_is_read() -> None:
    scheduler = make(blocks=16)
    add(scheduler, 1, 3, limit=20)
    step(scheduler)
    add(scheduler, 2, 12)
    assert lengths(step(scheduler)) == {1: 1, 2: 7}
    assert lengths(step(scheduler)) == {1: 1, 2: 5}
    assert lengths(step(scheduler)) == {1: 1, 2: 1}


def test_the_youngest_gives_way_and_comes_back_whole() -> None:
    scheduler = make(blocks=4)
    old, young = add(scheduler, 1, 4, limit=12), add(scheduler, 2, 4, limit=12)
    while scheduler.preemptions == 0:
        step(scheduler)
        scheduler.check_integrity()
    assert young.blocks == []
    assert young.cached == 0
    assert old.cached == len(old.token_ids) - 1
    scheduler.remove(1)
    assert lengths(step(scheduler)) == {2: len(young.token_ids) - 1}


def test_a_request_that_can_never_fit_is_refused() -> None:
    scheduler = make(blocks=2)
    with pytest.raises(CapacityError, match="room for 8"):
        add(scheduler, 1, 3, limit=9)
    assert not scheduler.has_work
    add(scheduler, 2, 3, limit=8)


def test_cutting_frees_blocks_and_computes_the_last_kept_token_again() -> None:
    scheduler = make(blocks=8, max_batch_tokens=16)
    sequence = add(scheduler, 1, 13, limit=30)
    batch = scheduler.schedule()
    assert batch is not None
    assert len(sequence.blocks) == 4
    scheduler.commit(batch, [Commit(1, append=(8, 9), keep=6)])
    assert sequence.token_ids == [100, 101, 102, 103, 104, 105, 8, 9]
    assert (sequence.cached, len(sequence.blocks)) == (5, 2)
    scheduler.check_integrity()
    again = step(scheduler)
    assert again.token_ids.tolist() == [105, 8, 9]
    assert again.positions.tolist() == [5, 6, 7]


def test_integrity_notices_what_does_not_belong() -> None:
    scheduler = make()
    sequence = add(scheduler, 1, 5)
    step(scheduler)
    sequence.blocks.pop()
    with pytest.raises(RuntimeError, match="hold 1 blocks"):
        scheduler.check_integrity()


class Scheduling(RuleBasedStateMachine):
    """Any order of arrivals, steps, cuts and removals keeps blocks and the oldest's progress."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = make(blocks=6, block_size=4, max_batch_tokens=5, max_sequences=3)
        self.alive: dict[int, Sequence] = {}
        self.next_id = 0

    @rule(length=st.integers(1, 15), more=st.integers(1, 9))
    def arrive(self, length: int, more: int) -> None:
        self.alive[self.next_id] = add(self.scheduler, self.next_id, length, limit=length + more)
        self.next_id += 1

    @precondition(lambda self: self.alive)
    @rule(cut=st.booleans())
    def compute(self, cut: bool) -> None:
        oldest = self.alive[min(self.alive)]
        before = oldest.cached
        batch = self.scheduler.schedule()
        assert batch is not None
        assert len(batch.token_ids) <= 5
        assert min(span.sequence_id for span in batch.spans) == oldest.id
        self._check_slots(batch)
        self.scheduler.commit(batch, [self._outcome(s.sequence_id, cut) for s in batch.sampling_spans()])
        if oldest.id in self.alive and not cut:
            assert oldest.cached > before

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        sequence_id = data.draw(st.sampled_from(sorted(self.alive)))
        self.scheduler.remove(sequence_id)
        del self.alive[sequence_id]

    def _outcome(self, sequence_id: int, cut: bool) -> Commit:
        sequence = self.alive[sequence_id]
        if len(sequence.token_ids) + 1 > sequence.limit:
            del self.alive[sequence_id]
            return Commit(sequence_id, finished=True)
        keep = max(1, len(sequence.token_ids) - 3) if cut else None
        return Commit(sequence_id, append=(1,), keep=keep)

    def _check_slots(self, batch: Batch) -> None:
        assert len(set(batch.slots.tolist())) == len(batch.slots)
        for span in batch.spans:
            rows = range(span.start, span.start + span.length)
            expected = [span.blocks[p // 4] * 4 + p % 4 for p in range(span.context, span.context + span.length)]
            assert [int(batch.slots[row]) for row in rows] == expected

    @invariant()
    def everything_is_in_its_place(self) -> None:
        self.scheduler.check_integrity()
        assert self.scheduler.has_work == bool(self.alive)
        if not self.alive:
            assert self.scheduler.allocator.free_count == 6


Scheduling.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestScheduling = Scheduling.TestCase
