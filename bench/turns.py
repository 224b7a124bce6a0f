"""Rounds in which every contender runs every measure, one at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bench.worker import Worker

# After each turn: longer than OpenMP's threads go on spinning.
PAUSE_S = 0.3


class Turns:
    """Lets one worker compute at a time, and notes what the others used meanwhile.

    `contenders` are the workers of each measure. All of `workers` must sleep while one runs.
    """

    def __init__(self, workers: Sequence[Worker], contenders: Mapping[str, Sequence[Worker]]) -> None:
        self._workers = workers
        self._contenders = contenders
        self.cores_used_waiting = 0.0

    def round(self, measure: str, number: int) -> dict[str, list[float]]:
        """Every contender once, each round beginning with the next; what each answered."""
        contenders = self._contenders[measure]
        first = number % len(contenders)
        return {
            worker.name: self._run(worker, measure, number + 1)
            for worker in (*contenders[first:], *contenders[:first])
        }  # fmt: skip

    def _run(self, worker: Worker, measure: str, seed: int) -> list[float]:
        time.sleep(PAUSE_S)
        others = [other for other in self._workers if other is not worker]
        before, started = _cpu_seconds(others), time.perf_counter()
        answer = worker.ask(measure, seed)
        used = (_cpu_seconds(others) - before) / (time.perf_counter() - started)
        self.cores_used_waiting = max(self.cores_used_waiting, used)
        return answer


def _cpu_seconds(workers: Sequence[Worker]) -> float:
    return sum(worker.cpu_seconds() for worker in workers)
