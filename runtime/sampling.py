"""From logits to a token: penalty, temperature, top-k, top-p, min-p, and one draw.

A draw depends on (seed, stage, position) alone, so neighbours in a batch, chunking and preemption never
change it. Ties go to the lowest id.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

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


@dataclass(frozen=True)
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
        self._ids = torch.empty(64, dtype=torch.int64)
        self._followed = 0

    def follow(self, token_ids: Sequence[int]) -> Tensor:
        """The distinct ids of the whole list, in order of first use, [number of them]."""
        self._extend(token_ids[self._followed :])
        self._followed = len(token_ids)
        return self._ids[: len(self._known)]

    def _extend(self, token_ids: Sequence[int]) -> None:
        new = [token_id for token_id in dict.fromkeys(token_ids) if token_id not in self._known]
        start, end = len(self._known), len(self._known) + len(new)
        if end > len(self._ids):
            self._ids = torch.cat((self._ids, torch.empty(end, dtype=torch.int64)))
        if new:
            self._ids[start:end] = torch.tensor(new)
            self._known.update(new)


@dataclass(frozen=True, slots=True)
class Ranked:
    """Some of the highest scores of a row, highest first, ties in id order."""

    ids: list[int]
    scores: list[float]


class Sampler:
    """Draws the next token of each row; ids from `size` on are padding and never drawn."""

    def __init__(self, size: int) -> None:
        self.size = size

    @torch.inference_mode()
    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[int | LogitsError]:
        """One token id per row of fp32 logits [R, V], or the error of that row alone.

        Grammar and penalty are written into the logits, which are of no use afterwards.
        """
        scores = logits[:, : self.size]
        for i, row in enumerate(rows):
            _restrict(scores[i], row)
        looks = [min(_look(row.params), self.size) for row in rows]
        values, ids = scores.topk(max(looks))
        found = zip(scores, rows, looks, ids.tolist(), values.tolist(), strict=True)
        return [_choose(score, row, Ranked(i[:look], v[:look])) for score, row, look, i, v in found]


def uniform(seed: int, stage: int, position: int) -> float:
    """A number in [0, 1), the same for the same key on every machine."""
    key = struct.pack("<Qqq", seed % 2**64, stage, position)
    return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def _look(params: SamplingParams) -> int:
    """One more than is kept, to see whether a tie reaches across the edge."""
    return 2 if params.temperature == 0 else (params.top_k or FIRST_LOOK) + 1


def _restrict(scores: Tensor, row: Row) -> None:
    """Applies the grammar and the repetition penalty to one row [V], in place."""
    if row.allowed is not None:
        scores.masked_fill_(~row.allowed[: len(scores)].to(scores.device), -math.inf)
    if row.seen is not None and row.params.repetition_penalty != 1:
        seen, penalty = row.seen.to(scores.device), row.params.repetition_penalty
        values = scores[seen]
        scores.scatter_(0, seen, torch.where(values > 0, values / penalty, values * penalty))


def _choose(scores: Tensor, row: Row, best: Ranked) -> int | LogitsError:
    params = row.params
    if not math.isfinite(best.scores[0]):
        return LogitsError("the model gave no usable logits for a token", "Check the weights with `doctor`.")
    if params.temperature == 0:
        return _leading(scores, best, 1).ids[0]
    draw = uniform(params.seed, row.stage, row.position)
    if not params.top_k and params.top_p == 1:
        return _draw_from_all(scores, params, draw)
    if params.top_k:
        return _draw_from(_leading(scores, best, params.top_k), params, draw)
    return _draw_from_nucleus(scores, best, params, draw)


def _leading(scores: Tensor, best: Ranked, count: int) -> Ranked:
    """The `count` highest. `best` decides unless a tie reaches across its end."""
    if count < len(best.ids) and best.scores[count - 1] == best.scores[-1]:
        values, ids = scores.sort(descending=True, stable=True)
        return Ranked(ids[:count].tolist(), values[:count].tolist())
    pairs = sorted(zip(best.scores, best.ids, strict=True), key=_by_score)[:count]
    return Ranked([token_id for _, token_id in pairs], [score for score, _ in pairs])


def _by_score(pair: tuple[float, int]) -> tuple[float, int]:
    return -pair[0], pair[1]


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
    whole = len(best.ids) == len(scores)
    first = _leading(scores, best, len(best.ids) - (not whole))
    total = float(torch.exp((scores.double() - first.scores[0]) / params.temperature).sum())
    weights = _weights(first, params.temperature)
    count, mass = _nucleus(weights, params, total)
    if whole or count < len(weights):
        return first.ids[_reach(weights, count, draw * mass)]
    return _draw_from_sorted(scores, params, draw, total)


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
