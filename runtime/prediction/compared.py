"""What the plan predicts of a benchmark, from the same sizes and rates, beside what was measured, and the error."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runtime.config import EngineConfig
from runtime.gpu.vram import CUDA_ON_HOST, GpuPlan
from runtime.measuring.benchmark import Benchmark
from runtime.memory import GROWTH, MemoryPlan, ModelSizes
from runtime.pack import Pack
from runtime.prediction.figures import Figure
from runtime.prediction.hit_curves import expected_hits
from runtime.prediction.planned_machine import UNKNOWN_DISK, PlannedMachine, this_machine
from runtime.prediction.predict import predict


@dataclass(frozen=True)
class Comparison:
    """A predicted figure and the measured one."""

    predicted: Figure
    measured: float

    @property
    def error(self) -> float | None:
        """Relative to what was measured; None of 0."""
        return self.predicted.value / self.measured - 1 if self.measured else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.predicted), "measured": self.measured, "error": self.error}


def compare_to_plan(
    path: str | Path, config: EngineConfig, benchmark: Benchmark, *, skewed: bool
) -> Mapping[str, Comparison]:
    """Predicts what was measured of a pack; the rate of its memory is measured here, that of its disk was.

    With `skewed` routing is that of recorded traces. Of the benchmark nothing is told but its plan of memory, its
    prompts' length and how many ran at once. Raises OSError where no rate can be measured.
    """
    pack = Pack.open(path)
    sizes = ModelSizes.of_entries(pack.config, pack.manifest.dense, pack.manifest.experts)
    spread = pack.manifest.is_random and not skewed
    lengths = benchmark.cold.prompts + benchmark.warm.prompts
    sequences = len(benchmark.cold.prompts)
    prediction = predict(
        sizes,
        pack.config,
        # Guesses are the router's, and so wrong where routing is not.
        _as_planned(replace(config, lookahead="off") if skewed else config, benchmark.plan, sequences),
        _machine(config, benchmark),
        hits=expected_hits(
            None,
            random_weights=spread,
            experts=pack.config.num_experts,
            experts_per_token=pack.config.num_experts_per_tok,
        ),
        prompt=round(statistics.mean(lengths)),
    )
    warm, cold = benchmark.warm, benchmark.cold
    pairs = {
        # With guesses what is found in memory was partly read for this very use.
        "hit_rate": (prediction.hit_rate, None if warm.decode.guessed else warm.decode.hit_rate),
        "decode_tok_s": (prediction.tokens_per_s, warm.decode.rate),
        "ttft_s": (prediction.first_token_s, _median(warm.ttft)),
        "ttft_cold_s": (prediction.cold_first_token_s, _median(cold.ttft)),
    }
    return {
        name: Comparison(figure, measured)
        for name, (figure, measured) in pairs.items()
        if figure is not None and measured is not None
    }


def _as_planned(config: EngineConfig, plan: MemoryPlan | GpuPlan, sequences: int) -> EngineConfig:
    """What makes the same plan again, whatever is free by now."""
    return replace(
        config,
        ram=plan.budget,
        vram=plan.vram_budget if isinstance(plan, GpuPlan) else None,
        slots=None if plan.placement == "mapped" else plan.slots,
        kv_blocks=plan.kv_blocks,
        max_batch_tokens=plan.batch_tokens,
        max_sequences=sequences,
    )


def _machine(config: EngineConfig, benchmark: Benchmark) -> PlannedMachine:
    here = this_machine(config.threads)
    plan, disk = benchmark.plan, benchmark.disk or UNKNOWN_DISK
    here = replace(here, ram=plan.budget, process=plan.process - GROWTH, disk=disk)
    if isinstance(plan, GpuPlan):
        return replace(here, process=here.process - CUDA_ON_HOST, vram=plan.vram_budget)
    return here


def _median(figures: tuple[float, ...]) -> float | None:
    return statistics.median(figures) if figures else None
