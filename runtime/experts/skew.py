"""Routing for a model of any size that comes back to its experts as a recorded one does.

The LRU stack model (Mattson, Gecsei, Slutz and Traiger, IBM Systems Journal 9(2), 1970; as a generator: Spirn, Computer
9(11), 1976): experts of a layer stand in the order of their last use, and a token chooses places in that order. How
often each place is chosen is fitted on a trace, as a share of all places, and drawn from for another number of experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.experts.trace import Trace, TraceError, is_decode

Order = NDArray[np.int64]  # [E], experts by last use, the latest first


@dataclass(frozen=True)
class SkewedRouting:
    """How often each place in the order of last use is chosen: shares of all choices, [E] of the fitted model."""

    places: tuple[float, ...]

    @classmethod
    def fit(cls, trace: Trace) -> SkewedRouting:
        """Counts the places that decode steps chose; a prompt's steps change the order only.

        Raises TraceError for a trace without a decode step.
        """
        counts = np.zeros(trace.experts)
        orders = [np.arange(trace.experts) for _ in range(trace.layers)]
        for step in trace.steps:
            for order, ids in zip(orders, step, strict=True):
                if is_decode(step):
                    counts += np.bincount(_places(order)[ids.ravel()], minlength=len(order))
                _to_front(order, ids)
        if not counts.any():
            raise TraceError("the trace has no decode step to learn from", "Record one with generated tokens in it.")
        return cls(tuple((counts / counts.sum()).tolist()))

    def source(self, layers: int, experts: int, k: int, first_layer: int, seed: int) -> RoutingSource:
        """Routing of a model with so many MoE layers from `first_layer`, so many experts in each and k of them a token.

        The same seed gives the same routing.
        """
        chance = _inclusion(self.resampled(experts), k)
        draws = [_LayerDraws(chance, k, np.random.default_rng((seed, layer))) for layer in range(layers)]
        return RoutingSource(first_layer, tuple(draws))

    def resampled(self, experts: int) -> NDArray[np.float64]:
        """The shares for another number of places, each as wide a part of the whole as it is. [experts]"""
        edges = np.linspace(0, 1, len(self.places) + 1)
        summed = np.concatenate(([0.0], np.cumsum(self.places)))
        return np.diff(np.interp(np.linspace(0, 1, experts + 1), edges, summed))


@dataclass(frozen=True)
class RoutingSource:
    """Chooses the experts instead of a router: give it to `Engine.replace_routing`."""

    first_layer: int
    _layers: tuple[_LayerDraws, ...] = field(repr=False)

    def __call__(self, layer: int, ids: Tensor) -> Tensor:
        """Experts [T, K] for the tokens of a layer, ascending in each row; of the router's choice only T counts."""
        chosen = self._layers[layer - self.first_layer].rows(ids.shape[0])
        return torch.from_numpy(chosen).to(ids.device)


class _LayerDraws:
    """One layer: its order of last use, and its own random stream."""

    def __init__(self, chance: NDArray[np.float64], k: int, rng: np.random.Generator) -> None:
        self._chance = chance
        self._k = k
        self._rng = rng
        self._order: Order = rng.permutation(len(chance))

    def rows(self, tokens: int) -> NDArray[np.int64]:
        """The choices of the tokens of a step, [T, K]: each from the order that the step before left."""
        chosen = np.sort(self._order[self._drawn(tokens)], axis=1)
        _to_front(self._order, chosen)
        return chosen

    def _drawn(self, tokens: int) -> NDArray[np.int64]:
        """K distinct places for each token, every place with its own chance [T, K].

        Systematic sampling of a shuffled list (Madow, Annals of Mathematical Statistics 20(3), 1949): the chances are
        laid end to end, and what a comb with teeth 1 apart falls on is chosen.
        """
        shuffled = self._rng.random((tokens, len(self._chance))).argsort(axis=1)  # [T, E]
        ends = np.cumsum(self._chance[shuffled], axis=1)
        ends[:, -1] = self._k
        start = self._rng.random((tokens, 1))
        # A tooth lies within a place when one more than its number of teeth lie before its end.
        teeth = np.ceil(ends - start).clip(0, self._k)
        hit = np.diff(teeth, axis=1, prepend=0.0) > 0
        return shuffled[hit].reshape(tokens, self._k)


def _inclusion(weights: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Chances that add up to k, in proportion to the weights, but none above 1. [E]"""
    # A weight of 0 would be a place that is never chosen, even where k asks for all of them.
    weights = weights + 1e-9
    certain = np.zeros(len(weights), dtype=bool)
    while True:
        rest = np.where(certain, 0.0, weights)
        chance = np.where(certain, 1.0, rest * (k - certain.sum()) / max(rest.sum(), 1e-300))
        above = chance > 1
        if not above.any():
            return chance
        certain |= above


def _places(order: Order) -> Order:
    """Where each expert stands in the order."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def _to_front(order: Order, used: NDArray[np.integer[Any]]) -> None:
    """Changes the order for experts that are used together, however often each."""
    front = np.zeros(len(order), dtype=bool)
    front[used] = True
    order[:] = np.concatenate((np.flatnonzero(front), order[~front[order]]))
