"""How long a step takes with a GPU: all that hits from VRAM, the rest over the link, on the host's cores, or both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from runtime.config import EngineConfig, ModelConfig
from runtime.gpu.vram import GpuPlan, kv_width
from runtime.memory import ModelSizes
from runtime.prediction.cpu_times import DECODE_SHARE, RIGHT
from runtime.prediction.figures import Figure, longest
from runtime.prediction.hit_curves import HitCurve
from runtime.prediction.planned_machine import PlannedMachine
from runtime.prediction.work import Work, chunks, step_work

# Seconds of each layer with experts: for the launch that gathers over the link, and for a round trip to the host.
GATHER = 6e-6
ROUND_TRIP = 25e-6


@dataclass(frozen=True)
class Card:
    """What is assumed of a card by its size: bytes a second when decoding, and operations a second on prompts."""

    bytes_per_s: float
    operations: float
    how: str


# The rates are 5.5 and 3.5 ms for the 4.15 GB that a token of the 103B shape reads. The operations are half of the bf16
# ones on the makers' data sheets, 71 and 989 TFLOP/s.
SMALL_CARD = Card(755e9, 35e12, "assumed: a 24 GB card such as the RTX 3090")
LARGE_CARD = Card(1186e9, 490e12, "assumed: an H100")
LARGE = 40_000_000_000


@dataclass(frozen=True)
class GpuTimes:
    """The times of a model whose experts are cached in VRAM."""

    sizes: ModelSizes
    config: ModelConfig
    engine: EngineConfig
    machine: PlannedMachine
    plan: GpuPlan
    hits: HitCurve
    prompt: int

    def decode(self) -> Figure:
        """Tokens a second in the best way to treat a missing expert."""
        way, best = max(self.modes().items(), key=lambda mode: mode[1])
        over = {"VRAM": self._all_hit, _limits(way): self._step.tokens / best - self._all_hit}
        sources = [self._card.how if self.machine.all_hit_s is None else "a token's time in VRAM was told"]
        if self.plan.resident_share < 1:
            sources.append(f"{way}, PCIe ({self.machine.pcie.origin}), memory ({self.machine.dram.origin})")
        return Figure(best, longest(over), "; ".join(sources))

    def modes(self) -> dict[str, float]:
        """Tokens a second by what becomes of a missing expert."""
        step, all_hit, link = self._step, self._all_hit, self.machine.pcie.bytes_per_s
        if self.plan.resident_share == 1:
            return {"resident": step.tokens / all_hit}
        missed = step.expert_bytes * (1 - self.hits.at(self.plan.resident_share))
        cores, memory = self._cores, self.machine.dram.bytes_per_s
        both = min(link + cores, memory)
        trips = step.layers * ROUND_TRIP
        idle = all_hit * step.layers / self.config.num_hidden_layers
        ahead = max(0.0, missed - RIGHT * idle * link)
        seconds = {
            "paging": step.layers * GATHER + missed / link,
            "CPU": trips + missed / cores,
            "both": trips + missed / both,
        }
        if self.engine.lookahead != "off":
            seconds["both + look-ahead"] = trips + ahead / both
        return {way: step.tokens / (all_hit + more) for way, more in seconds.items()}

    def first_token(self, *, cold: bool) -> Figure:
        """Seconds from a prompt to its first token: layers stream in while those before are computed.

        `cold`: no expert is in VRAM yet, unless all go there before any prompt, or those that RAM has no room for.
        """
        spent = {"GPU": 0.0, "PCIe": 0.0}
        is_empty = cold and self.plan.resident_share < 1 and not self.plan.exclusive
        total = 0.0
        for start, stop in chunks(self.prompt, self.plan.batch_tokens):
            work = step_work(self.sizes, self.config, stop - start, rows=int(stop == self.prompt), cached=stop // 2)
            chunk = self._chunk(work, 1.0 if is_empty and start == 0 else 1 - self.plan.resident_share)
            total += max(chunk.values())
            spent = {resource: spent[resource] + seconds for resource, seconds in chunk.items()}
        return Figure(total, longest(spent), f"{self._card.how}; PCIe ({self.machine.pcie.origin})")

    def _chunk(self, work: Work, missing: float) -> dict[str, float]:
        """Seconds that each resource is at work for; `missing` is the share of the experts needed that is streamed."""
        return {
            "GPU": max(
                (work.dense_operations + work.expert_operations) / self._card.operations,
                work.weight_bytes / self._card.bytes_per_s,
            ),
            "PCIe": work.uses * missing * self.plan.slot_bytes / self.machine.pcie.bytes_per_s,
        }

    @cached_property
    def _step(self) -> Work:
        rows = self.engine.max_sequences
        return step_work(self.sizes, self.config, rows, rows=rows, cached=rows * self.prompt)

    @property
    def _all_hit(self) -> float:
        if self.machine.all_hit_s is not None:
            return self.machine.all_hit_s
        return (self._step.weight_bytes + kv_width(self.engine) * self._step.kv_bytes) / self._card.bytes_per_s

    @property
    def _card(self) -> Card:
        return LARGE_CARD if self.machine.vram >= LARGE else SMALL_CARD

    @property
    def _cores(self) -> float:
        told = self.machine.cpu
        return told.bytes_per_s if told else DECODE_SHARE * self.machine.dram.bytes_per_s


def _limits(way: str) -> str:
    """What a way to treat missing experts is limited by."""
    return {"paging": "PCIe", "CPU": "memory", "both": "memory", "both + look-ahead": "memory"}.get(way, "VRAM")
