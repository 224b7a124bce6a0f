"""Whether a model still speaks: it weighs texts and continues a prompt. Damaged weights can look well.

What is caught was measured on the demonstration model (tests/runtime/test_self_test.py), whose experts, of 4 bit, carry
little of it. With its own bound: scales of zero in one layer's experts or in one matrix of attention; scales of a layer
or of all experts off by 1.5, 2 or a half; a layer's experts in another layer's place; nibbles swapped; signs flipped in
one layer; a tenth of all bytes at random; bytes shifted, even of one expert. With the bound for any model: damage that
leaves no language. Not caught: one expert that is zero or in another's place, scales off by a tenth, the lowest bit of
every weight flipped, one byte in a hundred at random. Checksums find those, where the damage came after packing
(`check_pack`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from runtime.engine import Engine
from runtime.errors import NumericsError
from runtime.request import NO_TOKEN, Request, Stage
from runtime.sampling import SamplingParams

# A uniform guess has ln V nats a token. A model that speaks is far below this part of it, on any text it can read.
SHARE_OF_UNIFORM = 0.6

MOST_NATS = 100.0

MOST_SPOKEN = 48
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)

# So many tokens that are the same few over and over are no language.
REPEATED_TOKENS = 24
LONGEST_CYCLE = 6

RESERVED = "<|reserved_token_"


@dataclass(frozen=True)
class Passage:
    """Tokens that a model is to find likely, behind those of a prompt, of which there is at least one."""

    prompt: tuple[int, ...] = field(repr=False)
    text: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """What was found. `nll` is the mean negative log-likelihood in nats of the passages' tokens, `bound` its most.

    `nll` is None where it is not a number. `faults` are sentences, and hold nothing that the model said.
    """

    faults: tuple[str, ...]
    nll: float | None
    bound: float
    tokens: int
    spoken: int
    seconds: float

    @property
    def sound(self) -> bool:
        return not self.faults


@dataclass(frozen=True)
class _Speech:
    """Tokens and text of a reply, and the error that it ended with."""

    ids: tuple[int, ...]
    text: str
    error: str | None


def run_self_test(
    engine: Engine, passages: Sequence[Passage], prompt: Sequence[int], bound: float | None = None
) -> Verdict:
    """Weighs the passages and continues the prompt greedily.

    `bound` is the mean negative log-likelihood, in nats, that a sound model stays below; None takes one that holds for
    any model. Raises CapacityError where the cache is too small for a passage, ContextError for the prompt.
    """
    started = time.perf_counter()
    bound = SHARE_OF_UNIFORM * math.log(engine.tokenizer.size) if bound is None else bound
    nll = _mean_nll(engine, passages)
    speech = _speak(engine, prompt)
    return Verdict(
        faults=(*_nll_faults(nll, bound), *_speech_faults(speech)),
        nll=nll,
        bound=bound,
        tokens=sum(len(passage.text) for passage in passages),
        spoken=len(speech.ids),
        seconds=time.perf_counter() - started,
    )


def perplexity(nats: float) -> float:
    """e to the mean negative log-likelihood, cut where it says no more."""
    return math.exp(min(nats, MOST_NATS))


def _mean_nll(engine: Engine, passages: Sequence[Passage]) -> float | None:
    try:
        found = torch.cat([engine.log_likelihoods(passage.prompt, passage.text) for passage in passages])
    except NumericsError:
        return None
    mean = -found.double().mean().item()
    return mean if math.isfinite(mean) else None


def _speak(engine: Engine, prompt: Sequence[int]) -> _Speech:
    ids: list[int] = []
    text, error = "", None
    try:
        for event in engine.generate(Request(tuple(prompt), (Stage(GREEDY, MOST_SPOKEN),))):
            ids += [event.token_id] if event.token_id != NO_TOKEN and event.finish != "stop" else []
            text += event.text
            error = event.error
    except NumericsError as problem:
        error = problem.message
    return _Speech(tuple(ids), text, error)


def _nll_faults(nll: float | None, bound: float) -> Iterator[str]:
    if nll is None:
        yield "its likelihoods of a text are not numbers"
    elif nll > bound:
        yield f"its perplexity on a text is {perplexity(nll):.3g}, and at most {perplexity(bound):.3g} is sound"


def _speech_faults(speech: _Speech) -> Iterator[str]:
    if speech.error is not None:
        yield f"it cannot go on with a text: {speech.error}"
    elif not speech.ids:
        yield "it answers with nothing"
    if "\0" in speech.text:
        yield "it writes NUL characters"
    if RESERVED in speech.text:
        yield "it writes reserved tokens"
    if _repeats(speech.ids[-REPEATED_TOKENS:]):
        yield f"it repeats the same {LONGEST_CYCLE} tokens or fewer over and over"


def _repeats(ids: Sequence[int]) -> bool:
    """Whether so many tokens are one short cycle."""
    cycles = range(1, LONGEST_CYCLE + 1)
    return len(ids) == REPEATED_TOKENS and any(ids[n:] == ids[:-n] for n in cycles)
