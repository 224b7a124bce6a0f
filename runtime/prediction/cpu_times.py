"""How long a step takes on cores: weights through memory, operations, and missing experts from disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from runtime.config import EngineConfig, ModelConfig
from runtime.experts.pager import PASSING_ROWS
from runtime.experts.plan import WAVE
from runtime.memory import MemoryPlan, ModelSizes
from runtime.moe import GUESSED
from runtime.prediction.figures import Figure, longest
from runtime.prediction.planned_machine import PlannedMachine
from runtime.prediction.work import Work, chunks, step_work

MEASURED = "docs/performance.md"

# The share of the memory's rate at which decoding reads weights: bench/results/speed.json, decode_share_of_bandwidth.
DECODE_SHARE = 0.66

# The same where experts are paged: memory takes in what the disk gives, and threads wake again after every wait. By
# bench/results/flash-*.json: 4.15 GB in the 0.28 to 0.32 s of a token that are not spent waiting.
PAGED_SHARE = 0.48

# Operations a second of a core on prompts: bench/results/speed.json, prefill 512 in the default formats on two cores.
CORE_OPERATIONS = 91e9

# What a step takes besides, by the embedded model, which reads nearly nothing: bench/results/decode.json.
STEP_SECONDS = 1.2e-3

# Of the experts that are guessed from the layer before, the part that is needed; as published for such models.
RIGHT = 0.75

# Bytes a second at which a core compares experts with their SHA-256, where its instructions help: hashlib, measured.
HASH_RATE = 1.5e9


@dataclass(frozen=True)
class Parts:
    """Seconds of one step by what they are spent on: all but experts, experts, and reads from disk."""

    dense: float
    experts: float
    reads: float
    limit: str


@dataclass(frozen=True)
class CpuTimes:
    """The times of a model that runs on cores, with the hit rate of its cache."""

    sizes: ModelSizes
    config: ModelConfig
    engine: EngineConfig
    machine: PlannedMachine
    plan: MemoryPlan
    hit_rate: Figure
    prompt: int

    def decode(self) -> Figure:
        """Tokens a second of all sequences, each with a prompt's keys and values."""
        rows = self.engine.max_sequences
        work = step_work(self.sizes, self.config, rows, rows=rows, cached=rows * self.prompt)
        parts = self._parts(work, 1 - self.hit_rate.value)
        seconds = self._looking_ahead(parts, parts.dense + parts.experts + parts.reads - _hidden(work, parts, rows))
        sources = [f"{self._share:.0%} of the memory's rate ({self.machine.dram.origin}), as in {MEASURED}"]
        if parts.reads:
            sources.append(self._disk)
        return Figure(rows / seconds, parts.limit, "; ".join(sources))

    def first_token(self, *, cold: bool) -> Figure:
        """Seconds from a prompt to its first token. `cold`: no expert is in memory yet."""
        seconds, limits = 0.0, Counter[str]()
        for start, stop in chunks(self.prompt, self.plan.batch_tokens):
            rows, middle = int(stop == self.prompt), (start + stop) // 2
            work = step_work(self.sizes, self.config, stop - start, rows=rows, cached=middle)
            missing = 1.0 if cold and start == 0 else 1 - self.plan.resident_share
            parts = self._parts(work, missing, verified=not cold)
            hidden = 0.0 if self.plan.placement == "mapped" else _hidden(work, parts, stop - start)
            taken = parts.dense + parts.experts + parts.reads - hidden
            seconds += taken
            limits[parts.limit] += round(1e9 * taken)
        sources = [f"{CORE_OPERATIONS / 1e9:.0f} GOP/s of a core, as in {MEASURED}"]
        if cold or self.plan.resident_share < 1:
            sources.append(self._disk)
        return Figure(seconds, limits.most_common(1)[0][0], "; ".join(sources))

    @property
    def _disk(self) -> str:
        return f"disk ({self.machine.disk.origin})"

    @property
    def _share(self) -> float:
        return PAGED_SHARE if self.plan.placement == "paged" else DECODE_SHARE

    def _parts(self, work: Work, missing: float, *, verified: bool = True) -> Parts:
        """`missing` is the share of the experts needed that is read; not `verified`, for the first time."""
        memory = self._share * self.machine.dram.bytes_per_s
        processor = CORE_OPERATIONS * self.machine.cores
        dense = {
            "memory": (work.dense_bytes + work.kv_bytes) / memory,
            "processor": work.dense_operations / processor,
        }
        experts = {"memory": work.expert_bytes / memory, "processor": work.expert_operations / processor}
        read_bytes = work.uses * missing * self.plan.slot_bytes
        reads = read_bytes / self.machine.disk.bytes_per_s
        if self.plan.placement == "paged" and not verified:
            reads += read_bytes / (HASH_RATE * self.machine.cores)
        spent = {name: dense[name] + experts[name] for name in dense} | {"disk": reads}
        return Parts(max(dense.values()) + STEP_SECONDS, max(experts.values()), reads, longest(spent))

    def _looking_ahead(self, parts: Parts, without: float) -> float:
        """Seconds with GUESSED of the missing read while the cores compute, of which RIGHT are needed."""
        if self.engine.lookahead == "off":
            return without
        computing = parts.dense + parts.experts
        guesses = GUESSED * parts.reads
        guessing = computing + parts.reads - RIGHT * guesses + max(0.0, guesses - computing)
        return guessing if self.engine.lookahead == "on" else min(without, guessing)


def _hidden(work: Work, parts: Parts, rows: int) -> float:
    """Seconds of reading while something is computed: in a pass all of a layer, else its experts but a first wave."""
    waves = max(1.0, work.experts / WAVE)
    computing = parts.dense + parts.experts if rows >= PASSING_ROWS else parts.experts
    return min(parts.reads, computing) * (1 - 1 / waves)
