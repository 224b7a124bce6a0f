"""Will it fit, and how fast will it be? Predicted from sizes, a machine and a hit rate; nothing is read or measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from runtime.config import EngineConfig, ModelConfig
from runtime.errors import CapacityError
from runtime.gpu.vram import GpuPlan, divide, shortage
from runtime.memory import MAPPED_BATCH, MemoryPlan, ModelSizes, plan_memory
from runtime.prediction.cpu_times import CpuTimes
from runtime.prediction.figures import Figure
from runtime.prediction.gpu_times import GpuTimes
from runtime.prediction.hit_curves import UNIFORM, HitCurve
from runtime.prediction.planned_machine import PlannedMachine

Fits = Literal["vram", "ram", "disk", "no"]
Memory = Literal["VRAM", "RAM", "disk"]

PROMPT = 1000

# More memory than any machine has: what is planned in it says what is needed at least.
BOUNDLESS = 1 << 60


@dataclass(frozen=True)
class Tier:
    """A part of a model or its run, and the bytes that it takes in one kind of memory."""

    memory: Memory
    part: str
    bytes: int


@dataclass(frozen=True)
class Prediction:
    """The answer: where it fits, what takes how much, and how fast it will be. Without room there are no speeds.

    `fits` names the slowest memory that decoding needs experts from; `exclusive`: it is the host's, and what is in the
    GPU's is not kept there a second time. `problem` is empty, or says what is in the way,
    with its remedy and the bytes that are missing; where it fits nowhere, `tiers` are what is needed at least. Speeds
    are those of a cache that has filled, but for `cold_first_token_s`. `modes` are tokens a second by what becomes of a
    missing expert.
    """

    fits: Fits
    problem: str
    remedy: str
    shortfall: int
    budgets: dict[str, int]
    tiers: tuple[Tier, ...]
    slots: int
    experts: int
    resident_share: float
    batch_tokens: int
    hit_rate: Figure | None = None
    tokens_per_s: Figure | None = None
    first_token_s: Figure | None = None
    cold_first_token_s: Figure | None = None
    modes: tuple[tuple[str, float], ...] = ()
    exclusive: bool = False

    @property
    def is_possible(self) -> bool:
        return not self.problem


def predict(
    sizes: ModelSizes,
    config: ModelConfig,
    engine: EngineConfig,
    machine: PlannedMachine,
    *,
    hits: HitCurve = UNIFORM,
    prompt: int = PROMPT,
) -> Prediction:
    """Predicts `engine.max_sequences` sequences at a time, each with a prompt of so many tokens."""
    if machine.vram:
        return _with_gpu(sizes, config, engine, machine, hits, prompt)
    try:
        plan, refusal = _cpu_plan(sizes, config, engine, machine)
    except CapacityError as error:
        return _nowhere(_least(sizes, config, engine, machine), error)
    share = plan.resident_share
    hit_rate = _hit_rate(hits, share)
    times = CpuTimes(sizes, config, engine, machine, plan, hit_rate, prompt)
    return replace(
        _outline(plan, "disk" if share < 1 else "ram"),
        problem=refusal.message if refusal else "",
        remedy=refusal.remedy if refusal else "",
        shortfall=refusal.shortfall if refusal else 0,
        hit_rate=hit_rate,
        tokens_per_s=times.decode(),
        first_token_s=times.first_token(cold=False),
        cold_first_token_s=times.first_token(cold=True),
    )


def _cpu_plan(
    sizes: ModelSizes, config: ModelConfig, engine: EngineConfig, machine: PlannedMachine
) -> tuple[MemoryPlan, CapacityError | None]:
    """The plan, and why it is refused when experts would have to be read from disk and must not be."""

    def planned(engine: EngineConfig) -> MemoryPlan:
        return plan_memory(sizes, config, engine, usable=machine.ram, process=machine.process)

    try:
        return planned(engine), None
    except CapacityError as error:
        if engine.disk:
            raise
        return planned(replace(engine, disk=True)), error


def _least(sizes: ModelSizes, config: ModelConfig, engine: EngineConfig, machine: PlannedMachine) -> MemoryPlan:
    """What the fewest slots need, with what was told taken as it is."""
    modest = replace(
        engine,
        ram=None,
        slots=engine.slots or 1,
        disk=True,
        kv_blocks=engine.kv_blocks or (1 if engine.kv is None else None),
        max_batch_tokens=engine.max_batch_tokens or MAPPED_BATCH,
    )
    return plan_memory(sizes, config, modest, usable=BOUNDLESS, process=machine.process)


def _nowhere(least: MemoryPlan, error: CapacityError) -> Prediction:
    budget = least.total - error.shortfall
    outline = _outline(replace(least, budget=budget), "no")
    return replace(outline, problem=error.message, remedy=error.remedy, shortfall=error.shortfall)


def _hit_rate(hits: HitCurve, share: float) -> Figure:
    if share == 1:
        return Figure(1.0, "none", "all experts are in the fastest memory")
    return Figure(hits.at(share), "slots", hits.source)


def _experts(memory: Memory, count: int, blob_bytes: int) -> Tier:
    return Tier(memory, f"{count:,} expert{'s' * (count != 1)}", count * blob_bytes)


def _outline(plan: MemoryPlan, fits: Fits) -> Prediction:
    tiers = [
        Tier("RAM", "process", plan.process),
        Tier("RAM", "dense weights", plan.dense),
        Tier("RAM", "embedding", plan.embedding),
        Tier("RAM", "keys and values", plan.kv),
        Tier("RAM", "workspace", plan.workspace),
        _experts("RAM", plan.slots, plan.slot_bytes),
    ]
    if plan.slots < plan.experts:
        tiers.append(_experts("disk", plan.experts - plan.slots, plan.slot_bytes))
    return Prediction(
        fits=fits,
        problem="",
        remedy="",
        shortfall=0,
        budgets={"RAM": plan.budget},
        tiers=tuple(tiers),
        slots=plan.slots,
        experts=plan.experts,
        resident_share=plan.resident_share,
        batch_tokens=plan.batch_tokens,
    )


def _with_gpu(
    sizes: ModelSizes,
    config: ModelConfig,
    engine: EngineConfig,
    machine: PlannedMachine,
    hits: HitCurve,
    prompt: int,
) -> Prediction:
    plan = divide(sizes, config, engine, vram=machine.vram, ram=machine.ram, process=machine.process)
    lacking = shortage(plan)
    if lacking is not None:
        outline = _gpu_outline(plan, "no")
        return replace(outline, problem=lacking.message, remedy=lacking.remedy, shortfall=lacking.shortfall)
    share = plan.resident_share
    times = GpuTimes(sizes, config, engine, machine, plan, hits, prompt)
    return replace(
        _gpu_outline(plan, "vram" if share == 1 else "ram"),
        hit_rate=_hit_rate(hits, share),
        tokens_per_s=times.decode(),
        first_token_s=times.first_token(cold=False),
        cold_first_token_s=times.first_token(cold=True),
        modes=tuple(times.modes().items()),
    )


def _gpu_outline(plan: GpuPlan, fits: Fits) -> Prediction:
    return Prediction(
        fits=fits,
        problem="",
        remedy="",
        shortfall=0,
        budgets={"VRAM": plan.vram_budget, "RAM": plan.ram_budget},
        tiers=_gpu_tiers(plan),
        slots=plan.slots,
        experts=plan.experts,
        resident_share=plan.resident_share,
        batch_tokens=plan.batch_tokens,
        exclusive=plan.exclusive,
    )


def _gpu_tiers(plan: GpuPlan) -> tuple[Tier, ...]:
    tiers = [
        Tier("VRAM", "context", plan.context),
        Tier("VRAM", "dense weights", plan.dense),
        Tier("VRAM", "keys and values", plan.kv),
        Tier("VRAM", "workspace", plan.workspace),
        Tier("VRAM", f"buffers of {plan.streamed:,} experts", plan.buffers),
        _experts("VRAM", plan.slots, plan.slot_bytes),
        Tier("RAM", "process", plan.process),
        Tier("RAM", "embedding", plan.embedding),
        Tier("RAM", "staging", plan.staging),
        _experts("RAM", plan.frames, plan.slot_bytes),
    ]
    return tuple(tier for tier in tiers if tier.bytes)
