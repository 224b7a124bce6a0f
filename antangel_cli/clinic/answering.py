"""One sample of a case: at most two tries at an answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from antangel_cli.clinic.budget import Budget
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.model import Finish, Model, Piece, Sampling, Stage, Task, Turn
from antangel_cli.clinic.post_checks import unknown_facts
from antangel_cli.clinic.result import Differential, answer_schema

RETRY_SEED = 1000
"""Between the seeds of a first and a second try: further than that of any other sample's first one."""
TRIES = 2


@dataclass(frozen=True)
class Question:
    """What the model is asked: the same in every sample and every try. Times are those of `time.monotonic`."""

    turns: tuple[Turn, ...] = field(repr=False)
    facts: tuple[Fact, ...] = field(repr=False)
    budget: Budget
    max_dx: int
    started: float
    timeout_s: float | None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def time_left(self) -> float | None:
        """Seconds until the time runs out, at least 0; None when there is no limit."""
        return None if self.timeout_s is None else max(self.timeout_s - self.seconds, 0.0)

    def task(self, sampling: Sampling) -> Task:
        """The question as the model takes it."""
        schema = answer_schema([fact.id for fact in self.facts], self.max_dx)
        return Task(self.turns, sampling, self.budget.reasoning, schema, self.budget.answer, self.time_left)


@dataclass
class Attempt:
    """One try at a case: what its task has put out so far."""

    task: int
    sampling: Sampling
    stage: Stage
    reasoning: str = field(default="", repr=False)
    answer: str = field(default="", repr=False)
    tokens: dict[str, int] = field(default_factory=lambda: {"text": 0, "answer": 0})
    reasoning_finish: Finish | None = None
    first_s: float | None = None

    def take(self, piece: Piece, at_s: float) -> None:
        """Add a piece that came `at_s` seconds after the start."""
        self.stage = piece.stage
        self.tokens[piece.stage] += piece.tokens
        if piece.tokens and self.first_s is None:
            self.first_s = at_s
        if piece.stage == "answer":
            self.answer += piece.text
            return
        self.reasoning += piece.text
        self.reasoning_finish = piece.stage_finish or self.reasoning_finish


@dataclass(frozen=True)
class Failure:
    """Why there is no answer; `again` says whether a second try may help at once."""

    code: str
    message: str
    retryable: bool
    stage: str
    again: bool = False

    def to_json(self) -> dict[str, Any]:
        """As results carry it."""
        stage = {"text": "reasoning"}.get(self.stage, self.stage)
        return {"code": self.code, "message": self.message, "retryable": self.retryable, "stage": stage}


class Answering:
    """One sample on its way through the model. Construction submits its first task."""

    def __init__(self, question: Question, sampling: Sampling, model: Model) -> None:
        self._question = question
        self._sampling = sampling
        self._model = model
        self.answer: Differential | None = None
        self.failure: Failure | None = None
        self.attempts: list[Attempt] = []
        self._submit()

    @property
    def done(self) -> bool:
        """Whether there is an answer or no hope of one."""
        return self.answer is not None or self.failure is not None

    @property
    def last(self) -> Attempt:
        """The try that counts."""
        return self.attempts[-1]

    def feed(self, piece: Piece) -> None:
        """Take a piece; those of other tasks, and those that come too late, are ignored."""
        if self.done or piece.task != self.last.task:
            return
        self.last.take(piece, self._question.seconds)
        if piece.finish is not None:
            self._settle(piece.finish)

    def abort(self) -> None:
        """Stop the model's work on this sample."""
        if not self.done:
            self._model.abort(self.last.task)
            self.failure = Failure("aborted", "The run was stopped.", True, self.last.stage)

    def _submit(self) -> None:
        sampling = replace(self._sampling, seed=self._sampling.seed + RETRY_SEED * len(self.attempts))
        stage: Stage = "text" if self._question.budget.reasoning else "answer"
        self.attempts.append(Attempt(self._model.submit(self._question.task(sampling)), sampling, stage))

    def _settle(self, finish: Finish) -> None:
        failure = _failure(finish, self.last.stage) or self._read()
        if failure is not None and failure.again and len(self.attempts) < TRIES and self._question.time_left != 0.0:
            self._submit()
        else:
            self.failure = failure

    def _read(self) -> Failure | None:
        """Take the answer if it is one."""
        try:
            answer = Differential.model_validate_json(self.last.answer)
        except ValidationError:
            return Failure("bad_answer", "The model's answer is not of the form asked for.", True, "answer", again=True)
        if not _keeps_to(answer, self._question.facts, self._question.max_dx):
            return Failure("bad_answer", "The model's answer does not keep to the case.", True, "answer", again=True)
        self.answer = answer
        return None


def _keeps_to(answer: Differential, facts: Sequence[Fact], max_dx: int) -> bool:
    return 1 <= len(answer.differential) <= max_dx and not any(unknown_facts(answer, facts))


def _failure(finish: Finish, stage: Stage) -> Failure | None:
    """What a task's end means when it is not a proper one."""
    if finish == "stop":
        return None
    if finish == "length":
        return Failure("too_long_answer", "The answer did not end within its tokens.", True, stage, again=True)
    if finish == "timeout":
        return Failure("timeout", "The time ran out before an answer.", True, stage)
    if finish == "abort":
        return Failure("aborted", "The run was stopped.", True, stage)
    return Failure("generation_failed", "The model failed while generating.", True, stage, again=True)
