"""A model without weights: its next token depends on every token that the cache gives back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.floating import candidates
from kernels.ops import Candidates, Restriction
from runtime.kv_cache import KVCache
from runtime.sequence import Batch

PRIME = 2_147_483_647


class ScriptedModel:
    """Hidden states are hashes of the context, read from the cache through the block table.

    A wrong slot, a stale block or a token too many changes the hash, and with it all that follows. After
    `poisoned_token` the logits are NaN.
    """

    backend = "scripted"
    has_mtp = False
    cache_layers = 1
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.batches: list[Batch] = []
        self.poisoned_token: int | None = None

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        self.batches.append(batch)
        block, offset = batch.slots // cache.block_size, batch.slots % cache.block_size
        cache.keys[0, block, :, :, offset] = batch.token_ids.float()[:, None, None]
        rows = [h for span in batch.spans for h in self._hashes(span.blocks, span.context, span.length, cache)]
        return torch.tensor(rows, dtype=torch.int64)[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        rows = [self._row(int(h)) for h in hidden[:, 0].tolist()]
        return torch.stack(rows)

    def head(self, hidden: Tensor, size: int, restrictions: Sequence[Restriction], count: int) -> Candidates:
        return candidates(self.logits(hidden), size, restrictions, count)

    def mtp_forward(self, hidden: Tensor, next_token_ids: Tensor, batch: Batch, cache: KVCache) -> Tensor:
        """A perfect draft: the hash that the context will have once the next token is in it."""
        return (hidden * 31 + next_token_ids[:, None] + 1) % PRIME

    def _hashes(self, blocks: tuple[int, ...], context: int, length: int, cache: KVCache) -> list[int]:
        tokens = cache.keys[0, list(blocks), 0, 0].flatten().tolist()
        hashes, h = [], 7
        for token in tokens[: context + length]:
            h = (h * 31 + int(token) + 1) % PRIME
            hashes.append(h if int(token) != self.poisoned_token else -1)
        return hashes[context:]

    def _row(self, h: int) -> Tensor:
        if h == -1:
            return torch.full((self.vocab_size,), math.nan)
        return torch.randn(self.vocab_size, generator=torch.Generator().manual_seed(h)) * 3
