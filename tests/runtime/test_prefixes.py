"""Texts that begin alike share the blocks of their beginning, and the answer is the same without."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.kv_cache import BlockAllocator
from runtime.prefixes import ROOT, PrefixIndex
from runtime.scheduler import Commit, Scheduler
from runtime.sequence import Batch, Sequence

SIZE = 4


def make(blocks: int = 16, rows: int = 32, sequences: int = 4) -> Scheduler:
    prefixes = PrefixIndex(SIZE)
    allocator = BlockAllocator(blocks, prefixes)
    return Scheduler(allocator, SIZE, max_batch_tokens=rows, max_sequences=sequences, prefixes=prefixes)


def step(scheduler: Scheduler) -> Batch:
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.commit(batch, [Commit(span.sequence_id, append=(7,)) for span in batch.sampling_spans()])
    scheduler.check_integrity()
    return batch


def rows(batch: Batch) -> dict[int, int]:
    return {span.sequence_id: span.length for span in batch.spans}


def test_only_full_blocks_before_the_last_token_are_found() -> None:
    index = PrefixIndex(SIZE)
    first = index.record(ROOT, (1, 2, 3, 4), 9)
    index.record(first, (5, 6, 7, 8), 3)
    assert [known.block for known in index.find([1, 2, 3, 4, 5, 6, 7, 8, 9])] == [9, 3]
    assert [known.block for known in index.find([1, 2, 3, 4, 5, 6, 7, 8])] == [9]
    assert index.find([1, 2, 3, 4]) == []
    assert index.find([5, 6, 7, 8, 9]) == []


def test_the_same_text_twice_has_one_block_and_a_forgotten_one_is_not_found() -> None:
    index = PrefixIndex(SIZE)
    assert index.record(ROOT, (1, 2, 3, 4), 9) == index.record(ROOT, (1, 2, 3, 4), 5)
    assert 5 not in index
    index.forget(9)
    index.forget(5)
    assert index.find([1, 2, 3, 4, 5]) == []


def test_a_number_is_never_given_twice() -> None:
    index = PrefixIndex(SIZE)
    old = index.record(ROOT, (1, 2, 3, 4), 9)
    index.record(old, (5, 6, 7, 8), 2)
    index.forget(9)
    assert index.record(ROOT, (9, 9, 9, 9), 9) != old
    assert index.find([9, 9, 9, 9, 5, 6, 7, 8, 1])[1:] == []


def test_a_sample_waits_for_the_prompt_and_computes_its_own_rest_alone() -> None:
    scheduler = make()
    for i in range(3):
        scheduler.add(Sequence(i, list(range(10)), 20))
    assert rows(step(scheduler)) == {0: 10}
    assert rows(step(scheduler)) == {0: 1, 1: 2, 2: 2}
    assert scheduler.shared_tokens == 16
    assert scheduler[1].blocks[:2] == scheduler[2].blocks[:2] == scheduler[0].blocks[:2]
    assert len({scheduler[i].blocks[2] for i in range(3)}) == 3


def test_an_unlike_prompt_does_not_wait() -> None:
    scheduler = make()
    scheduler.add(Sequence(0, list(range(10)), 20))
    scheduler.add(Sequence(1, [5, *range(9)], 20))
    assert rows(step(scheduler)) == {0: 10, 1: 10}


def test_a_block_is_kept_when_its_text_ends_and_given_away_last() -> None:
    scheduler = make(blocks=4)
    scheduler.add(Sequence(0, list(range(9)), 12))
    step(scheduler)
    scheduler.remove(0)
    assert scheduler.allocator.free_count == 4
    scheduler.add(Sequence(1, list(range(9)), 12))
    assert rows(step(scheduler)) == {1: 1}
    scheduler.remove(1)
    scheduler.add(Sequence(2, [99] * 14, 16))
    assert rows(step(scheduler)) == {2: 14}
    scheduler.remove(2)
    scheduler.add(Sequence(3, list(range(9)), 12))
    assert rows(step(scheduler))[3] == 9


def test_a_cut_does_not_write_into_a_block_that_others_share() -> None:
    scheduler = make()
    for i in range(2):
        scheduler.add(Sequence(i, list(range(9)), 24))
    step(scheduler)
    step(scheduler)
    scheduler.apply(Commit(1, append=(50, 51), keep=7))
    scheduler.check_integrity()
    assert scheduler[1].cached == 4
    assert scheduler[1].blocks == scheduler[0].blocks[:1]
    batch = step(scheduler)
    span = next(span for span in batch.spans if span.sequence_id == 1)
    assert span.blocks[1] != scheduler[0].blocks[1]


def test_a_block_that_runs_already_takes_no_room_from_a_newcomer() -> None:
    scheduler = make(blocks=5)
    scheduler.add(Sequence(0, list(range(9)), 12))
    step(scheduler)
    scheduler.add(Sequence(1, list(range(9)), 12))
    assert rows(step(scheduler)) == {0: 1, 1: 1}
    assert scheduler[1].shared == 8


def test_a_block_that_is_kept_takes_room_once_it_is_shared() -> None:
    scheduler = make(blocks=4)
    scheduler.add(Sequence(0, list(range(9)), 12))
    step(scheduler)
    scheduler.remove(0)
    scheduler.add(Sequence(1, [50] * 6, 8))
    step(scheduler)
    scheduler.add(Sequence(2, list(range(9)), 12))
    assert scheduler.allocator.free_count == 2
    assert rows(step(scheduler)) == {1: 1}
    scheduler.remove(1)
    assert rows(step(scheduler)) == {2: 1}
    assert scheduler.preemptions == 0


def test_what_was_forgotten_is_free_and_computed_again() -> None:
    scheduler = make(blocks=4)
    scheduler.add(Sequence(0, list(range(9)), 12))
    step(scheduler)
    scheduler.remove(0)
    scheduler.forget_prefixes()
    scheduler.check_integrity()
    assert scheduler.allocator.free_count == 4
    scheduler.add(Sequence(1, list(range(9)), 12))
    assert rows(step(scheduler)) == {1: 9}


def test_sharing_what_nobody_has_is_a_bug() -> None:
    with pytest.raises(ValueError, match="nothing to share"):
        BlockAllocator(2, PrefixIndex(SIZE)).share([0])


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=14), st.integers(1, 6)), max_size=8),
    st.integers(1, 9),
    st.lists(st.integers(0, 7)),
)
@settings(max_examples=60, deadline=None)
def test_every_row_sees_the_blocks_that_hold_its_own_text(
    asked: list[tuple[list[int], int]], most: int, aborted: list[int]
) -> None:
    """Any prompts of two tokens, any pace, any of them aborted: what a block was written with is what each reader of
    it has there."""
    scheduler = make(blocks=6, rows=most, sequences=3)
    written: dict[int, int] = {}
    for i, (prompt, more) in enumerate(asked):
        scheduler.add(Sequence(i, list(prompt), len(prompt) + more))
    while scheduler.has_work:
        batch = scheduler.schedule()
        assert batch is not None
        for slot, token in zip(batch.slots.tolist(), batch.token_ids.tolist(), strict=True):
            written[slot] = token
        for span in batch.spans:
            tokens = scheduler[span.sequence_id].token_ids[: span.context + span.length]
            held = [written[span.blocks[at // SIZE] * SIZE + at % SIZE] for at in range(len(tokens))]
            assert held == tokens
        scheduler.commit(batch, [_outcome(scheduler[s.sequence_id]) for s in batch.sampling_spans()])
        if aborted and (number := aborted.pop()) in scheduler:
            scheduler.remove(number)
        scheduler.check_integrity()
    assert scheduler.allocator.free_count == 6


def _outcome(sequence: Sequence) -> Commit:
    if len(sequence.token_ids) == sequence.limit:
        return Commit(sequence.id, finished=True)
    if len(sequence.token_ids) % 5 == 4:
        return Commit(sequence.id, append=(1, 0), keep=len(sequence.token_ids) - 1)
    return Commit(sequence.id, append=(0,))
