"""Progress on stderr: a bar on a terminal, a line now and then elsewhere. rich is imported when needed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

Unit = Literal["bytes", "cases", "curves", "tokens"]
Advance = Callable[[int, int | None], None]
"""Tells a meter how much is done, of how much (None: unknown)."""

LINE_EVERY_S = 30.0
SLOW_PERIOD_S = 600.0
"""A case may take minutes: its rate is that of so long a time."""


@contextlib.contextmanager
def bar(console: Console, label: str, unit: Unit) -> Iterator[Advance]:
    """A bar that goes when it is done."""
    from rich.progress import Progress

    period = SLOW_PERIOD_S if unit == "cases" else LINE_EVERY_S
    with Progress(*_columns(unit), console=console, transient=True, speed_estimate_period=period) as progress:
        row = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(row, completed=done, total=total)


def _columns(unit: Unit) -> list[ProgressColumn]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    label = TextColumn("{task.description}", markup=False)
    if unit == "tokens":
        return [SpinnerColumn(), label, TextColumn("{task.completed} tokens"), TimeElapsedColumn()]
    if unit == "bytes":
        return [label, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
    if unit == "cases":
        return [label, BarColumn(), MofNCompleteColumn(), _rate_column(), TimeElapsedColumn(), TimeRemainingColumn()]
    return [label, BarColumn(), TextColumn(f"{{task.completed}} {unit}"), TimeElapsedColumn()]


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_rate(task.finished_speed or task.speed))

    return Rate()


def _rate(per_second: float | None) -> str:
    return f"{60 * per_second:.1f}/min" if per_second else ""


def _left(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


class LineMeter:
    """Progress where a bar would only fill a log."""

    def __init__(self, note: Callable[[str], None], label: str, unit: Unit) -> None:
        self._note = note
        self._label = label
        self._unit = unit
        self._last = time.monotonic()
        self._done = 0

    def __call__(self, done: int, total: int | None) -> None:
        seconds = time.monotonic() - self._last
        if seconds < LINE_EVERY_S:
            return
        rate = (done - self._done) / seconds
        self._last, self._done = time.monotonic(), done
        parts = [f"{self._label}: {done}{f' of {total}' if total else ''} {self._unit}", _rate(rate)]
        if total and rate:
            parts.append(f"about {_left((total - done) / rate)} left")
        self._note(", ".join(part for part in parts if part))
