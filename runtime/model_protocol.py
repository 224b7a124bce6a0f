"""What the engine needs of a model: DecoderModel is one, a scripted model in a test is another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from kernels.ops import Candidates, Restriction
from runtime.kv_cache import KVCache
from runtime.sequence import Batch


class Model(Protocol):
    """A decoder over the paged cache. T tokens, R rows with logits, M model width, V vocabulary."""

    @property
    def has_mtp(self) -> bool: ...

    @property
    def cache_layers(self) -> int:
        """Layers that keep keys and values, those of the MTP layer included."""
        ...

    @property
    def backend(self) -> str:
        """The name of the kernels that compute experts."""
        ...

    routing_observer: Callable[[int, Tensor], None] | None
    routing_source: Callable[[int, Tensor], Tensor] | None
    device: torch.device
    dtype: torch.dtype

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Hidden states [T, M] after the final norm; writes keys and values at the batch's slots."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits [R, V] of hidden states [R, M]."""
        ...

    def head(self, hidden: Tensor, size: int, restrictions: Sequence[Restriction], count: int) -> Candidates:
        """The `count` likeliest of the first `size` tokens after each of the hidden states [R, M]."""
        ...

    def mtp_forward(self, hidden: Tensor, next_token_ids: Tensor, batch: Batch, cache: KVCache) -> Tensor:
        """Hidden states [T, M] whose logits predict the token after next."""
        ...
