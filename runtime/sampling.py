"""From logits to a token: penalty, temperature, top-k, top-p, min-p, and one draw.

A draw depends on (seed, stage, position) alone, so neighbours in a batch, chunking and preemption never
change it. Ties go to the lowest id.
"""

from __future__ import annotations

import hashlib
import math
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from kernels.ops import Candidates, Restriction
from runtime.errors import AntangelError

# With no top-k, this many of the best usually hold all that top-p keeps; the whole row is sorted when not.
FIRST_LOOK = 256


class LogitsError(AntangelError):
    """The logits of one sequence are no numbers to choose from."""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and penalty 1 are off."""

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    min_p: float = 0.0
    repetition_penalty: float = 1.05
    seed: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "0 or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 or more")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 to 1")
        _require(0 < self.repetition_penalty < math.inf, "repetition_penalty", self.repetition_penalty, "above 0")


@dataclass(slots=True)  # one a token: frozen ones take four times as long to make
class Row:
    """What decides one sequence's next token, besides its logits.

    `allowed` [V] is the grammar's choice, None without one; `stage` and `position` key the draw.
    """

    params: SamplingParams
    stage: int
    position: int
    seen: Tensor | None = field(default=None, repr=False)
    allowed: Tensor | None = field(default=None, repr=False)


class TokenHistory:
    """The distinct tokens of one growing sequence: what a repetition penalty looks at.

    It follows a list that only gets longer; start a new one when the list is cut.
    """

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._room = array("q", bytes(8 * 256))
        self._distinct = torch.empty(0, dtype=torch.int64)
        self._followed = 0

    def follow(self, token_ids: Sequence[int]) -> Tensor:
        """The distinct ids of the whole list, in order of first use, [number of them]."""
        before = len(self._known)
        for token_id in token_ids[self._followed :]:
            if token_id not in self._known:
                self._take(token_id)
        self._followed = len(token_ids)
        if len(self._known) > before:
            self._distinct = torch.frombuffer(self._room, dtype=torch.int64, count=len(self._known))
        return self._distinct

    def _take(self, token_id: int) -> None:
        if len(self._known) == len(self._room):
            # Tensors are over the old room, which cannot grow.
            self._room = self._room + array("q", bytes(8 * len(self._room)))
        self._room[len(self._known)] = token_id
        self._known.add(token_id)


@dataclass(slots=True)  # one a token: frozen ones take four times as long to make
class Ranked:
    """The highest scores of a row, highest first, ties in id order; `total` as in Candidates."""

    ids: list[int]
    scores: list[float]
    total: float


# A model's head over rows whose restrictions are given: the number of candidates to tell comes second.
Head = Callable[[list[Restriction], int], Candidates]


class Sampler:
    """Draws the next token of each row; ids from `size` on are padding and never drawn."""

    def __init__(self, size: int) -> None:
        self.size = size

    def sample(self, head: Head, rows: Sequence[Row]) -> list[int | LogitsError]:
        """One token id per row of the head, or the error of that row alone."""
        looks = [min(_look(row.params), self.size) for row in rows]
        found = head([_restriction(row) for row in rows], max(looks))
        parts = zip(found.ids.tolist(), found.scores.tolist(), found.totals.tolist(), looks, strict=True)
        ranked = [Ranked(ids[:look], scores[:look], total) for ids, scores, total, look in parts]
        return [_choose(*part) for part in zip(found.all_scores, rows, ranked, strict=True)]


def uniform(seed: int, stage: int, position: int) -> float:
    """A number in [0, 1), the same for the same key on every machine."""
    key = struct.pack("<Qqq", seed % 2**64, stage, position)
    return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def _look(params: SamplingParams) -> int:
    """How many of the highest scores are looked at first."""
    return 1 if params.temperature == 0 else params.top_k or FIRST_LOOK


def _restriction(row: Row) -> Restriction:
    """A total is asked for where top-p is to be a share of the whole vocabulary."""
    params = row.params
    needs_total = not params.top_k and params.top_p < 1
    seen = row.seen if params.repetition_penalty != 1 else None
    return Restriction(row.allowed, seen, params.repetition_penalty, params.temperature if needs_total else 0.0)


def _choose(scores: Tensor, row: Row, best: Ranked) -> int | LogitsError:
    params = row.params
    if not math.isfinite(best.scores[0]):
        return LogitsError("the model gave no usable logits for a token", "Check the weights with `doctor`.")
    if params.temperature == 0:
        return best.ids[0]
    draw = uniform(params.seed, row.stage, row.position)
    if not params.top_k and params.top_p == 1:
        return _draw_from_all(scores, params, draw)
    if params.top_k:
        return _draw_from(best, params, draw)
    return _draw_from_nucleus(scores, best, params, draw)


def _weights(ranked: Ranked, temperature: float) -> list[float]:
    """Probabilities but for a common factor."""
    top = ranked.scores[0]
    return [math.exp((score - top) / temperature) for score in ranked.scores]


def _draw_from(ranked: Ranked, params: SamplingParams, draw: float) -> int:
    weights = _weights(ranked, params.temperature)
    count, mass = _nucleus(weights, params, sum(weights))
    return ranked.ids[_reach(weights, count, draw * mass)]


def _draw_from_nucleus(scores: Tensor, best: Ranked, params: SamplingParams, draw: float) -> int:
    """With no top-k: the highest few hold all that top-p keeps, or the whole row is sorted."""
    weights = _weights(best, params.temperature)
    count, mass = _nucleus(weights, params, best.total)
    if count < len(weights) or len(weights) == len(scores):
        return best.ids[_reach(weights, count, draw * mass)]
    return _draw_from_sorted(scores, params, draw, best.total)


def _nucleus(weights: list[float], params: SamplingParams, total: float) -> tuple[int, float]:
    """How many of the likeliest stay, and their mass: the fewest that reach top-p, each at least min-p."""
    needed, floor, mass = params.top_p * total, params.min_p * weights[0], 0.0
    for count, weight in enumerate(weights):
        if mass >= needed or weight < floor or weight == 0:
            return count, mass
        mass += weight
    return len(weights), mass


def _reach(weights: list[float], count: int, target: float) -> int:
    """The first index at which the running sum passes the target."""
    sums = accumulate(weights[:count])
    return next((i for i, mass in enumerate(sums) if mass > target), count - 1)


def _draw_from_sorted(scores: Tensor, params: SamplingParams, draw: float, total: float) -> int:
    values, ids = scores.sort(descending=True, stable=True)
    weights = torch.exp((values.double() - values[0].double()) / params.temperature)
    mass = weights.cumsum(0)
    kept = (mass - weights < params.top_p * total) & (weights >= params.min_p) & (weights > 0)
    return int(ids[_passing(mass[: int(kept.sum())], draw)])


def _draw_from_all(scores: Tensor, params: SamplingParams, draw: float) -> int:
    """With neither top-k nor top-p nothing needs sorting: the draw runs over ids in order."""
    weights = torch.exp((scores.double() - scores.max().double()) / params.temperature)
    kept = ((weights >= params.min_p) & (weights > 0)).nonzero()[:, 0]
    return int(kept[_passing(weights[kept].cumsum(0), draw)])


def _passing(mass: Tensor, draw: float) -> int:
    return min(int(torch.searchsorted(mass, draw * float(mass[-1]), right=True)), len(mass) - 1)


def _require(condition: bool, name: str, value: float, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value}; it must be {wanted}")
