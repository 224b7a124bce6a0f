"""Experts that are chosen before a step instead of by a router: a wanted share of hits, or as skewed as a trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.gpu_targets import wanted_hits
from kernels.gpu.tables import Placement
from runtime.config import ModelConfig
from runtime.experts.skew import SkewedRouting

# The experts [K] of one token in each layer that has some, ascending.
Choice = Sequence[NDArray[np.int64]]


class Forced:
    """A routing source for steps of one row: what `choose` said before the step; more rows go where the router says.

    `seconds` is what asking it took in the last step, which no step without it takes.
    """

    def __init__(self, first_layer: int, choose: Callable[[], Choice]) -> None:
        self._first_layer = first_layer
        self._choose = choose
        self._ids: list[Tensor] = []
        self._times: list[float] = []

    def prepare(self) -> None:
        self._ids = [torch.from_numpy(ids)[None] for ids in self._choose()]
        self._times = []

    def __call__(self, layer: int, ids: Tensor) -> Tensor:
        self._times.append(time.perf_counter())
        return self._ids[layer - self._first_layer] if len(ids) == 1 and self._ids else ids

    @property
    def seconds(self) -> float:
        """From the first call to the last, and as much more as one takes."""
        calls = len(self._times)
        return (self._times[-1] - self._times[0]) * calls / (calls - 1) if calls > 1 else 0.0


def choosing_hits(placement: Placement, config: ModelConfig, share: float, seed: int = 0) -> Callable[[], Choice]:
    """Experts of which such a share is resident when the step begins, by what the device says then."""
    random, experts, k = np.random.default_rng(seed), config.num_experts, config.num_experts_per_tok
    layers = config.num_hidden_layers - config.first_k_dense_replace
    hits = wanted_hits(layers, k, share)

    def choose() -> Choice:
        location, last_used = (t.cpu().numpy() for t in (placement.location, placement.last_used))
        parts = [slice(layer * experts, (layer + 1) * experts) for layer in range(layers)]
        return [chosen(location[p] >= 0, last_used[p], n, k, random) for p, n in zip(parts, hits, strict=True)]

    return choose


def chosen(
    resident: NDArray[np.bool_], last_used: NDArray[np.int32], hits: int, k: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """K experts of a layer of which `hits` are resident, as far as there are as many.

    Hits are of the half that was used last, which nothing that comes in the same step makes leave.
    """
    inside, outside = np.flatnonzero(resident), np.flatnonzero(~resident)
    hits = max(min(hits, len(inside)), k - len(outside))
    inside = inside[np.argsort(-last_used[inside], kind="stable")][: max(hits, len(inside) // 2)]
    taken = random.choice(inside, hits, replace=False), random.choice(outside, k - hits, replace=False)
    return np.sort(np.concatenate(taken)).astype(np.int64)


def choosing_skewed(skew: SkewedRouting, config: ModelConfig, seed: int = 0) -> Callable[[], Choice]:
    """Experts as skewed as those of a trace."""
    first = config.first_k_dense_replace
    layers, k = config.num_hidden_layers - first, config.num_experts_per_tok
    source = skew.source(layers, config.num_experts, k, first, seed)
    row = torch.zeros(1, k, dtype=torch.int64)
    return lambda: [source(first + layer, row)[0].numpy() for layer in range(layers)]
