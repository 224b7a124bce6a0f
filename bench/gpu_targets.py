"""What a GPU is to reach: predictions from its machine's own rates, and whether targets are met."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# Of a prediction, of a plain pinned copy and of a copy within VRAM (by experts of a step), what is to be reached.
OF_PREDICTED = 0.75
OF_PINNED_COPY = 0.90
OF_DEVICE_COPY = {8: 0.60, 64: 0.75}

# Of the link, what a prompt may leave unused, and the seconds of a token whose experts are all in VRAM.
OF_LINK = 0.75
ALL_HIT_S = 5e-3


@dataclass(frozen=True)
class Links:
    """Bytes a second: from pinned memory to the GPU, of host memory, and of experts that the host computes."""

    pcie: float
    dram: float
    cpu: float


@dataclass(frozen=True)
class Target:
    """What was to be reached, at least or at most, and what was."""

    measure: str
    bound: float
    reached: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.reached <= self.bound if self.at_most else self.reached >= self.bound

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


def predicted(all_hit_s: float, missed_bytes: float, links: Links) -> dict[str, float]:
    """Tokens a second by what becomes of a missing expert, of a token that misses so many bytes of them."""
    rates = {"paging": links.pcie, "host": links.cpu, "both": min(links.pcie + links.cpu, links.dram)}
    return {mode: 1 / (all_hit_s + missed_bytes / rate) for mode, rate in rates.items()}


def decode_target(mode: str, what: str, reached: float, prediction: float) -> Target:
    return Target(f"decode, {mode}, {what}: tokens/s of those predicted", OF_PREDICTED, reached / prediction)


def prefill_target(tokens: int, pool: int, resident: int, pcie: float, seconds: float) -> Target:
    """A prompt's experts that are not resident, over a link that is at work for most of the time."""
    return Target(f"prefill of {tokens} tokens, seconds", (pool - resident) / pcie / OF_LINK, seconds, at_most=True)


def wanted_hits(layers: int, per_token: int, share: float) -> list[int]:
    """How many of each layer's experts are to hit, so that all together come nearest to a share."""
    ends = [round((layer + 1) * per_token * share) for layer in range(layers)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
