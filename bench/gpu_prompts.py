"""Prompts whose experts stream through, and a host that keeps each expert once."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from bench.gpu_decode import FILLING, capped_config, measured
from bench.gpu_model import Running, prompt_of, weights_of
from bench.gpu_report import Report
from bench.gpu_routing import Forced, choosing_hits
from bench.gpu_targets import Target, prefill_target
from bench.gpu_timing import ON_GPU, pinned_copy_rate
from runtime.config import EngineConfig
from runtime.gpu.vram import SPARE_FRAMES, divide
from runtime.measuring.random_pack import RandomModel
from runtime.measuring.random_store import RandomStore
from runtime.memory import ModelSizes, peak_memory, process_memory

TOKENS = 8192 if ON_GPU else 70
ROUNDS = 3 if ON_GPU else 1
AFTER = 24 if ON_GPU else 1
SWAPPED_STEPS = 48 if ON_GPU else 1
HIT_RATE = 0.7

# More memory than any machine has.
ANY = 1 << 50

# Blobs that are compared with what they were, of those in slots and of those in frames.
COMPARED = 64


def prefill(report: Report, model: RandomModel, cap: int) -> None:
    """A prompt in one pass, and tokens after it."""
    link = pinned_copy_rate()
    report.figure("pinned_copy_gb_per_s", link / 1e9)
    weights = weights_of(model)
    config = capped_config(model, cap, context=TOKENS + 512, max_batch_tokens=TOKENS)
    running = Running.open(weights, config, report.say)
    weights.close()
    try:
        # The first steps give slots to experts.
        measured(running, 0, FILLING, _hits(running, 0.0))
        vocabulary, seconds = model.config.vocab_size, []
        for number in range(ROUNDS + 1):
            running.submit(prompt_of(TOKENS, vocabulary, number), 2 + AFTER)
            outcome = running.step()
            while not outcome.tokens:
                report.failure("the prompt took more than one pass")
                outcome = running.step()
            seconds.append(outcome.seconds)
            report.figure("prefill", {f"round {number}": _prefill_json(running, outcome.seconds)})
            after = [running.step().seconds for _ in range(AFTER)]
            report.figure("tokens_per_s_after_it", 1 / statistics.median(after))
            running.drop()
            if not report.has_time(3 * outcome.seconds, "another round"):
                break
        experts, resident = model.geometry.nbytes, _resident_bytes(running)
        # The first compiles its kernels.
        best = statistics.median(seconds[1:] or seconds)
        report.target(prefill_target(TOKENS, experts, resident, link, best))
    finally:
        running.close()


def _prefill_json(running: Running, seconds: float) -> dict[str, Any]:
    stats = running.device_experts.stats()
    return {
        "seconds": seconds,
        "tokens_per_s": TOKENS / seconds,
        "resident_bytes": _resident_bytes(running),
        "streamed_so_far": stats.pass_uses - stats.pass_hits,
        "peak_vram_bytes": torch.cuda.max_memory_allocated() if ON_GPU else 0,
    }


def _resident_bytes(running: Running) -> int:
    return running.device_experts.stats().resident * running.device_experts.plan.slot_bytes


def exclusive(report: Report, model: RandomModel, cap: int) -> None:
    """RAM that has no room for all experts: its peak, and whether exchanged experts are still what they were."""
    ram = _too_little(model, capped_config(model, cap))
    weights = weights_of(model)
    config = capped_config(model, cap, ram=ram if ON_GPU else None, cpu_share=0.0)
    # A tiny model is less than what a process grows by.
    frames = None if ON_GPU else model.geometry.blobs - (config.slots or 0) + 1
    running = Running.open(weights, config, report.say, frames)
    weights.close()
    try:
        plan = running.device_experts.plan
        if not plan.exclusive:
            report.failure(f"{plan.frames} frames for {plan.experts} experts are not exclusive")
        planned = {
            "slots": plan.slots,
            "frames": plan.frames,
            "planned_ram": plan.ram_total,
            "pool": model.geometry.nbytes,
        }
        report.figure("exclusive", planned)
        steps = measured(running, 6 if ON_GPU else 0, SWAPPED_STEPS, _hits(running, HIT_RATE))
        report.figure("decode", {f"exchanging at a hit rate of {HIT_RATE}": steps.to_json()})
        if not steps.misses:
            report.failure("nothing was exchanged")
        _compare_blobs(report, running, model)
        peak = peak_memory()
        report.figure("peak_host_bytes", peak)
        if ON_GPU:
            report.target(Target("peak of host memory, bytes, of the RAM that was allowed", ram, peak, at_most=True))
    finally:
        running.close()


def _too_little(model: RandomModel, config: EngineConfig) -> int:
    """RAM that lies between each expert once and every expert, beside what else the plan has there."""
    process = process_memory()
    sizes = ModelSizes.of_entries(model.config, model.entries, model.geometry)
    plan = divide(sizes, model.config, config, vram=ANY, ram=ANY, process=process)
    once = (plan.experts - plan.slots + SPARE_FRAMES) * plan.slot_bytes
    # Dense weights that were drawn and not taken yet count as the process's.
    return plan.ram_fixed + sizes.dense + max(once, (once + sizes.experts.nbytes - sizes.dense) // 2)


def _compare_blobs(report: Report, running: Running, model: RandomModel) -> None:
    experts = running.device_experts
    experts.check_integrity()
    store, location = RandomStore(model.geometry), experts.placement.location.cpu()
    wanted = torch.empty(model.geometry.blob_bytes, dtype=torch.uint8)
    for places in ((location >= 0).nonzero(), (location < 0).nonzero()):
        for blob in places.flatten()[:: max(1, len(places) // COMPARED)].tolist():
            at = int(location[blob])
            held = experts.placement.slots[at].cpu() if at >= 0 else experts.host.memory[-1 - at]
            store.read(blob, wanted.numpy().data)
            if not torch.equal(held, wanted):
                report.failure(f"expert {blob} is damaged in {'slot' if at >= 0 else 'frame'} {at}")
                return
    report.figure("compared", "exchanged experts are what they were")


def _hits(running: Running, share: float) -> Forced:
    config = running.model.config
    return Forced(config.first_k_dense_replace, choosing_hits(running.device_experts.placement, config, share))
