"""Tokens a second: with every expert in VRAM, at forced hit rates, and as skewed as a recorded trace."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from bench.figures import Quantiles
from bench.gpu_model import DEVICE, Running, gpu_config, prompt_of, weights_of
from bench.gpu_report import Report
from bench.gpu_routing import Forced, choosing_hits, choosing_skewed
from bench.gpu_targets import ALL_HIT_S, Links, Target, decode_target, predicted
from bench.gpu_timing import ON_GPU, dram_rate, host_rate, pinned_copy_rate
from bench.place import ROOT
from runtime.errors import CapacityError
from runtime.experts.skew import SkewedRouting
from runtime.experts.trace import read_trace
from runtime.gpu.opening import expert_shape
from runtime.measuring.random_pack import RandomModel
from runtime.memory import peak_memory

TRACE = ROOT / "bench" / "traces" / "nano-cases.jsonl.gz"
HIT_RATES = (0.0, 0.5, 0.7, 0.9, 1.0) if ON_GPU else (0.5,)

# What becomes of missing experts, as the part that the host computes; None is what is measured to be best.
MODES: dict[str, float | None] = {"paging": 0.0, "host": 1.0, "both": None} if ON_GPU else {"both": None}

# Steps before those that count: a graph is captured at the second, and "both" tries its ways.
WARM = {"paging": 6, "host": 6, "both": 90, "resident": 8}
if not ON_GPU:
    WARM = dict.fromkeys(WARM, 0)
STEPS = 48 if ON_GPU else 1
TRACE_WARM, TRACE_STEPS = (250, 200) if ON_GPU else (0, 1)
PROMPT = 16 if ON_GPU else 1

# Steps that miss everything, after which an empty cache is full.
FILLING = 24 if ON_GPU else 1

# VRAM of a card beside a cache of experts: what every token uses, keys and values, a prompt's batch and buffers.
BESIDE_CACHE = 9_000_000_000


@dataclass(frozen=True)
class Steps:
    """Steps of one row: seconds of all and of the layers, without what forcing took; and what became of experts."""

    seconds: list[float]
    layers_seconds: list[float]
    uses: int
    misses: int
    in_place: int
    ahead_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def missed_per_token(self) -> float:
        return self.misses / len(self.seconds)

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens_per_s": Quantiles.of(1 / s for s in self.seconds).to_json(),
            "mean_tokens_per_s": round(len(self.seconds) / sum(self.seconds), 2),
            "layers_ms": round(1e3 * statistics.median(self.layers_seconds), 4),
            "hit_rate": round(1 - self.misses / max(1, self.uses), 4),
            "in_place_share": round(self.in_place / max(1, self.misses), 4),
            "ahead_bytes_per_token": round(self.ahead_bytes / len(self.seconds)),
        }


def run(report: Report, model: RandomModel, cap: int) -> None:
    report.figure("model", {"layers": model.layers, "blobs": model.geometry.blobs, "blob_bytes": _blob(model)})
    all_hit = _resident(report, model)
    _capped(report, model, cap, all_hit)


def _resident(report: Report, model: RandomModel) -> float | None:
    """Seconds of a token whose experts all have a slot; None where they have no room."""
    if not report.has_time(150, "every expert in VRAM"):
        return None
    weights = weights_of(model)
    try:
        running = Running.open(weights, _config(slots=model.geometry.blobs), report.say)
    except CapacityError as error:
        report.figure("resident", f"no room: {error}")
        return None
    finally:
        weights.close()
    try:
        steps = measured(running, WARM["resident"], STEPS)
        report.figure("resident", steps.to_json() | _memory())
        _t0(report, steps.median)
        trace = _skewed(running)
        steps = measured(running, WARM["resident"], STEPS, trace)
        report.figure("skewed", {"uncapped": steps.to_json()})
        return statistics.median(steps.seconds)
    finally:
        running.close()


def _t0(report: Report, seconds: float) -> None:
    report.figure("all_hit_ms", seconds * 1e3)
    report.target(Target("a token whose experts are all in VRAM, seconds", ALL_HIT_S, seconds, at_most=True))


def _capped(report: Report, model: RandomModel, cap: int, all_hit: float | None) -> None:
    """A cache of so many bytes of experts, and a table of rates by hit rate."""
    if not report.has_time(120, "a capped cache"):
        return
    weights = weights_of(model)
    running = Running.open(weights, capped_config(model, cap), report.say)
    weights.close()
    try:
        report.figure("capped", _memory() | {"slots": running.device_experts.plan.slots, "cap": cap})
        if all_hit is None:
            # Then it is told by the capped cache, where no use misses.
            running.change(report.say, cpu_share=0.0)
            measured(running, 0, FILLING, _hits(running, 0.0))
            all_hit = measured(running, WARM["paging"], STEPS, _hits(running, 1.0)).median
            _t0(report, all_hit)
        links = _links(running, model)
        report.figure("links_gb_per_s", {name: rate / 1e9 for name, rate in asdict(links).items()})
        for mode, share in MODES.items():
            running.change(report.say, cpu_share=share)
            for rate in HIT_RATES:
                if report.has_time(25, f"{mode} at a hit rate of {rate}"):
                    steps = measured(running, WARM[mode], STEPS, _hits(running, rate))
                    _compare(report, "hit_rates", mode, f"hit rate {rate}", steps, all_hit, links, _blob(model))
        for mode, share in MODES.items():
            if report.has_time(30, f"{mode} with a skewed trace"):
                running.change(report.say, cpu_share=share)
                steps = measured(running, TRACE_WARM, TRACE_STEPS, _skewed(running))
                _compare(report, "skewed", mode, "skewed", steps, all_hit, links, _blob(model))
        running.device_experts.check_integrity()
    finally:
        running.close()


def capped_config(model: RandomModel, cap: int, **options: Any) -> Any:
    """Slots for so many bytes of experts, on a card that has no more than it needs beside them."""
    slots = max(model.config.num_experts_per_tok, min(cap // _blob(model), model.geometry.blobs - 1))
    vram = cap + BESIDE_CACHE if ON_GPU else None
    return _config(slots=slots, vram=vram, **options)


def measured(running: Running, warm: int, count: int, forced: Forced | None = None) -> Steps:
    """So many steps of a text of one token at a time, after others that do not count."""
    running.drop()
    running.model.routing_source = forced
    prompt = prompt_of(PROMPT, running.model.config.vocab_size)
    running.submit(prompt, warm + count + 2)
    running.step()
    for _ in range(warm):
        _one(running, forced)
    before = running.device_experts.stats()
    taken = [_one(running, forced) for _ in range(count)]
    after = running.device_experts.stats()
    running.model.routing_source = None
    running.drop()
    return Steps(
        [seconds for seconds, _ in taken],
        [seconds for _, seconds in taken],
        after.uses - before.uses,
        after.misses - before.misses,
        after.in_place - before.in_place,
        after.lookahead_bytes - before.lookahead_bytes,
    )


def _one(running: Running, forced: Forced | None) -> tuple[float, float]:
    """Seconds of a step, and of its layers."""
    if forced is not None:
        forced.prepare()
    outcome = running.step()
    forcing = forced.seconds if forced is not None else 0.0
    return outcome.seconds - forcing, outcome.layers_seconds - forcing


def _compare(
    report: Report, table: str, mode: str, what: str, steps: Steps, all_hit: float, links: Links, blob: int
) -> None:
    """Beside what is predicted of as many misses as there were."""
    prediction = predicted(all_hit, steps.missed_per_token * blob, links)[mode]
    rate = 1 / steps.median if table == "hit_rates" else len(steps.seconds) / sum(steps.seconds)
    figures = steps.to_json() | {"predicted": round(prediction, 2), "of_predicted": round(rate / prediction, 3)}
    report.figure(table, {f"{mode}, {what}": figures})
    report.target(decode_target(mode, what, rate, prediction))


def _links(running: Running, model: RandomModel) -> Links:
    geometry, k = model.geometry, model.config.num_experts_per_tok
    host = host_rate(running.device_experts.host, expert_shape(geometry), geometry.content, k)
    dram = dram_rate()
    return Links(pinned_copy_rate(), dram, dram if host is None else host)


def _hits(running: Running, share: float) -> Forced:
    config = running.model.config
    return Forced(config.first_k_dense_replace, choosing_hits(running.device_experts.placement, config, share))


def _skewed(running: Running) -> Forced:
    config = running.model.config
    return Forced(config.first_k_dense_replace, choosing_skewed(_skew(), config))


@cache
def _skew() -> SkewedRouting:
    return SkewedRouting.fit(read_trace(TRACE))


def _config(**options: Any) -> Any:
    """Keys and values for one whole context."""
    chosen = {"context": 2048 if ON_GPU else 128, "max_batch_tokens": 512} | options
    return gpu_config(**chosen, kv_blocks=-(-chosen["context"] // 64))


def _memory() -> dict[str, int]:
    peak = torch.cuda.max_memory_allocated(DEVICE) if ON_GPU else 0
    return {"peak_vram_bytes": peak, "peak_host_bytes": peak_memory()}


def _blob(model: RandomModel) -> int:
    return model.geometry.blob_bytes
