"""Fetch a missing expert, or compute it where it lies: a choice between two tables of measured times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CostTable:
    """Microseconds to fetch n experts and then compute them, and to compute n where they lie; both at once, n from 0.

    The two run side by side and draw on the same memory, so they are measured under contention.
    """

    fetch: tuple[int, ...]
    in_place: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, times in vars(self).items():
            if not times or times[0] != 0 or list(times) != sorted(times):
                raise ValueError(f"{name} times {times} must start with 0 and never fall")

    def fetched(self, missing: int) -> int:
        """How many of the missing to fetch, so that all are done soonest; of equals the fewest."""
        return min(range(missing + 1), key=lambda n: max(_at(self.fetch, n), _at(self.in_place, missing - n)))


def _at(times: tuple[int, ...], count: int) -> float:
    """Behind its end a table goes on as it did on average."""
    last = len(times) - 1
    if count <= last:
        return times[count]
    return times[last] * count / last if last else float("inf")
