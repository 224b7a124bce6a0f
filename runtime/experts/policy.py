"""What leaves a full cache: scores in an array, and pure functions of it, which a kernel could be too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.errors import OptionError

Scores = NDArray[np.float64]  # [rows, experts]
Indices = NDArray[np.int64]

# Stands for "cannot leave" where the lowest score is looked for.
NEVER = np.inf

# After how many times a model's reuse interval a use counts half.
HALF_LIFE = 2.0

# The part of the slots that what was used again may hold against what was used once.
PROTECTED = 0.8


@dataclass(frozen=True)
class Rhythm:
    """How often a model comes by an expert: what a policy must know of it."""

    layers: int  # with experts
    reuse: float  # forward passes from one use of an expert to the next, were all used alike

    @classmethod
    def of(cls, layers: int, experts: int, experts_per_token: int) -> Rhythm:
        """Of a model with so many experts in a layer."""
        return cls(layers, experts / experts_per_token)


class EvictionPolicy(Protocol):
    """Scores every expert of a model, resident or not: one that left may be remembered.

    Experts are numbered layer by layer. Time is counted in layer steps: it is higher by one at every layer of every
    forward pass, so that `now % layers` is the layer at work.
    """

    name: str
    rows: int  # of the scores; they start at 0

    def touch(self, scores: Scores, experts: Indices, now: int) -> None:
        """Changes the scores [rows, experts] for distinct experts that are used at `now`."""
        ...

    def left(self, scores: Scores, expert: int) -> None:
        """Changes the scores for an expert that has left the cache."""
        ...

    def victim(self, scores: Scores, pinned: NDArray[np.bool_], now: int) -> int:
        """The index of what leaves: the lowest score of those not pinned, ties by the lowest index.

        scores [rows, N] are those of the experts in the N slots, in order of slot. Not all are pinned.
        """
        ...


class LRU:
    """What was used the longest ago leaves."""

    name = "lru"
    rows = 1

    def touch(self, scores: Scores, experts: Indices, now: int) -> None:
        scores[0, experts] = now

    def left(self, scores: Scores, expert: int) -> None:
        pass

    def victim(self, scores: Scores, pinned: NDArray[np.bool_], now: int) -> int:
        return _lowest(scores[0], pinned)


class LFU:
    """What was used the least often leaves, where a use counts half after every HALF_LIFE reuse intervals.

    Instead of shrinking all counts, each use weighs more than those before it (forward decay: Cormode, Shkapenyuk,
    Srivastava and Xu, ICDE 2009). The score is the logarithm to base 2 of the sum, so that it never overflows.
    """

    name = "lfu"
    rows = 1

    def __init__(self, rhythm: Rhythm) -> None:
        self._half_life = HALF_LIFE * rhythm.reuse * rhythm.layers

    def touch(self, scores: Scores, experts: Indices, now: int) -> None:
        scores[0, experts] = np.logaddexp2(scores[0, experts], now / self._half_life)

    def left(self, scores: Scores, expert: int) -> None:
        pass

    def victim(self, scores: Scores, pinned: NDArray[np.bool_], now: int) -> int:
        return _lowest(scores[0], pinned)


class LFRU:
    """The lowest frequency over time since the last use leaves; the time counts one forward pass more.

    Frequency is that of LFU. The quotient is that of vLLM's expert cache (pull request 37190), where it never ages.
    """

    name = "lfru"
    rows = 2  # frequency, time of the last use

    def __init__(self, rhythm: Rhythm) -> None:
        self._layers = rhythm.layers
        self._frequency = LFU(rhythm)

    def touch(self, scores: Scores, experts: Indices, now: int) -> None:
        self._frequency.touch(scores, experts, now)
        scores[1, experts] = now

    def left(self, scores: Scores, expert: int) -> None:
        pass

    def victim(self, scores: Scores, pinned: NDArray[np.bool_], now: int) -> int:
        return _lowest(scores[0] - np.log2(now + self._layers - scores[1]), pinned)


class SLRU:
    """What was used only once since it came leaves, the longest unused first; once it came back it is protected.

    At most PROTECTED of the slots are (segmented LRU: Karedla, Love and Wherry, Computer 27(3), 1994): while more
    were used again, the longest unused of all leaves.
    """

    name = "slru"
    rows = 2  # time of the last use, uses since it came

    def touch(self, scores: Scores, experts: Indices, now: int) -> None:
        scores[0, experts] = now
        scores[1, experts] += 1

    def left(self, scores: Scores, expert: int) -> None:
        scores[1, expert] = 0

    def victim(self, scores: Scores, pinned: NDArray[np.bool_], now: int) -> int:
        protected = scores[1] > 1
        held = pinned | protected
        full = np.count_nonzero(protected) > PROTECTED * protected.size
        return _lowest(scores[0], pinned if full or held.all() else held)


class LeastStale:
    """What the present forward pass has not used leaves before what it has used (stale before current).

    Of the stale, those of layers that are done leave before those of layers ahead, which this pass may still need. Then
    what comes round the latest goes first, and of one layer the longest unused (after Hoang, Jaiswal, Samragh and Cho,
    SpecMD, arXiv 2602.03921, 2026).
    """

    name = "least-stale"
    rows = 2  # time of the last use, layer

    def __init__(self, rhythm: Rhythm) -> None:
        self._layers = rhythm.layers

    def touch(self, scores: Scores, experts: Indices, now: int) -> None:
        scores[0, experts] = now
        scores[1, experts] = now % self._layers

    def left(self, scores: Scores, expert: int) -> None:
        pass

    def victim(self, scores: Scores, pinned: NDArray[np.bool_], now: int) -> int:
        last, layer = scores
        here = now % self._layers
        free, stale = ~pinned, ~pinned & (last < now - here)
        order = last * (1 / (now + 1)) - layer
        leaving = next(some for some in (stale & (layer <= here), stale, free) if some.any())
        return _lowest(order, ~leaving)


def _lowest(scores: NDArray[np.float64], pinned: NDArray[np.bool_]) -> int:
    return int(np.where(pinned, NEVER, scores).argmin())


# By name, each made for a model's rhythm.
POLICIES: dict[str, Callable[[Rhythm], EvictionPolicy]] = {
    LRU.name: lambda rhythm: LRU(),
    LFU.name: LFU,
    LFRU.name: LFRU,
    SLRU.name: lambda rhythm: SLRU(),
    LeastStale.name: LeastStale,
}

# The one that wins on recorded traces: docs/paging.md.
DEFAULT = LFRU.name


def make_policy(name: str | None, rhythm: Rhythm) -> EvictionPolicy:
    """The policy of a name, the default for None. Raises OptionError for a name that is not in POLICIES."""
    chosen = name or DEFAULT
    if chosen not in POLICIES:
        raise OptionError(f"there is no policy {chosen!r}", f"Use one of {', '.join(POLICIES)}.")
    return POLICIES[chosen](rhythm)
