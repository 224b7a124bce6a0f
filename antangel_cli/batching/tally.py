"""What came out of a batch: counted as it comes, said at the end."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

from antangel_cli.batching.work import Done
from antangel_cli.clinic.model import Model
from antangel_cli.errors import FAIL_ON, SOME_LINES_FAILED, GenerationError
from antangel_cli.urgency import reaches

SUMMARY_SCHEMA = "antangel.batch_summary/1"
TOO_LONG = "too_long"
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class Tally:
    """Lines by what came of them; `reused` are those that an earlier run had answered."""

    def __init__(self, fail_on: str | None = None) -> None:
        self.statuses: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.reused = 0
        self.skipped = 0
        self.tokens = 0
        self._fail_on = fail_on
        self._reached = False
        self._seconds = array("f")
        self._started = time.monotonic()

    @property
    def lines(self) -> int:
        """Lines that were dealt with."""
        return self.statuses.total() + self.skipped

    @property
    def failed(self) -> int:
        """Lines without a result."""
        return self.statuses["error"] + self.skipped

    @property
    def exit_code(self) -> int:
        """What the lines alone make of it."""
        if self.failed:
            return GenerationError.exit_code if self.failed == self.lines else SOME_LINES_FAILED
        return FAIL_ON if self._reached else 0

    def add(self, done: Done) -> None:
        """Count a line."""
        self.statuses[done.status] += 1
        self.reused += done.offset is not None
        if done.code is not None:
            self.codes[done.code] += 1
        if done.seconds is not None:
            self._seconds.append(done.seconds)
        self._reached |= done.status != "valid" and reaches(done.judged, self._fail_on)

    def skip(self) -> None:
        """Count a line that was too long to be read."""
        self.skipped += 1
        self.codes[TOO_LONG] += 1

    def summary(self, ended: str, exit_code: int, model: Model | None) -> dict[str, Any]:
        """All of it, for a program."""
        seconds = time.monotonic() - self._started
        new = self.lines - self.reused
        return {
            "schema": SUMMARY_SCHEMA,
            "ended": ended,
            "exit_code": exit_code,
            "model": None if model is None else {"name": model.name, "demonstration": model.demonstration},
            "lines": self.lines,
            "statuses": dict(sorted(self.statuses.items())),
            "reused": self.reused,
            "skipped": self.skipped,
            "failures": dict(sorted(self.codes.items())),
            "seconds": round(seconds, 3),
            "lines_per_minute": round(60 * new / seconds, 2) if seconds else None,
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens / seconds, 2) if seconds else None,
            "line_seconds": percentiles(self._seconds),
        }


def percentiles(values: array[float]) -> dict[str, float | None]:
    """The nearest-rank percentiles: the least value that so large a share of all does not exceed."""
    ranked = sorted(values)
    return {name: round(ranked[_rank(share, len(ranked))], 3) if ranked else None for name, share in SHARES.items()}


def _rank(share: float, count: int) -> int:
    return max(-int(-share * count // 1), 1) - 1


def headline(summary: Mapping[str, Any]) -> str:
    """The summary on one line."""
    parts = [f"{count} {status}" for status, count in summary["statuses"].items()]
    parts += [f"{summary['skipped']} skipped"] if summary["skipped"] else []
    reused = f", {summary['reused']} of them done before" if summary["reused"] else ""
    codes = ", ".join(f"{code} {count}" for code, count in summary["failures"].items())
    failures = f" (failures: {codes})" if codes else ""
    rate = f"{summary['lines_per_minute'] or 0:.1f} cases/min, {summary['tokens_per_second'] or 0:.1f} tokens/s"
    return f"{summary['lines']} lines: {', '.join(parts) or 'none'}{reused}{failures}; {rate}"


def table(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The summary as rows of a name and a value."""
    rows = [(status, str(count)) for status, count in summary["statuses"].items()]
    rows += [("skipped", str(summary["skipped"]))] if summary["skipped"] else []
    rows += [("done before", str(summary["reused"]))] if summary["reused"] else []
    rows += [(f"failed: {code}", str(count)) for code, count in summary["failures"].items()]
    times = summary["line_seconds"]
    if times["max"] is not None:
        rows += [(f"seconds a line, {name}", f"{value:.1f}") for name, value in times.items()]
    return rows
