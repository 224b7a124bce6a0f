"""A model that says one thing: what the tool makes of any answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.clinic.model import Piece, Task, Turn


@dataclass
class Saying:
    """Gives the same answer to every task, whole."""

    answer: str = field(repr=False)
    name: str = "saying"
    demonstration: bool = False
    context: int = 1 << 20
    provenance: dict[str, Any] = field(default_factory=lambda: {"weights": "0" * 64})
    waiting: list[int] = field(default_factory=list)
    given: int = 0

    def count(self, turns: Sequence[Turn]) -> int:
        """A token a character."""
        return sum(len(turn.content) for turn in turns)

    def submit(self, task: Task) -> int:
        """Take a task."""
        self.given += 1
        self.waiting.append(self.given)
        return self.given

    def step(self) -> list[Piece]:
        """The answer to every waiting task."""
        done, self.waiting = self.waiting, []
        return [Piece(task, "answer", self.answer, 1, "stop", "stop") for task in done]

    def abort(self, task: int) -> None:
        """Forget a task."""
        self.waiting = [other for other in self.waiting if other != task]

    def stats(self) -> dict[str, float | int | None]:
        """Nothing was measured."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""
