"""Whether reads are guessed ahead: on while steps are measured to be shorter with it."""

from __future__ import annotations

import statistics
from collections import deque

# Steps of a trial, of which the first few still feel the mode before; and steps until the other mode is tried again.
TRIAL = 12
SETTLING = 3
HOLD = 240


class Lookahead:
    """The mode of guessing: "on", "off", or "auto", which tries both in turn and keeps the faster one."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.active = mode != "off"
        self._recent: dict[bool, deque[float]] = {state: deque(maxlen=TRIAL) for state in (True, False)}
        self._steps_left = TRIAL
        self._on_trial = True

    def __str__(self) -> str:
        return self.mode if self.mode != "auto" else f"auto ({'on' if self.active else 'off'})"

    def step(self, seconds: float) -> None:
        """A decode step took so long in the present mode."""
        if self.mode != "auto":
            return
        if self._steps_left <= TRIAL - SETTLING:
            self._recent[self.active].append(seconds)
        self._steps_left -= 1
        if self._steps_left == 0:
            self._next_phase()

    def _next_phase(self) -> None:
        other = not self.active
        if self._on_trial and self._recent[other]:
            self.active = self._median(True) < self._median(False)
            self._on_trial, self._steps_left = False, HOLD
            return
        # The other mode is tried on its own figures, not on those of long ago.
        self._recent[other].clear()
        self.active, self._on_trial, self._steps_left = other, True, TRIAL

    def _median(self, state: bool) -> float:
        return statistics.median(self._recent[state])
