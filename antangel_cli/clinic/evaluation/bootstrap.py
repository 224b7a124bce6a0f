"""Figures with their intervals: a share over cases, and how far another draw of such cases could have moved it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from antangel_cli.clinic.evaluation.scoring import Part

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0
DRAWN_AT_ONCE = 1 << 20
"""Draws kept in memory."""


@dataclass(frozen=True)
class Figure:
    """A share of all, its interval, and over how many cases."""

    value: float
    low: float
    high: float
    cases: int

    def to_json(self) -> dict[str, Any]:
        """Rounded to what the interval can bear."""
        return {
            "value": round(self.value, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "cases": self.cases,
        }


def figure(parts: Sequence[Part]) -> Figure:
    """The share that all parts come to, with the percentile interval of 2,000 seeded resamples of the cases.

    At least one part; each whole is above zero.
    """
    reached, whole = np.array(parts, dtype=np.float64).T
    draw, shares = np.random.default_rng(SEED), []
    at_once = max(DRAWN_AT_ONCE // len(parts), 1)
    for done in range(0, RESAMPLES, at_once):
        chosen = draw.integers(len(parts), size=(min(at_once, RESAMPLES - done), len(parts)))
        shares.append(reached[chosen].sum(axis=1) / whole[chosen].sum(axis=1))
    low, high = np.quantile(np.concatenate(shares), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(float(reached.sum() / whole.sum()), float(low), float(high), len(parts))


def figures(scores: Sequence[dict[str, Part]]) -> dict[str, Figure]:
    """One figure for each measure that any case has, over the cases that have it."""
    names = dict.fromkeys(name for each in scores for name in each)
    return {name: figure([each[name] for each in scores if name in each]) for name in names}
