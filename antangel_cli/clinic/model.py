"""What the clinic asks of a model: the seam between the clinical side and the runtime (filled by load/model.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str = field(repr=False)


@dataclass(frozen=True)
class Sampling:
    """How free text is sampled; the constrained answer is always greedy with penalty 1 (clinic.md)."""

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    repetition_penalty: float = 1.05
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """One request: free text of at most `text_tokens`, then, with a `schema`, a constrained answer.

    Without a schema the free text is the answer (chat, ask). With a schema and `text_tokens` 0 there is no reasoning.
    """

    turns: tuple[Turn, ...]
    sampling: Sampling
    text_tokens: int
    schema: dict[str, Any] | None = field(default=None, repr=False)
    answer_tokens: int = 4096
    timeout_s: float | None = None


Stage = Literal["text", "answer"]
Finish = Literal["stop", "length", "abort", "timeout", "error"]


@dataclass(slots=True)  # one a token: frozen ones take four times as long to make
class Piece:
    """A piece of one task's output. `finish` is set on the last piece of a task, `stage_finish` on a stage's last."""

    task: int
    stage: Stage
    text: str = field(repr=False)
    tokens: int
    stage_finish: Finish | None = None
    finish: Finish | None = None


READING = Piece(-1, "text", "", 0)
"""A piece of no task: a part of a prompt was read, and nothing was put out yet."""


@dataclass(frozen=True)
class Taken:
    """Tokens of a conversation that a file spares; else why it is not used. `useless`: it is so to every model."""

    tokens: int = 0
    refused: str = ""
    useless: bool = False


class Model(Protocol):
    """A loaded model: many tasks in flight, pulled one step at a time."""

    name: str
    demonstration: bool
    context: int
    provenance: dict[str, Any]

    def count(self, turns: Sequence[Turn]) -> int:
        """Tokens of the rendered conversation."""

    def submit(self, task: Task) -> int:
        """Enqueue a task and return its number."""

    def step(self) -> list[Piece]:
        """Advance every task in flight by at most one token; `READING` for none, empty with none in flight."""

    def abort(self, task: int) -> None:
        """Stop a task and free what it holds."""

    def write_computed(self, turns: Sequence[Turn], file: BinaryIO) -> int:
        """Write what is kept of a conversation's computation; the tokens it covers, 0 where nothing was written."""

    def read_computed(self, turns: Sequence[Turn], place: Path) -> Taken:
        """Take over what was written of a conversation, if it is of its beginning and of this model."""

    def stats(self) -> dict[str, float | int | None]:
        """Counters for `--stats`."""

    def close(self) -> None:
        """Let go of the model's memory and of its lock."""
