"""Whether reads are guessed ahead: on while steps are measured to be shorter with it."""

from __future__ import annotations

from runtime.experts.trials import HOLD, TRIAL, Trials

__all__ = ["HOLD", "TRIAL", "Lookahead"]


class Lookahead:
    """The mode of guessing: "on", "off", or "auto", which tries both in turn and keeps the faster one."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        # Of equals it guesses not.
        self._trials = Trials(mode != "off", lambda guessing: [not guessing], prefers=lambda tried, used: used)

    @property
    def active(self) -> bool:
        return self._trials.active

    def __str__(self) -> str:
        return self.mode if self.mode != "auto" else f"auto ({'on' if self.active else 'off'})"

    def step(self, seconds: float) -> None:
        """A decode step took so long in the present mode."""
        if self.mode == "auto":
            self._trials.step(seconds)
