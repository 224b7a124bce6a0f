"""What is being generated (Sequence) and what one forward pass computes (Batch)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Sequence:
    """One text in the making: its tokens and where their keys and values are kept.

    Only the scheduler changes it. `limit` is the most tokens it may ever hold; `known` numbers its first blocks in the
    index of prefixes; `shared` counts tokens that were in the cache already when it was admitted.
    """

    id: int
    token_ids: list[int] = field(repr=False)
    limit: int
    cached: int = 0
    blocks: list[int] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    shared: int = 0

    @property
    def pending(self) -> int:
        """Tokens that are known but not yet in the cache; at least one while it runs."""
        return len(self.token_ids) - self.cached


@dataclass(slots=True)  # one a token: frozen ones take four times as long to make
class Span:
    """The rows [start, start + length) of a batch, which belong to one sequence.

    `context` tokens are already cached; `blocks` is the block table up to and including this span's tokens.
    """

    sequence_id: int
    start: int
    length: int
    context: int
    blocks: tuple[int, ...]

    @property
    def last_row(self) -> int:
        return self.start + self.length - 1


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of one forward pass, those of each sequence side by side.

    Slots are flat cache indices, block * block_size + offset. `logit_rows` are the rows whose logits are
    wanted, in span order: each is the last known token of its sequence.
    """

    token_ids: Tensor = field(repr=False)  # [T]
    positions: Tensor  # [T]
    slots: Tensor  # [T]
    spans: tuple[Span, ...]
    logit_rows: Tensor  # [R]

    def sampling_spans(self) -> tuple[Span, ...]:
        """The spans that `logit_rows` belong to, in the same order."""
        rows = set(self.logit_rows.tolist())
        return tuple(span for span in self.spans if span.last_row in rows)

    def to(self, device: torch.device | str) -> Batch:
        return replace(
            self,
            token_ids=self.token_ids.to(device),
            positions=self.positions.to(device),
            slots=self.slots.to(device),
            logit_rows=self.logit_rows.to(device),
        )
