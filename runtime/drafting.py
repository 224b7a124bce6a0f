"""How often the multi-token-prediction layer is right, measured beside greedy decoding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from runtime.errors import AntangelError
from runtime.generation import Draft, Generation
from runtime.kv_cache import KVCache
from runtime.model_protocol import Model
from runtime.sequence import Batch, Span
from runtime.stats import Counters


class DraftCheck:
    """Runs the MTP layer after each pass and compares its drafts with what comes next; changes no output."""

    def __init__(self, model: Model, cache: KVCache, size: int, counters: Counters) -> None:
        self._model = model
        self._cache = cache
        self._size = size
        self._counters = counters

    def observe(
        self,
        batch: Batch,
        hidden: Tensor,
        drawn: Mapping[int, int | AntangelError],
        generations: Mapping[int, Generation],
    ) -> None:
        """Counts the drafts that this step's tokens decide, and makes the next ones. hidden is [T, M]."""
        drafts = iter(self._drafts(batch, hidden, _following(batch, drawn, generations)))
        for span in batch.sampling_spans():
            self._compare(generations[span.sequence_id], drawn[span.sequence_id], next(drafts))

    @torch.inference_mode()
    def _drafts(self, batch: Batch, hidden: Tensor, following: Tensor) -> list[int]:
        ahead = self._model.mtp_forward(hidden, following, batch, self._cache)
        if not len(batch.logit_rows):
            return []
        logits = self._model.logits(ahead[batch.logit_rows.to(ahead.device)])[:, : self._size]
        return [int(token_id) for token_id in logits.argmax(-1).tolist()]

    def _compare(self, generation: Generation, token: int | AntangelError, drafted: int) -> None:
        position = len(generation.sequence.token_ids)
        known, generation.draft = generation.draft, None
        if not generation.is_plain_greedy or not isinstance(token, int):
            return
        if known is not None and known.position == position:
            self._counters.mtp_drafts += 1
            self._counters.mtp_hits += known.token_id == token
        generation.draft = Draft(position + 1, drafted)


def _following(batch: Batch, drawn: Mapping[int, int | AntangelError], generations: Mapping[int, Generation]) -> Tensor:
    """The token after each row, [T]: known ones from the sequence, the last from this step's draw."""
    following: list[int] = []
    for span in batch.spans:
        following += _after(span, generations[span.sequence_id].sequence.token_ids, drawn.get(span.sequence_id))
    return torch.tensor(following)


def _after(span: Span, token_ids: list[int], drawn: int | AntangelError | None) -> list[int]:
    known = token_ids[span.context + 1 : span.context + span.length + 1]
    # After an error nothing follows; any id will do for a row that nobody reads again.
    return known if len(known) == span.length else [*known, drawn if isinstance(drawn, int) else 0]
