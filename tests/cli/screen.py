"""A terminal emulator to print into: what a person sees, scrolled-off lines included."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest

SCREENS = Path(__file__).parent / "screens"
SIZES = ((80, 24), (120, 40))
RENEW = bool(os.environ.get("ANTANGEL_RENEW_PAGES"))


class Screen(io.StringIO):
    """A stream that is a terminal of a size."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self._screen = pyte.HistoryScreen(columns, rows, history=100_000)
        self._screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.Stream(self._screen)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        super().write(text)  # refuses bytes, which is how it is told apart from a binary stream
        self._stream.feed(text)
        return len(text)

    @property
    def lines(self) -> list[str]:
        """Every line, those that scrolled off first; wide characters take their second cell with them."""
        columns = range(self._screen.columns)
        gone = ["".join(row[column].data for column in columns) for row in self._screen.history.top]
        return [line.rstrip() for line in (*gone, *self._screen.display)]

    @property
    def text(self) -> str:
        """All of it, without the empty rows at the end."""
        return "\n".join(self.lines).rstrip("\n") + "\n"


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int, rows: int) -> Screen:
    """Make stdout and stderr one terminal of this size."""
    screen = Screen(columns, rows)
    for name, value in (("COLUMNS", str(columns)), ("LINES", str(rows)), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def same_as_kept(name: str, text: str, redact: Callable[[str], str] = str) -> None:
    """Compare with the kept screen; ANTANGEL_RENEW_PAGES=1 keeps this one instead."""
    kept = SCREENS / f"{name}.txt"
    if RENEW:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(redact(text), encoding="utf-8")
    assert redact(text) == kept.read_text(encoding="utf-8"), f"changed: {kept}; ANTANGEL_RENEW_PAGES=1 renews it"
