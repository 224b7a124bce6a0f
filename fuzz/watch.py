"""What must hold for every input, and what is kept when it does not."""

from __future__ import annotations

import signal
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

SECONDS = 2.0
"""Processor time that an input of at most 64 KiB may take; one that is larger may take more in proportion."""
BIG = 64 << 10
"""Bytes from which on memory is measured: below, what Python itself needs would be all that is seen."""
TRACED = 20
"""How much longer it may take while its memory is traced."""
TIMES, FLOOR = 10, 32 << 20
"""An input may take so many times its size, or the floor where that is more."""

Run = Callable[[bytes], None]


class TooSlow(BaseException):
    """Took more than its time. No Exception, so that nothing swallows it."""


class PropertyError(AssertionError):
    """Something that has to hold does not: its name says what."""


@dataclass
class Finding:
    """One kind of failure: where, and the smallest input that showed it."""

    target: str
    what: str
    where: str
    data: bytes = field(repr=False)
    times: int = 1

    def to_json(self) -> dict[str, Any]:
        """Without the input, which is kept in a file of its own."""
        return {
            "target": self.target,
            "what": self.what,
            "where": self.where,
            "times": self.times,
            "bytes": len(self.data),
        }


@dataclass
class Watch:
    """Runs inputs, counts them, and keeps what failed, by kind and place."""

    inputs: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)

    def run(self, target: str, run: Run, data: bytes) -> None:
        """Run one input."""
        self.inputs[target] += 1
        started = time.process_time()
        try:
            with _in_time(_seconds(data)):
                run(data)
            if len(data) >= BIG:
                with _in_time(_seconds(data) * TRACED):
                    self._measure(target, run, data)
        except (Exception, TooSlow) as error:
            self._keep(target, error, data)
        took = time.process_time() - started
        self.seconds[target] += took
        self.slowest[target] = max(took, self.slowest.get(target, 0.0))
        self.largest[target] = max(len(data), self.largest.get(target, 0))

    def _measure(self, target: str, run: Run, data: bytes) -> None:
        """What an input takes in memory at its height, in times its size. Raises PropertyError where it is too much."""
        peak = traced_peak(run, data)
        self.memory[target] = max(peak / len(data), self.memory.get(target, 0.0))
        if peak > max(TIMES * len(data), FLOOR):
            raise PropertyError(f"{peak / len(data):.0f} times the input in memory")

    def _keep(self, target: str, error: BaseException, data: bytes) -> None:
        what = type(error).__name__ + (f": {error}" if isinstance(error, PropertyError) else "")
        where = _place(error)
        known = self.findings.setdefault((target, what.split(":")[0], where), Finding(target, what, where, data, 0))
        known.times += 1
        if len(data) < len(known.data):
            known.data = data


def _seconds(data: bytes) -> float:
    return SECONDS * max(len(data) / BIG, 1)


def _place(error: BaseException) -> str:
    """The last line of our own that an error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/antangel_cli/" in f.filename] or frames
    name = ours[-1].filename.rpartition("antangel_cli/")[2]
    return f"{name}:{ours[-1].lineno} {ours[-1].name}"


@contextmanager
def _in_time(seconds: float) -> Iterator[None]:
    def late(_: int, __: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def traced_peak(run: Run, data: bytes) -> int:
    """The most bytes that Python held at once for an input."""
    tracemalloc.start()
    try:
        run(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
