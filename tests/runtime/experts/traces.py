"""Traces for tests: drawn at random, and the recorded one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.experts.trace import Trace

RECORDED = Path(__file__).resolve().parents[3] / "bench" / "traces" / "nano-cases.jsonl.gz"


def random_trace(seed: int, rows: list[int], layers: int = 2, experts: int = 8, k: int = 2, skew: float = 1.0) -> Trace:
    """Each token goes to experts with chances that fall as a power of their number (Zipf's law)."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, experts + 1) ** -skew
    orders = [rng.permutation(experts) for _ in range(layers)]

    def row(layer: int) -> list[int]:
        # The k largest of these have the same law as k draws without replacement.
        keys = np.log(rng.random(experts)) / weights
        return sorted(orders[layer][np.argsort(-keys)[:k]].tolist())

    steps = [np.array([[row(layer) for _ in range(t)] for layer in range(layers)], dtype=np.int16) for t in rows]
    return Trace(1, layers, experts, k, tuple(steps))
