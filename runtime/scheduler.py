"""Who computes what next: schedule() makes a batch, commit() takes in its results.

Only this file changes a Sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from runtime.errors import CapacityError
from runtime.kv_cache import BlockAllocator
from runtime.prefixes import ROOT, PrefixIndex
from runtime.sequence import Batch, Sequence, Span


@dataclass(slots=True)  # one a token: frozen ones take four times as long to make
class Commit:
    """What happens to one sequence after a step: cut to `keep` tokens, then lengthened, or finished."""

    sequence_id: int
    append: tuple[int, ...] = field(default=(), repr=False)
    keep: int | None = None
    finished: bool = False


class Scheduler:
    """Continuous batching over KV blocks, with chunked prefill and preemption by recomputation.

    Rows go first to sequences that decode, so that nobody waits for another's prompt; what is left of
    `max_batch_tokens` goes to prompts. When blocks run out, the youngest sequence gives its own back and is
    computed again later; as each sequence fits alone, the oldest always advances. With `prefixes` a sequence takes
    over the blocks that its tokens begin with, and waits for those that another is about to compute.
    """

    def __init__(
        self,
        allocator: BlockAllocator,
        block_size: int,
        *,
        max_batch_tokens: int,
        max_sequences: int,
        prefixes: PrefixIndex | None = None,
    ) -> None:
        self.allocator = allocator
        self.block_size = block_size
        self._prefixes = prefixes
        self.max_batch_tokens = max_batch_tokens
        # A decoding sequence needs a row in every batch, so no more may run than a batch has rows.
        self.max_sequences = min(max_sequences, max_batch_tokens)
        self.preemptions = 0
        self.shared_tokens = 0
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._by_id: dict[int, Sequence] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    @property
    def running_count(self) -> int:
        return len(self._running)

    def __getitem__(self, sequence_id: int) -> Sequence:
        return self._by_id[sequence_id]

    def __contains__(self, sequence_id: int) -> bool:
        return sequence_id in self._by_id

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence; ids must ascend. CapacityError when it could not fit even alone."""
        needed = self._blocks_for(sequence.limit)
        if needed > self.allocator.total:
            raise CapacityError(
                f"the request may need {sequence.limit} tokens of KV cache, and there is room for "
                f"{self.allocator.total * self.block_size}",
                "ask for fewer tokens, or give the KV cache more memory",
            )
        self._by_id[sequence.id] = sequence
        self._waiting.append(sequence)

    def schedule(self) -> Batch | None:
        """The next batch, its blocks owned; None when there is nothing to do."""
        lengths: dict[int, int] = {}
        budget = self.max_batch_tokens
        for sequence in self._decoding_first():
            length = min(sequence.pending, budget)
            if length and sequence in self._running and self._make_room(sequence, length):
                lengths[sequence.id] = length
                budget -= length
        while budget and self._can_admit():
            newcomer = self._waiting.popleft()
            self._running.append(newcomer)
            self._take_over(newcomer)
            lengths[newcomer.id] = min(newcomer.pending, budget)
            self._make_room(newcomer, lengths[newcomer.id])
            budget -= lengths[newcomer.id]
        return self._batch(lengths) if lengths else None

    def commit(self, batch: Batch, commits: Iterable[Commit]) -> None:
        """Marks the batch's tokens as cached, then applies what was decided about each sequence."""
        for span in batch.spans:
            if span.sequence_id in self._by_id:
                sequence = self._by_id[span.sequence_id]
                sequence.cached = span.context + span.length
                self._record(sequence)
        for change in commits:
            self.apply(change)

    def apply(self, change: Commit) -> None:
        """Changes one sequence; between batches only, or as a part of commit()."""
        if change.finished:
            self.remove(change.sequence_id)
            return
        sequence = self._by_id[change.sequence_id]
        if change.keep is not None:
            self._cut(sequence, change.keep)
        sequence.token_ids.extend(change.append)

    def remove(self, sequence_id: int) -> None:
        """Forgets a sequence wherever it is, and frees every block of it."""
        sequence = self._by_id.pop(sequence_id)
        self._release(sequence)
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)

    def forget_prefixes(self) -> None:
        """What sequences that are over have computed is shared no more."""
        self.allocator.forget()

    def check_integrity(self) -> None:
        """Raises RuntimeError unless every block and every sequence is where it belongs."""
        self.allocator.check_integrity()
        owned = {block for sequence in self._running for block in sequence.blocks}
        if len(owned) + self.allocator.free_count != self.allocator.total:
            raise RuntimeError(f"running sequences hold {len(owned)} blocks, {self.allocator.free_count} are free")
        if {s.id for s in self._running} | {s.id for s in self._waiting} != set(self._by_id):
            raise RuntimeError("a sequence is neither running nor waiting")
        if len(self._running) + len(self._waiting) != len(self._by_id):
            raise RuntimeError("a sequence is queued twice")
        for sequence in self._running:
            self._check_running(sequence)
        if any(sequence.blocks or sequence.cached for sequence in self._waiting):
            raise RuntimeError("a waiting sequence holds KV blocks")

    def _check_running(self, sequence: Sequence) -> None:
        if len(sequence.blocks) < self._blocks_for(sequence.cached):
            raise RuntimeError(f"sequence {sequence.id} has cached tokens without a block")
        if sequence.pending < 1:
            raise RuntimeError(f"sequence {sequence.id} runs with nothing to compute")
        if len(sequence.known) * self.block_size > sequence.cached:
            raise RuntimeError(f"sequence {sequence.id} would write into a block that others may share")

    def _decoding_first(self) -> list[Sequence]:
        """Running sequences: those with one token to compute, then the rest, each oldest first."""
        return sorted(self._running, key=lambda sequence: (sequence.pending > 1, sequence.id))

    def _can_admit(self) -> bool:
        """Whether all tokens of the next in line fit, beside what the running ones will soon take."""
        if not self._waiting or len(self._running) >= self.max_sequences:
            return False
        known = [] if self._prefixes is None else self._prefixes.find(self._waiting[0].token_ids)
        if self._prefixes is not None and self._is_being_computed(self._waiting[0], len(known)):
            return False
        promised = sum(self._missing(sequence, sequence.pending) + 1 for sequence in self._running)
        shared = sum(not self.allocator.is_kept(one.block) for one in known)
        return (
            self._missing(self._waiting[0], self._waiting[0].pending) - shared <= self.allocator.free_count - promised
        )

    def _is_being_computed(self, newcomer: Sequence, known: int) -> bool:
        """Whether a running sequence is about to compute the block that a newcomer lacks first."""
        end = (known + 1) * self.block_size
        wanted = newcomer.token_ids[:end]
        return len(newcomer.token_ids) > end and any(
            running.cached < end <= len(running.token_ids) and running.token_ids[:end] == wanted
            for running in self._running
        )

    def _take_over(self, newcomer: Sequence) -> None:
        """Shares the known blocks that a newcomer begins with."""
        if self._prefixes is None:
            return
        found = self._prefixes.find(newcomer.token_ids)
        self.allocator.share(known.block for known in found)
        newcomer.blocks.extend(known.block for known in found)
        newcomer.known.extend(known.number for known in found)
        newcomer.cached = len(found) * self.block_size
        newcomer.shared += newcomer.cached
        self.shared_tokens += newcomer.cached

    def _record(self, sequence: Sequence) -> None:
        """Makes known what the sequence's newly full blocks hold."""
        if self._prefixes is None:
            return
        size = self.block_size
        for i in range(len(sequence.known), sequence.cached // size):
            before = sequence.known[-1] if sequence.known else ROOT
            tokens = sequence.token_ids[i * size : (i + 1) * size]
            sequence.known.append(self._prefixes.record(before, tokens, sequence.blocks[i]))

    def _make_room(self, sequence: Sequence, length: int) -> bool:
        """Owns the blocks for `length` more tokens; False when it had to give way itself."""
        while (missing := self._missing(sequence, length)) > self.allocator.free_count:
            victim = self._running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks.extend(self.allocator.allocate(missing))
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of the queue: whoever runs is older than whoever waits."""
        self._running.remove(sequence)
        self._release(sequence)
        self._waiting.appendleft(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.allocator.free(sequence.blocks)
        sequence.blocks.clear()
        sequence.known.clear()
        sequence.cached = 0

    def _cut(self, sequence: Sequence, keep: int) -> None:
        """Keeps the first tokens. The last of them is computed again: what an MTP layer cached for it
        was made with the token that followed it. So is the rest of its block, where others may share that."""
        del sequence.token_ids[keep:]
        sequence.cached = min(sequence.cached, keep - 1)
        if sequence.cached // self.block_size < len(sequence.known):
            del sequence.known[sequence.cached // self.block_size :]
            sequence.cached = len(sequence.known) * self.block_size
        surplus = sequence.blocks[self._blocks_for(sequence.cached) :]
        self.allocator.free(surplus)
        del sequence.blocks[len(sequence.blocks) - len(surplus) :]

    def _batch(self, lengths: dict[int, int]) -> Batch:
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans: list[Span] = []
        logit_rows: list[int] = []
        for sequence in self._running:
            if sequence.id not in lengths:
                continue
            span = self._span(sequence, lengths[sequence.id], start=len(positions))
            end = span.context + span.length
            spans.append(span)
            token_ids.extend(sequence.token_ids[span.context : end])
            positions.extend(range(span.context, end))
            slots.extend(self._slot(span.blocks, position) for position in range(span.context, end))
            if end == len(sequence.token_ids):
                logit_rows.append(span.last_row)
        return Batch(
            token_ids=torch.tensor(token_ids),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            spans=tuple(spans),
            logit_rows=torch.tensor(logit_rows, dtype=torch.int64),
        )

    def _span(self, sequence: Sequence, length: int, start: int) -> Span:
        blocks = sequence.blocks[: self._blocks_for(sequence.cached + length)]
        return Span(sequence.id, start, length, sequence.cached, tuple(blocks))

    def _slot(self, blocks: tuple[int, ...], position: int) -> int:
        return blocks[position // self.block_size] * self.block_size + position % self.block_size

    def _missing(self, sequence: Sequence, length: int) -> int:
        """Blocks it lacks for `length` more tokens."""
        return max(0, self._blocks_for(sequence.cached + length) - len(sequence.blocks))

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)
