"""How likely a model finds a text that is given: the forward passes of generating it, with nothing drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from runtime.kv_cache import BlockAllocator, KVCache
from runtime.model_protocol import Model
from runtime.sequence import Batch, Span

# A row of logits is as wide as the vocabulary.
LOGIT_ROWS = 32


def log_likelihoods(
    model: Model, cache: KVCache, allocator: BlockAllocator, prompt: Iterable[int], text: Iterable[int], batch: int
) -> Tensor:
    """Natural log-likelihood of each token of a text behind a prompt, fp32 [T], computed `batch` tokens at a time.

    A token whose row of logits is not finite has NaN. Raises CapacityError where the cache has no room, NumericsError.
    """
    given = list(prompt)
    ids = [*given, *text]
    blocks = allocator.allocate(-(-(len(ids) - 1) // cache.block_size))
    try:
        found = [
            _scored(model, hidden[max(0, len(given) - 1 - start) :], ids[max(len(given), start + 1) :])
            for start, hidden in _passes(model, cache, blocks, ids[:-1], batch)
        ]
    finally:
        allocator.free(blocks)
    return torch.cat(found)


def _passes(
    model: Model, cache: KVCache, blocks: tuple[int, ...], ids: list[int], batch: int
) -> Iterator[tuple[int, Tensor]]:
    """The first row of each pass, and its hidden states [T, M]."""
    for start in range(0, len(ids), batch):
        rows = ids[start : start + batch]
        positions = torch.arange(start, start + len(rows))
        owned = torch.tensor(blocks)[positions // cache.block_size]
        span = Span(0, 0, len(rows), start, blocks[: -(-(start + len(rows)) // cache.block_size)])
        slots = owned * cache.block_size + positions % cache.block_size
        step = Batch(torch.tensor(rows), positions, slots, (span,), positions[:0])
        yield start, model.forward(step, cache)


def _scored(model: Model, hidden: Tensor, following: list[int]) -> Tensor:
    """Log-likelihood [R] of the tokens that follow the hidden states [R, M]; those given may be more."""
    wanted = torch.tensor(following[: len(hidden)], device=hidden.device)
    parts = [
        _log_probability(model.logits(hidden[at : at + LOGIT_ROWS]), wanted[at : at + LOGIT_ROWS])
        for at in range(0, len(hidden), LOGIT_ROWS)
    ]
    return torch.cat(parts) if parts else torch.empty(0)


def _log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    finite = logits.isfinite().all(dim=-1)
    chosen = logits.log_softmax(dim=-1).gather(-1, ids[:, None]).squeeze(-1)
    return torch.where(finite, chosen, torch.nan).cpu()
