"""What the seconds of all rounds amount to: rates, ratios, share of the bandwidth, and whether targets are met."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# For each round, what each contender took for each step.
Rounds = Sequence[Mapping[str, Sequence[float]]]

TIMES_DECODE, TIMES_PREFILL, TIMES_BATCH = 1.2, 2.0, 1.5
SHARE_LEAST, SHARE_MOST = 0.70, 0.85


@dataclass(frozen=True)
class Quantiles:
    """The middle of some figures, and what all but a fifth are above and below."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Quantiles:
        """At least one figure."""
        ordered = sorted(figures)
        cuts = statistics.quantiles(ordered, n=5, method="inclusive") if len(ordered) > 1 else ordered * 4
        return cls(*(float(f"{figure:.5g}") for figure in (cuts[0], statistics.median(ordered), cuts[3])))

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Target:
    """What was to be reached, in words and in number, and what was."""

    measure: str
    wanted: str
    target: float
    reached: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.reached >= self.target}


def medians(rounds: Rounds, name: str) -> list[float]:
    """Seconds of a contender's median step, round by round."""
    return [statistics.median(each[name]) for each in rounds]


def ratios(rounds: Rounds, ours: str, theirs: str) -> list[float]:
    """How many times as fast ours was, round by round."""
    return [b / a for a, b in zip(medians(rounds, ours), medians(rounds, theirs), strict=True)]


def measure_json(rounds: Rounds, tokens_per_step: int, contenders: Sequence[str], peer: str) -> dict[str, Any]:
    """Tokens per second of all steps of all rounds, and each contender's ratios to the peer."""
    rates = {
        name: Quantiles.of(tokens_per_step / second for each in rounds for second in each[name]) for name in contenders
    }
    against = {name: ratios(rounds, name, peer) for name in contenders if name != peer}
    return {
        "tokens_per_s": {name: rate.to_json() for name, rate in rates.items()},
        "times_peer": {name: Quantiles.of(each).to_json() for name, each in against.items()},
        "times_peer_by_round": {name: [round(ratio, 4) for ratio in each] for name, each in against.items()},
        "median_step_s_by_round": {name: [round(s, 6) for s in medians(rounds, name)] for name in contenders},
    }


def shares(rounds: Rounds, name: str, bytes_per_token: int, gigabytes_per_s: Sequence[float]) -> list[float]:
    """The part of each round's bandwidth that reading the weights once a step comes to."""
    pairs = zip(medians(rounds, name), gigabytes_per_s, strict=True)
    return [bytes_per_token / seconds / (rate * 1e9) for seconds, rate in pairs]


def decode_targets(times_peer: float, share: float) -> list[Target]:
    """At batch 1; `share` of the bandwidth. The peer's multiple gives way where memory could not keep up with it."""
    wanted_share = share * TIMES_DECODE / times_peer
    targets = [Target("decode", f"{SHARE_LEAST:.0%} of the bandwidth", SHARE_LEAST, share)]
    if wanted_share > SHARE_MOST:
        wanted = f"{SHARE_MOST:.0%} of the bandwidth, as {TIMES_DECODE} times llama.cpp would be {wanted_share:.0%}"
        return [*targets, Target("decode", wanted, SHARE_MOST, share)]
    return [*targets, Target("decode", f"{TIMES_DECODE} times llama.cpp", TIMES_DECODE, times_peer)]
