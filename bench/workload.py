"""What is measured, the same for every engine: this file alone decides which tokens run and which seconds count."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

# Tokens of each sequence in one step: one list of ids per sequence.
Step = list[list[int]]


class Model(Protocol):
    """An engine with a loaded model, as the workload sees it."""

    def reset(self, sequences: int) -> None:
        """Forgets all tokens; from now on there are so many sequences."""
        ...

    def step(self, tokens: Step) -> None:
        """Appends tokens to each sequence and computes the logits behind the last of each."""
        ...

    def experts_hit(self, tokens: Step) -> list[int]:
        """Distinct experts that a step goes to, layer by layer."""
        ...


@dataclass(frozen=True)
class Measure:
    """`steps` timed steps of `length` tokens for each of `sequences`, after prompts of `prompt` tokens untimed."""

    name: str
    sequences: int
    prompt: int
    steps: int
    length: int

    @property
    def tokens_per_step(self) -> int:
        return self.sequences * self.length


MEASURES = (
    Measure("decode", sequences=1, prompt=16, steps=64, length=1),
    Measure("prefill 512", sequences=1, prompt=0, steps=1, length=512),
    Measure("decode batch 8", sequences=8, prompt=16, steps=24, length=1),
)


def draw(source: random.Random, sequences: int, length: int, vocabulary: int) -> Step:
    """Random token ids."""
    return [[source.randrange(vocabulary) for _ in range(length)] for _ in range(sequences)]


def prepare(model: Model, measure: Measure, seed: int, vocabulary: int) -> list[Step]:
    """Runs the prompts; the steps to come."""
    source = random.Random(seed)
    model.reset(measure.sequences)
    if measure.prompt:
        model.step(draw(source, measure.sequences, measure.prompt, vocabulary))
    return [draw(source, measure.sequences, measure.length, vocabulary) for _ in range(measure.steps)]


def seconds(model: Model, measure: Measure, seed: int, vocabulary: int) -> list[float]:
    """How long each step took."""
    taken: list[float] = []
    for tokens in prepare(model, measure, seed, vocabulary):
        started = time.perf_counter()
        model.step(tokens)
        taken.append(time.perf_counter() - started)
    return taken


def mean_experts_hit(model: Model, measure: Measure, seed: int, vocabulary: int) -> float:
    """Distinct experts of a layer in the first timed step, mean over layers."""
    hit = model.experts_hit(prepare(model, measure, seed, vocabulary)[0])
    return sum(hit) / len(hit)


def serve(model: Model, vocabulary: int, about: Mapping[str, Any]) -> None:
    """Warms up, says what it is, then runs one measure for each line `{"measure": NAME, "seed": N}` on stdin.

    Answers are one line of JSON each. Between lines it sleeps.
    """
    hit = {measure.name: mean_experts_hit(model, measure, 0, vocabulary) for measure in MEASURES}
    for measure in MEASURES:
        seconds(model, measure, 0, vocabulary)
    _answer({**about, "distinct_experts_per_layer": hit})
    named = {measure.name: measure for measure in MEASURES}
    for line in sys.stdin:
        asked = json.loads(line)
        _answer(seconds(model, named[asked["measure"]], asked["seed"], vocabulary))


def _answer(content: object) -> None:
    print(json.dumps(content), flush=True)
