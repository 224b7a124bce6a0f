"""Whether a GPU's bits are those of the CPU, whatever has a slot, is fetched or is computed by the host."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bench.gpu_model import DEVICE, Running, gpu_config, prompt_of, weights_of
from bench.gpu_report import Report
from bench.gpu_timing import ON_GPU
from kernels.gpu import probe
from runtime.config import EngineConfig
from runtime.errors import AntangelError
from runtime.gpu.host_share import native_variant
from runtime.measuring.random_pack import RandomModel
from runtime.stats import PagingStats

# Prompts that are in flight together: their lengths, and the tokens after each. A long one is a pass over all experts.
PROMPTS = {"alone": ((3,), 12), "together": ((1, 2, 3, 1, 2, 3, 1, 2), 6), "long": ((200,), 6)}
DRY_PROMPTS = {"alone": ((2,), 2)}


@dataclass(frozen=True)
class Way:
    """How experts come to be computed; of `slots` None is one for each."""

    slots: int | None
    share: float | None
    graphs: bool

    def __str__(self) -> str:
        slots = "all" if self.slots is None else self.slots
        return f"slots {slots}, host share {self.share}, {'graphs' if self.graphs else 'eager'}"


# Hidden states and tokens of each step.
Said = list[tuple[torch.Tensor, dict[int, int]]]


def run(report: Report, model: RandomModel) -> None:
    if ON_GPU:
        found = probe.finding(DEVICE, report.say)
        report.figure("probe", found or "every op computes the bits that are defined")
        if found:
            report.failure(found)
            return
    else:
        report.figure("probe", "not run: the interpreter is too slow for it")
    prompts = PROMPTS if ON_GPU else DRY_PROMPTS
    weights = weights_of(model)
    expected = _said(Running.on_cpu(weights, EngineConfig(**_sizes())), prompts)
    report.say(f"the CPU has said {sum(map(len, expected.values()))} steps")
    for way in _ways(model):
        if not report.has_time(40, f"check of {way}"):
            break
        try:
            problems = _problems(model, way, expected, prompts, report)
        except (AntangelError, RuntimeError) as error:
            problems = [f"{type(error).__name__}: {error}"]
        report.figure("ways", {str(way): problems or "the same bits"})
        for problem in problems:
            report.failure(f"{way}: {problem}")
    weights.close()


def _ways(model: RandomModel) -> Iterator[Way]:
    blobs, k = model.geometry.blobs, model.config.num_experts_per_tok
    if not ON_GPU:
        yield Way(blobs // 2, 0.5, False)
        return
    shares: list[float | None] = [0.0, 0.5, 1.0, None]
    for slots, share, graphs in itertools.product((blobs // 3, 8 * k), shares, (True, False)):
        yield Way(slots, share, graphs)
    yield from (Way(None, None, graphs) for graphs in (True, False))


def _sizes() -> dict[str, Any]:
    return {"kv_blocks": 64, "context": 512, "max_batch_tokens": 256} if ON_GPU else {"kv_blocks": 4, "context": 128}


def _problems(
    model: RandomModel, way: Way, expected: dict[str, Said], prompts: dict[str, Any], report: Report
) -> list[str]:
    slots = way.slots or model.geometry.blobs
    config = gpu_config(slots=slots, cpu_share=way.share, graphs=way.graphs, **_sizes())
    weights = weights_of(model)
    running = Running.open(weights, config, report.say)
    try:
        said = _said(running, prompts)
        problems = [f"{name}: {what}" for name in prompts if (what := _difference(said[name], expected[name]))]
        running.device_experts.check_integrity()
        problems += _counters(running.device_experts.stats(), way, "long" in prompts)
        replays = running.few_rows._graphs.replays
        if (replays > 0) != (way.graphs and ON_GPU):
            problems.append(f"{replays} graphs were replayed")
        return problems
    finally:
        running.close()
        weights.close()


def _said(running: Running, prompts: dict[str, Any]) -> dict[str, Said]:
    """What comes of each set of prompts, step by step."""
    said: dict[str, Said] = {}
    for name, (lengths, new) in prompts.items():
        for seed, length in enumerate(lengths):
            running.submit(prompt_of(length, running.model.config.vocab_size, seed), new)
        said[name] = []
        while running.has_work:
            outcome = running.step()
            said[name].append((outcome.hidden.cpu(), outcome.tokens))
    return said


def _difference(got: Said, wanted: Said) -> str:
    if len(got) != len(wanted):
        return f"{len(got)} steps for {len(wanted)}"
    for number, ((hidden, tokens), (other, others)) in enumerate(zip(got, wanted, strict=True)):
        if not torch.equal(hidden.view(torch.int32), other.view(torch.int32)):
            differing = int((hidden.view(torch.int32) != other.view(torch.int32)).sum())
            return f"step {number}: {differing:,} of {hidden.numel():,} numbers of the hidden states differ"
        if [*tokens.values()] != [*others.values()]:
            return f"step {number}: other tokens"
    return ""


def _counters(stats: PagingStats, way: Way, has_pass: bool) -> list[str]:
    """What did not happen that should have, or the other way round."""
    share = way.share if native_variant() is not None else 0.0
    fetched, has_misses = stats.misses - stats.in_place, way.slots is not None
    wanted = {
        "uses": (stats.uses, True),
        "misses": (stats.misses, has_misses),
        "streamed for a prompt": (stats.pass_uses - stats.pass_hits, has_misses and has_pass),
    }
    if share is not None:
        wanted["fetched"] = fetched, has_misses and share < 1
        wanted["computed by the host"] = stats.in_place, has_misses and share > 0
    problems = [f"{name}: {count}" for name, (count, some) in wanted.items() if (count > 0) != some]
    if stats.hits + stats.misses != stats.uses:
        problems.append(f"{stats.hits} hits and {stats.misses} misses are not {stats.uses} uses")
    return problems
