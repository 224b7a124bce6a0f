"""Routing for benchmarks of random weights, whose router spreads tokens over all experts as no trained one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.engine import Engine
from runtime.experts.skew import SkewedRouting
from runtime.experts.trace import read_trace


def skew_of(trace: str | Path) -> Callable[[Engine], None]:
    """Lets an engine choose experts as skewed as those of a recorded trace, of whatever model. Raises TraceError."""
    skew = SkewedRouting.fit(read_trace(Path(trace)))

    def prepare(engine: Engine) -> None:
        config = engine.model_config
        first = config.first_k_dense_replace
        layers = config.num_hidden_layers - first
        engine.replace_routing(skew.source(layers, config.num_experts, config.num_experts_per_tok, first, seed=0))

    return prepare
