"""A model that says what it is told to: for tests of everything above the runtime."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.clinic.model import Finish, Piece, Stage, Task, Turn

PIECE = 7
"""Characters in a piece; each piece counts as one token."""


@dataclass(frozen=True)
class Script:
    """One task's output: reasoning, answer, and how the last stage ends."""

    answer: str
    reasoning: str = "thinking it over"
    finish: Finish = "stop"
    ends_in: Stage = "answer"


@dataclass
class ScriptedModel:
    """Plays one script for each task submitted, in order; the last one again for those beyond."""

    scripts: Sequence[Script]
    name: str = "scripted"
    demonstration: bool = False
    context: int = 8192
    provenance: dict[str, Any] = field(default_factory=lambda: {"weights": "0" * 64, "device": "cpu"})
    tasks: list[Task] = field(default_factory=list)
    aborted: list[int] = field(default_factory=list)
    tokens_per_turn: int = 300

    def __post_init__(self) -> None:
        self._queues: dict[int, deque[Piece]] = {}

    def count(self, turns: Sequence[Turn]) -> int:
        """A fixed number of tokens for each turn."""
        return self.tokens_per_turn * len(turns)

    def submit(self, task: Task) -> int:
        """Line up the pieces of the next script."""
        script = self.scripts[min(len(self.tasks), len(self.scripts) - 1)]
        self.tasks.append(task)
        number = len(self.tasks)
        self._queues[number] = deque(_pieces(number, task, script))
        return number

    def step(self) -> list[Piece]:
        """The next piece of every task in flight."""
        pieces = [queue.popleft() for queue in self._queues.values()]
        self._queues = {number: queue for number, queue in self._queues.items() if queue}
        return pieces

    def abort(self, task: int) -> None:
        """Forget a task."""
        self.aborted.append(task)
        self._queues.pop(task, None)

    def stats(self) -> dict[str, float | int | None]:
        """Nothing was measured."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""


def _pieces(number: int, task: Task, script: Script) -> Iterable[Piece]:
    """A stage is played only if the task has it: no reasoning with `text_tokens` 0."""
    if task.text_tokens:
        last = script.ends_in == "text"
        yield from _stage(number, "text", script.reasoning, script.finish if last else "stop", last, script.finish)
        if last:
            return
    yield from _stage(number, "answer", script.answer, script.finish, True, script.finish)


def _stage(number: int, stage: Stage, text: str, stage_finish: Finish, last: bool, finish: Finish) -> Iterable[Piece]:
    chunks = [text[i : i + PIECE] for i in range(0, len(text), PIECE)] or [""]
    for chunk in chunks[:-1]:
        yield Piece(number, stage, chunk, 1)
    yield Piece(number, stage, chunks[-1], 1, stage_finish, finish if last else None)


def diagnosis(name: str, **about: Any) -> dict[str, Any]:
    """One entry of a differential with everything filled in."""
    return {
        "name": name,
        "supporting": [{"fact_id": "F2", "why": "typical"}],
        "contradicting": [],
        "missing": ["serial readings"],
        "discriminating_test": "imaging",
        "cant_miss": False,
        "likelihood": "possible",
        "codes": [],
        **about,
    }


def answer(*differential: dict[str, Any], **about: Any) -> dict[str, Any]:
    """An answer with everything filled in; without diagnoses given, three that nothing is wrong with."""
    return {
        "summary": "A patient with a complaint.",
        "red_flags": [{"finding": "the complaint", "fact_ids": ["F2"], "concern": "serious cause"}],
        "differential": list(differential)
        or [diagnosis(name) for name in ("First disease", "Second disease", "Third disease")],
        "next_steps": [{"action": "take blood", "kind": "test", "timing": "now", "rationale": "to tell them apart"}],
        "missing_information": ["the time course"],
        "urgency_reason": "It may be serious.",
        "urgency": "soon",
        "confidence_reason": "Few facts.",
        "confidence": "low",
        **about,
    }


def model_saying(*answers: dict[str, Any] | str, **about: Any) -> ScriptedModel:
    """A model that gives these answers, one for each task."""
    texts = [a if isinstance(a, str) else json.dumps(a, ensure_ascii=False, separators=(",", ":")) for a in answers]
    return ScriptedModel([Script(text) for text in texts or [json.dumps(answer())]], **about)
