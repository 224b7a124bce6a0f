"""Answers that can only be what a JSON Schema allows: which tokens may come next, and which must."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from runtime.errors import GrammarError
from runtime.tokenizer import Tokenizer

CACHED_GRAMMARS = 32
EIGHT = ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).to(torch.uint8).view(torch.int64)[:, 0]
"""What the bits of a byte stand for, lowest first, each as a byte: [256]."""
AT_ONCE = 1 << 17
"""Ids in all masks of a step up to which no thread is asked: to hand over costs the model's thread more."""
SIMPLER_SCHEMA = "Simplify the JSON Schema: fixed properties, enums and bounded arrays."


class Constraint:
    """One answer's way through its grammar. The next mask may be computed in another thread: see begin_masks()."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._begun: Masks | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing can follow it."""
        return bool(self._matcher.is_stopped())

    @property
    def mask_ready(self) -> bool:
        return self._begun is not None and self._begun.done()

    def mask(self) -> Tensor:
        """Which tokens may come next, bool [V]. GrammarError when none can."""
        masks = self._begun.result() if self._begun else compute_masks([self])
        self._begun = None
        return self._usable(masks[self])

    def accept(self, token_id: int) -> None:
        """Moves past a token. GrammarError when the grammar does not allow it."""
        if not self._matcher.consume_token(token_id):
            self._fail()

    def forced(self) -> list[int]:
        """The tokens that must come next, as the only way to go on; often none."""
        return list(self._matcher.compute_ff_tokens())

    def _usable(self, mask: Tensor) -> Tensor:
        if self._matcher.is_error():
            self._fail()
        return mask

    def _fail(self) -> None:
        # The matcher's own message quotes the text so far, which may be a patient's: only its kind is told.
        raise GrammarError(f"the grammar cannot go on ({self._matcher.stop_reason()})", SIMPLER_SCHEMA)


Masks = Future[dict[Constraint, Tensor]]


def begin_masks(constraints: Sequence[Constraint], executor: Executor) -> None:
    """Starts computing the next masks of constraints over one vocabulary; llguidance works without Python's lock.

    Those that are made sooner than another thread takes over are made at once.
    """
    if not constraints:
        return
    begun: Masks = Future()
    if len(constraints) * constraints[0]._vocab_size > AT_ONCE:
        begun = executor.submit(compute_masks, constraints)
    else:
        begun.set_result(compute_masks(constraints))
    for constraint in constraints:
        constraint._begun = begun


def compute_masks(constraints: Sequence[Constraint]) -> dict[Constraint, Tensor]:
    """The next mask of each, bool [V]: unpacked all at once. That of a grammar in error allows anything or nothing."""
    packed = b"".join(constraint._matcher.compute_bitmask() for constraint in constraints)
    bits = EIGHT.index_select(0, torch.frombuffer(bytearray(packed), dtype=torch.uint8).int())
    masks = bits.view(torch.bool).view(len(constraints), -1)
    return {constraint: masks[i, : constraint._vocab_size] for i, constraint in enumerate(constraints)}


class GrammarCompiler:
    """JSON Schemas to constraints over one tokenizer; recently used grammars are kept."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_token_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        # A model can name some that its tokenizer lacks: they are never drawn.
        self._stop_token_ids = sorted(token_id for token_id in stop_token_ids if token_id < tokenizer.size)
        self._ll_tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def constraint(self, schema: dict[str, Any]) -> Constraint:
        """A fresh constraint. Raises GrammarError when the schema cannot be compiled."""
        # Property order is the order of generation, so it is part of the key.
        key = json.dumps(schema, ensure_ascii=False)
        if key not in self._compiled:
            self._compiled[key] = self._compile(schema)
        self._compiled.move_to_end(key)
        if len(self._compiled) > CACHED_GRAMMARS:
            self._compiled.popitem(last=False)
        return Constraint(self._compiled[key].deep_copy(), self._vocab_size)

    def _compile(self, schema: dict[str, Any]) -> LLMatcher:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        matcher = LLMatcher(self._vocabulary(), grammar, log_level=0)
        if matcher.is_error():
            raise GrammarError(f"the JSON Schema cannot be compiled: {matcher.get_error()}", SIMPLER_SCHEMA)
        return matcher

    def _vocabulary(self) -> LLTokenizer:
        """Built on first use: it takes about a second for a vocabulary of 157,184."""
        if self._ll_tokenizer is None:
            self._ll_tokenizer = LLTokenizer(
                self._tokenizer.source, n_vocab=self._vocab_size, eos_token=self._stop_token_ids or None
            )
        return self._ll_tokenizer
