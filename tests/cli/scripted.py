"""A model that says what a test tells it to, one word at a time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from antangel_cli.clinic.model import Finish, Piece, Stage, Taken, Task, Turn

Script = Callable[[Task], tuple[str, str | None]]
"""The free text and the answer of a task."""


class Scripted:
    """Fills `clinic.model.Model`. Each step gives one word, or the end, of every task in flight."""

    name = "scripted"

    def __init__(
        self,
        script: Script | None = None,
        *,
        demonstration: bool = False,
        context: int = 8192,
        finish: Finish = "stop",
    ) -> None:
        self.demonstration = demonstration
        self.context = context
        self.provenance: dict[str, Any] = {
            "name": self.name, "demonstration": demonstration, "weights": "0" * 64, "number_format": "none",
            "tokenizer": "1" * 64, "template": "2" * 64, "backend": "scripted", "device": "cpu",
        }  # fmt: skip
        self.tasks: list[Task] = []
        self.aborted: list[int] = []
        self.most_in_flight = 0
        self.closed = False
        self.on_step: Callable[[int], None] = lambda step: None
        self._script = script or answer_well
        self._finish: Finish = finish
        self._queues: dict[int, deque[Piece]] = {}
        self._steps = 0

    def count(self, turns: Sequence[Turn]) -> int:
        return sum(len(turn.content.split()) + 3 for turn in turns)

    def submit(self, task: Task) -> int:
        number = len(self.tasks)
        self.tasks.append(task)
        self._queues[number] = deque(self._pieces(number, task))
        self.most_in_flight = max(self.most_in_flight, len(self._queues))
        return number

    def step(self) -> list[Piece]:
        self._steps += 1
        self.on_step(self._steps)
        pieces = [queue.popleft() for queue in self._queues.values()]
        self._queues = {number: queue for number, queue in self._queues.items() if queue}
        return pieces

    def abort(self, task: int) -> None:
        self.aborted.append(task)
        self._queues.pop(task, None)

    def write_computed(self, turns: Sequence[Turn], file: BinaryIO) -> int:
        return 0

    def read_computed(self, turns: Sequence[Turn], place: Path) -> Taken:
        return Taken(refused="nothing was computed")

    def stats(self) -> dict[str, float | int | None]:
        return {"generated_tokens": self._steps, "decode_tok_s": 10.0}

    def close(self) -> None:
        self.closed = True

    def _pieces(self, number: int, task: Task) -> list[Piece]:
        text, answer = self._script(task)
        parts: list[tuple[Stage, str]] = [("text", word) for word in text.split(" ")] if task.text_tokens else []
        parts = [(stage, word if i == 0 else f" {word}") for i, (stage, word) in enumerate(parts)]
        if answer is not None and task.schema is not None:
            parts += [("answer", answer[i : i + 60]) for i in range(0, len(answer), 60)]
        pieces = [Piece(number, stage, part, 1) for stage, part in parts]
        return [*pieces, Piece(number, parts[-1][0], "", 0, self._finish, self._finish)]


def answer_well(task: Task) -> tuple[str, str | None]:
    """A reply to free text, or a sound answer that cites the first fact."""
    if task.schema is None:
        return f"You said **{task.turns[-1].content.split()[-1]}**.\n\nSee a clinician.", None
    return "The pain and the sweating fit.", json.dumps(answer_for(task.schema))


def answer_for(schema: dict[str, Any]) -> dict[str, Any]:
    evidence = schema["properties"]["differential"]["items"]["properties"]["supporting"]["items"]
    fact = evidence["properties"]["fact_id"]["enum"][0]

    def diagnosis(name: str, likelihood: str) -> dict[str, Any]:
        return {
            "name": name, "supporting": [{"fact_id": fact, "why": "It fits."}], "contradicting": [], "missing": ["troponin"],
            "discriminating_test": "ECG", "cant_miss": name == "Acute coronary syndrome", "likelihood": likelihood, "codes": [],
        }  # fmt: skip

    return {
        "summary": "Chest pain.",
        "red_flags": [],
        "differential": [
            diagnosis("Acute coronary syndrome", "likely"),
            diagnosis("Pulmonary embolism", "possible"),
            diagnosis("Musculoskeletal pain", "possible"),
        ],
        "next_steps": [{"action": "Do an ECG.", "kind": "test", "timing": "now", "rationale": "It decides."}],
        "missing_information": ["onset"],
        "urgency_reason": "It may be the heart.",
        "urgency": "urgent",
        "confidence_reason": "Little is known.",
        "confidence": "low",
    }
