"""Which share of uses finds its expert in memory when a share of all experts is there, and how that is known."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RECORDED = Path(__file__).parents[1] / "experts" / "hit_curve.json"


@dataclass(frozen=True)
class HitCurve:
    """Hit rates by the share of experts that have a slot, straight between the points, and where they come from."""

    points: tuple[tuple[float, float], ...]
    source: str

    def at(self, share: float) -> float:
        shares, hits = zip(*sorted({(0.0, 0.0), *self.points, (1.0, 1.0)}), strict=True)
        return float(np.interp(share, shares, hits))


UNIFORM = HitCurve((), "assumed: every expert is as likely as any other")
RANDOM_WEIGHTS = HitCurve((), "random weights route nearly evenly")


def expected_hits(
    totals: NDArray[np.int64] | None, *, random_weights: bool, experts: int, experts_per_token: int
) -> HitCurve:
    """The best that is known of a model: its experts' uses in earlier runs, else recorded traces, else nothing."""
    if random_weights:
        return RANDOM_WEIGHTS
    if totals is not None and totals.sum() > 0:
        return popular_first(totals)
    return recorded_curve(experts, experts_per_token) if RECORDED.is_file() else UNIFORM


def recorded_curve(experts: int, experts_per_token: int, path: Path = RECORDED) -> HitCurve:
    """The curve that was replayed from recorded traces for the model most like this one: in experts for each chosen."""
    curves = json.loads(path.read_text(encoding="utf-8"))["curves"]
    content = min(
        curves, key=lambda c: abs(math.log(c["experts"] / c["experts_per_token"] * experts_per_token / experts))
    )
    points = tuple((float(share), float(hit)) for share, hit in content["points"])
    return HitCurve(points, f"measured: {content['source']}, {content['policy']}")


def popular_first(totals: NDArray[np.int64]) -> HitCurve:
    """What holding the most popular experts would hit, by how often each was used."""
    summed = np.cumsum(-np.sort(-totals.reshape(-1)))
    uses = int(summed[-1])
    points = tuple((i / len(summed), float(part) / uses) for i, part in enumerate(summed, 1))
    return HitCurve(points, f"measured: {uses:,} uses of this model's experts in earlier runs, the most popular held")
