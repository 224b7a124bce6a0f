"""How many lines there will be, counted beside the work where the input is a file."""

from __future__ import annotations

import threading
from pathlib import Path

from antangel_cli.lines import Lines


class Total:
    """The number of lines of a file that are not blank; None until it is known, and where it cannot be."""

    def __init__(self, place: str | None, limit: int | None = None) -> None:
        self.count: int | None = None
        self._limit = limit
        if place is not None and Path(place).is_file():
            threading.Thread(target=self._count, args=(Path(place),), daemon=True).start()

    def _count(self, path: Path) -> None:
        try:
            with path.open("rb", buffering=0) as file:
                count = count_lines(Lines(file))
        except OSError:
            return
        self.count = count if self._limit is None else min(count, self._limit)


def count_lines(lines: Lines) -> int:
    """Read lines to their end."""
    count = 0
    while not lines.ended:
        line = lines.next(0)
        count += line is not None and not line.blank
    return count
