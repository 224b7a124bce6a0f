"""Measure the demonstration model on held-out cases and write its card: `python -m nano.evaluate`.

Held-out cases come from seeds and sentence frames that training never saw. They go the way `diagnose` sends them:
reasoning as sampled by default, then a constrained answer. Everything is run through the runtime.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.prompt import THINK_CLOSE, THINK_OPEN
from antangel_cli.clinic.result import Differential, answer_schema
from nano.card import write_card
from nano.corpus import Example, diagnose_example
from nano.export import CHECKPOINT
from nano.world import World, load_world
from runtime import Engine, EngineConfig, Message, ModelConfig, Request, SamplingParams, Stage, Tokenizer
from runtime.kv_cache import KVCache
from runtime.model import DecoderModel
from runtime.sequence import Batch, Span

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)


@dataclass
class Trace:
    """The experts of each decoded token: (layer, expert) in the order they were asked for, and counts of them."""

    layers: int
    asked: list[tuple[int, int]] = field(default_factory=list)
    loads: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, layer: int, expert_ids: Tensor) -> None:
        """Note the expert ids [T, K] of a step; the MTP layer is left out."""
        if layer >= self.layers:
            return
        counts = torch.bincount(expert_ids.flatten(), minlength=1024)
        self.loads[layer] = self.loads.get(layer, torch.zeros(1024, dtype=torch.int64)) + counts
        if expert_ids.shape[0] == 1:
            self.asked += [(layer, int(e)) for e in expert_ids[0]]


class Subject:
    """A checkpoint under measurement."""

    def __init__(self, path: Path) -> None:
        self.config = ModelConfig.from_directory(path)
        self.tokenizer = Tokenizer.from_directory(path)
        self.model = DecoderModel.load(path, self.config, EngineConfig())

    def engine(self, sequences: int, measure_mtp: bool = False) -> Engine:
        """An engine over the loaded model."""
        config = EngineConfig(max_sequences=sequences)
        return Engine(self.model, self.config, self.tokenizer, config, measure_mtp=measure_mtp)

    def prompt(self, example: Example) -> tuple[int, ...]:
        """The example's prompt as the runtime renders it."""
        messages = [Message("system", example.system), Message("user", example.user)]
        return tuple(self.tokenizer.render(messages))


def diagnose_request(
    subject: Subject, example: Example, text_tokens: int = 250, answer_tokens: int = 700, seed: int = 0
) -> Request:
    """The two stages of `diagnose` for an example."""
    assert example.case is not None
    ids = [fact.id for fact in facts(example.case)]
    reason = Stage(SamplingParams(seed=seed), text_tokens, THINK_OPEN, stop=("\n</think>", "</think>"))
    answer = Stage(GREEDY, answer_tokens, THINK_CLOSE, schema=answer_schema(ids))
    return Request(subject.prompt(example), (reason, answer))


def answers(engine: Engine, requests: Sequence[Request]) -> list[str]:
    """The last stage's text of each request, all in flight together."""
    return [texts[-1] for texts in stage_texts(engine, requests)]


def stage_texts(engine: Engine, requests: Sequence[Request]) -> list[list[str]]:
    """The text of each stage of each request, all in flight together."""
    texts = {engine.submit(request): [""] * len(request.stages) for request in requests}
    while engine.has_work:
        for event in engine.step():
            texts[event.sequence_id][event.stage] += event.text
    return list(texts.values())


def ranked(text: str) -> list[str]:
    """The names of an answer's diagnoses by rank; empty when it is not a whole answer."""
    try:
        return [d.name for d in Differential.model_validate_json(text).differential]
    except ValidationError:
        return []


def accuracy(subject: Subject, world: World, zh: bool, count: int) -> dict[str, Any]:
    """Top-1, top-3 and whole answers over held-out cases, beside naive Bayes on the recorded findings."""
    examples = [diagnose_example(world, seed, zh, held_out=True) for seed in range(count)]
    engine = subject.engine(sequences=16)
    names = [ranked(text) for text in answers(engine, [diagnose_request(subject, e) for e in examples])]
    engine.close()
    truth = [e.patient.condition.name[zh] for e in examples if e.patient]
    bayes = [ranked(e.answer) for e in examples]
    return {
        "cases": count,
        "whole_answers": sum(map(bool, names)) / count,
        **{f"top{k}": _top(names, truth, k) for k in (1, 3)},
        **{f"naive_bayes_top{k}": _top(bayes, truth, k) for k in (1, 3)},
        "perplexity": perplexity(subject, examples[:50]),
    }


def _top(names: list[list[str]], truth: list[str], k: int) -> float:
    return sum(name in row[:k] for name, row in zip(truth, names, strict=True)) / len(truth)


def perplexity(subject: Subject, examples: Iterable[Example]) -> float:
    """Of the expected reasoning and answer, given the prompt."""
    total, count = 0.0, 0
    for example in examples:
        prompt = list(subject.prompt(example)) + subject.tokenizer.encode_trusted(THINK_OPEN)
        reply = subject.tokenizer.encode_text(example.reply) + subject.tokenizer.encode_trusted(THINK_CLOSE)
        reply += subject.tokenizer.encode_text(example.answer)
        logits = _logits(subject, prompt + reply, len(prompt) - 1)
        losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(reply), reduction="sum")
        total, count = total + losses.item(), count + len(reply)
    return math.exp(total / count)


def _logits(subject: Subject, ids: list[int], first: int) -> Tensor:
    """Logits [T - first, V] of the rows from `first` on, in one pass over a cache of their own."""
    length, block = len(ids), 64
    blocks = -(-length // block)
    s = subject.config
    cache = KVCache(
        subject.model.cache_layers,
        blocks,
        block,
        s.num_key_value_heads,
        s.head_dim,
        dtype=subject.model.dtype,
    )
    place = torch.arange(length)
    span = Span(0, 0, length, 0, tuple(range(blocks)))
    batch = Batch(torch.tensor(ids), place, place, (span,), place[first:])
    return subject.model.logits(subject.model.forward(batch, cache)[first:])


def decode_alone(subject: Subject, world: World, count: int) -> tuple[Trace, float | None]:
    """Decode greedily, one case at a time: the routing trace, and the share of MTP drafts that matched."""
    trace = Trace(subject.config.num_hidden_layers)
    subject.model.routing_observer = trace
    engine = subject.engine(sequences=1, measure_mtp=True)
    for seed in range(count):
        for zh in (False, True):
            example = diagnose_example(world, 10_000 + seed, zh, held_out=True)
            request = Request(subject.prompt(example), (Stage(GREEDY, 700, THINK_OPEN),))
            for _ in engine.generate(request):
                pass
    subject.model.routing_observer = None
    accepted = engine.stats().mtp_acceptance
    engine.close()
    return trace, accepted


def lru_hit_rate(asked: Iterable[tuple[int, int]], slots: int) -> float:
    """The hit rate of a least-recently-used cache of `slots` experts, shared by all layers."""
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    hits = total = 0
    for expert in asked:
        total += 1
        hits += expert in cache
        cache[expert] = None
        cache.move_to_end(expert)
        if len(cache) > slots:
            cache.popitem(last=False)
    return hits / total


def card(subject: Subject, count: int, alone: int) -> dict[str, Any]:
    """Everything the model card reports."""
    world, started = load_world(), time.monotonic()
    result: dict[str, Any] = {
        "held_out": {
            "en": accuracy(subject, world, False, count),
            "zh": accuracy(subject, world, True, count),
        }
    }
    trace, accepted = decode_alone(subject, world, alone)
    experts = subject.config.num_experts
    shares = {layer: load[:experts] / load.sum() for layer, load in sorted(trace.loads.items())}
    total = experts * len(shares)
    return result | {
        "chance_top1": 1 / len(world.conditions),
        "expert_load": {f"layer {layer}": {"busiest": s.max().item(), "idlest": s.min().item(), "even": 1 / experts} for layer, s in shares.items()},
        "mtp_draft_match": accepted,
        "lru_hit_rate": {f"{share:.0%} of experts": lru_hit_rate(trace.asked, int(total * share)) for share in (0.25, 0.5)},
        "measured": {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "seconds": round(time.monotonic() - started)},
    }  # fmt: skip


def main() -> None:
    """Measure and write the card beside the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--cases", type=int, default=200, help="held-out cases per language")
    parser.add_argument("--alone", type=int, default=15, help="cases per language decoded one at a time")
    options = parser.parse_args()
    result = card(Subject(options.checkpoint), options.cases, options.alone)
    write_card(options.checkpoint, result)
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
