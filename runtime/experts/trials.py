"""Of several ways to do the same the one that is measured to cost least, found by trying them in turn."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Way = TypeVar("Way", bound=Hashable)

# Steps of a trial, of which the first few still feel the way before; and steps until a way is tried again.
TRIAL = 12
SETTLING = 3
HOLD = 240

# Steps that count after which a trial may be given up, and the length of one that is close, as is what is remembered.
ENOUGH = 3
LONG_TRIAL = 3 * TRIAL


@dataclass(frozen=True)
class Habits:
    """How much a change must save, and what trials may cost.

    A way replaces the one in use if it costs less than `1 - margin` of that; where it hardly does, a trial lasts longer
    before it is believed. A trial ends early where it costs more than `abandon` times as much, and what a trial wasted
    is at most `share` of all that is spent before the next one of that way. All ways are tried anew when the one in use
    costs `drift` times what it did when it was chosen.
    """

    margin: float = 0.0
    abandon: float = float("inf")
    share: float = float("inf")
    drift: float = float("inf")


class Trials(Generic[Way]):
    """The way in use, and the others that are tried: those that `others` lists, of equals the one that it prefers."""

    def __init__(
        self,
        first: Way,
        others: Callable[[Way], Sequence[Way]],
        habits: Habits = Habits(),
        prefers: Callable[[Way, Way], bool] = lambda tried, used: False,
    ) -> None:
        self.active = first
        self.chosen = first
        self._others, self._habits, self._prefers = others, habits, prefers
        self._recent: dict[Way, deque[float]] = {}
        self._due: dict[Way, int] = {}
        self._now = 0
        self._since = 0
        self._reference = 0.0
        self._begin(first)

    def step(self, cost: float) -> None:
        """A step in the way `active` had this cost."""
        self._now += 1
        self._since += 1
        if self._since > SETTLING:
            self._recent[self.active].append(cost)
        if self.active != self.chosen:
            self._step_of_trial()
        elif self._since >= TRIAL and not self._notices_drift():
            self._try_next()

    def median(self, way: Way) -> float:
        """What a way costs by its last trial or use, infinity where it never had one."""
        recent = self._recent.get(way)
        return statistics.median(recent) if recent else float("inf")

    def _begin(self, way: Way) -> None:
        # A way is tried on its own figures, not on those of long ago.
        self._recent[way] = deque(maxlen=LONG_TRIAL)
        self.active, self._since = way, 0

    def _step_of_trial(self) -> None:
        tried, used = self.median(self.active), self.median(self.chosen)
        hopeless = self._since >= SETTLING + ENOUGH and tried > self._habits.abandon * used
        if self._since < TRIAL and not hopeless:
            return
        wanted = used * (1 - self._habits.margin)
        is_close = used * (1 - 3 * self._habits.margin) < tried < wanted
        if is_close and self._since < LONG_TRIAL:
            return
        wins = tried < wanted or (tried == wanted and self._prefers(self.active, self.chosen))
        loser = self.chosen if wins else self.active
        self._due[loser] = self._now + self._hold(abs(tried - used) * self._since, min(tried, used))
        self._settle(self.active if wins else self.chosen)

    def _hold(self, excess: float, usual: float) -> int:
        """Steps until what a trial wasted is a small share of what they cost."""
        allowed = self._habits.share * usual
        return max(HOLD, min(100 * HOLD, int(excess / allowed))) if allowed > 0 else HOLD

    def _settle(self, way: Way) -> None:
        if way != self.chosen:
            self.chosen = way
            self._reference = self.median(way)
        self.active, self._since = way, 0

    def _notices_drift(self) -> bool:
        """Whether the way in use is to be measured anew, and then the others: it costs more than when it was chosen."""
        if self._since % TRIAL:
            return False
        usual = statistics.median(list(self._recent[self.chosen])[-TRIAL:])
        if self._reference and usual > self._habits.drift * self._reference:
            self._reference = 0.0
            self._due.clear()
            self._begin(self.chosen)
            return True
        if not self._reference or usual * self._habits.drift < self._reference:
            self._reference = usual
        return False

    def _try_next(self) -> None:
        candidates = [way for way in self._others(self.chosen) if self._due.get(way, 0) <= self._now]
        if candidates:
            self._begin(min(candidates, key=lambda way: self._due.get(way, 0)))
