"""How many of the missing experts are fetched: a table measured at the start, and corrected by the steps taken."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import torch
from torch import Tensor

from runtime.experts.cost import CostTable
from runtime.experts.trials import Habits, Trials

# How many of m missing experts are fetched, for m from 0.
Split = tuple[int, ...]

MODES = ("auto", "paging", "host", "both")

# Times that each point of a table is measured.
REPEATS = 5

# Weights of fetching against computing in place are powers of this, from the table as it was measured.
WEIGHT = 1.5
MOST_WEIGHT = 8

# A change saves 4 %, and a bad way costs 1 % of the time at most before it is tried again.
HABITS = Habits(margin=0.04, abandon=1.4, share=0.01, drift=1.5)

# The share of the shortest step that the time without any miss is at most.
SHORTEST = 0.9


def fetch_of(costs: CostTable, most: int) -> Tensor:
    """How many of m missing experts to fetch: int32 [most + 1]."""
    return torch.tensor(_split(costs, most), dtype=torch.int32)


def _split(costs: CostTable, most: int) -> Split:
    return tuple(costs.fetched(missing) for missing in range(most + 1))


def measure(
    fetch: Callable[[int], float],
    in_place: Callable[[int], float],
    most: int,
    beside: Callable[[Callable[[], float], Callable[[], object]], float] | None = None,
) -> CostTable:
    """The times of up to `most` experts, each way while the other goes on all the time.

    `fetch(n)` fetches n experts, computes them on the device and waits; `in_place(n)` computes n on the host. Both
    return the seconds that it took, and either may be called in a thread of its own. `beside(timed, load)` runs `timed`
    while `load` is repeated.
    """
    side_by_side = beside or run_beside
    points = _points(most)

    def times(timed: Callable[[int], float], load: Callable[[int], float]) -> tuple[int, ...]:
        timed(1)
        seconds = [
            statistics.median(side_by_side(lambda n=n: timed(n), lambda: load(most)) for _ in range(REPEATS))  # type: ignore[misc]
            for n in points
        ]
        return _interpolated(points, seconds)

    return CostTable(fetch=times(fetch, in_place), in_place=times(in_place, fetch))


def run_beside(timed: Callable[[], float], load: Callable[[], object]) -> float:
    """What `timed` returns while another thread repeats `load`, which has begun and is waited for."""
    is_running, is_done = Event(), Event()

    def repeat() -> None:
        while not is_done.is_set():
            is_running.set()
            load()

    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(repeat)
        try:
            while not is_running.wait(0.1) and not loaded.done():
                pass
            return timed()
        finally:
            is_done.set()
            loaded.result()


def _points(most: int) -> list[int]:
    """1, 2, 4, ... and the last."""
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)}) if most else []


def _interpolated(points: list[int], seconds: list[float]) -> tuple[int, ...]:
    """Microseconds from 0 to the last point, along straight lines and never falling."""
    table, at, reached = [0], 0, 0.0
    for point, measured in zip(points, seconds, strict=True):
        above = max(reached, measured)
        table += [
            round(1e6 * (reached + (above - reached) * (n - at) / (point - at))) for n in range(at + 1, point + 1)
        ]
        at, reached = point, above
    return tuple(table)


class Correction:
    """The split in use, corrected by whole steps: "paging" fetches all, "host" none, "both" by a table of costs.

    In "auto" they are tried in turn, and so are other weights of fetching in "both"; the way that costs least for each
    miss is kept, and `announce` is told when the mode changes. `all_hit` is the seconds of a step without any miss, 0
    where that isn't known. Given the same times it decides the same.
    """

    def __init__(
        self,
        costs: CostTable,
        most: int,
        *,
        mode: str = "auto",
        all_hit: float = 0.0,
        announce: Callable[[str], None] = lambda said: None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode {mode} is none of {', '.join(MODES)}")
        self.mode, self.most = mode, most
        self._costs, self._announce = costs, announce
        self._paging: Split = tuple(range(most + 1))
        self._host: Split = (0,) * (most + 1)
        # A split that several weights give has the one nearest to 0.
        weights = sorted(range(-MOST_WEIGHT, MOST_WEIGHT + 1), key=abs, reverse=True)
        self._both = {weight: _split(self._weighted(weight), most) for weight in weights}
        self._weights = {split: weight for weight, split in self._both.items()}
        self._last_both = self._both[0]
        first = {"paging": self._paging, "host": self._host}.get(mode, self._last_both)
        self._trials = Trials(first, self._others, HABITS)
        self._all_hit = all_hit

    @property
    def split(self) -> Split:
        return self._trials.active

    @property
    def fetch_of(self) -> Tensor:
        """How many of m missing experts to fetch now: int32 [most + 1]."""
        return torch.tensor(self.split, dtype=torch.int32)

    @property
    def costs(self) -> CostTable:
        """The table with the weight that pays best in "both"."""
        return self._weighted(self._weights.get(self._last_both, 0))

    def __str__(self) -> str:
        return self.mode if self.mode != "auto" else f"auto ({self._name(self._trials.chosen)})"

    def step(self, fetched: int, in_place: int, seconds: float) -> bool:
        """A step took so long with so many experts fetched and computed in place. Whether the split changed."""
        if self.mode != "auto":
            return False
        # Never so long that what misses cost would vanish.
        self._all_hit = min(self._all_hit, SHORTEST * seconds)
        missing = fetched + in_place
        if not missing:
            return False
        active, chosen = self.split, self._trials.chosen
        self._trials.step((seconds - self._all_hit) / missing)
        if self._trials.chosen != chosen:
            self._adopt(chosen, self._trials.chosen)
        return self.split != active

    def _adopt(self, before: Split, after: Split) -> None:
        if after in self._weights:
            self._last_both = after
        if self._name(before) != self._name(after):
            old, new = (f"{1e3 * self._trials.median(split):.3f} ms" for split in (before, after))
            self._announce(
                f"missing experts: {self._name(after)} in place of {self._name(before)}, {new} each instead of {old}"
            )

    def _name(self, split: Split) -> str:
        return {self._paging: "paging", self._host: "host"}.get(split, "both")

    def _others(self, used: Split) -> list[Split]:
        """What may be better than the split in use: the other modes, and its neighbours."""
        near = self._neighbours(used) if used in self._weights else [self._last_both]
        return [way for way in dict.fromkeys([self._paging, self._host, *self._fitted(), *near]) if way != used]

    def _neighbours(self, used: Split) -> Iterator[Split]:
        """The nearest splits that weigh fetching more and less."""
        for direction in (1, -1):
            weights = range(self._weights[used] + direction, direction * (MOST_WEIGHT + 1), direction)
            yield from next(([way] for weight in weights if (way := self._both[weight]) != used), [])

    def _fitted(self) -> list[Split]:
        """Both, as the measured costs of the two modes weigh them."""
        paging, host = self._trials.median(self._paging), self._trials.median(self._host)
        fetch, in_place = self._costs.fetch[-1], self._costs.in_place[-1]
        if not (0 < paging < math.inf and 0 < host < math.inf and fetch and in_place):
            return []
        expected = fetch / (len(self._costs.fetch) - 1) * (len(self._costs.in_place) - 1) / in_place
        weight = round(math.log(paging / host / expected, WEIGHT))
        return [self._both[max(-MOST_WEIGHT, min(MOST_WEIGHT, weight))]]

    def _weighted(self, weight: int) -> CostTable:
        fetch = tuple(round(microseconds * WEIGHT**weight) for microseconds in self._costs.fetch)
        return CostTable(fetch, self._costs.in_place)
