"""One case: checks, prompt, reasoning, constrained answer, post-checks, record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import ValidationError

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks import facts_to_use, run_checks
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.model import Finish, Model, Piece, Sampling, Stage, Task, Turn
from antangel_cli.clinic.post_checks import unknown_facts
from antangel_cli.clinic.prompt import case_message, load_prompt
from antangel_cli.clinic.record import Attempt, Failure, build_record
from antangel_cli.clinic.result import Differential, answer_schema

ANSWER_TOKENS = 4096
FEWEST_ANSWER_TOKENS = 768
"""An answer with three diagnoses does not fit in less."""
FORCED_TOKENS = 32
"""Room for what surrounds the reasoning."""
RETRY_SEED = 1000
TRIES = 2


@dataclass(frozen=True)
class DiagnoseOptions:
    """How one case is diagnosed; `lang` None is the case's own, `timeout_s` is for both tries together."""

    sampling: Sampling = field(default_factory=Sampling)
    reasoning: Literal["show", "hide", "off"] = "hide"
    reasoning_tokens: int = 2048
    max_dx: int = 5
    lang: str | None = None
    timeout_s: float | None = None
    accept_implausible: bool = False
    samples: int = 1
    doses: bool = False


@dataclass(frozen=True)
class Budget:
    """Tokens of one try: the prompt's, and at most so many of reasoning and answer."""

    prompt: int
    reasoning: int
    answer: int


class DiagnoseRun:
    """One case on its way through the model. Feed it the pieces of its tasks until it is done.

    Construction checks the case, submits the first task, and raises InputError when the prompt is too long.
    """

    def __init__(self, case: Case, options: DiagnoseOptions, model: Model) -> None:
        self._started = time.monotonic()
        self.case = case if options.lang is None else case.model_copy(update={"language": options.lang})
        self.options = options
        self._model = model
        self.facts = facts_to_use(self.case, options.accept_implausible)
        if not self.facts:
            raise InputError("The case states nothing.", "Give a complaint, findings or a narrative.")
        self.checks = run_checks(self.case, self.facts, options.accept_implausible)
        self.prompt = load_prompt("diagnose", self.case.chinese)
        self._turns = (
            Turn("system", self.prompt.system),
            Turn("user", case_message(self.case, self.case.chinese, self.facts)),
        )
        self.budget = plan_budget(model.count(self._turns), model.context, options)
        self.schema = answer_schema([fact.id for fact in self.facts], options.max_dx)
        self.answer: Differential | None = None
        self.failure: Failure | None = None
        self.attempts: list[Attempt] = []
        self.seconds = 0.0
        self._record: dict[str, Any] | None = None
        self._submit()

    @property
    def tasks(self) -> tuple[int, ...]:
        """The numbers of the tasks submitted so far."""
        return tuple(attempt.task for attempt in self.attempts)

    @property
    def done(self) -> bool:
        """Whether there is an answer or no hope of one."""
        return self.answer is not None or self.failure is not None

    def feed(self, piece: Piece) -> None:
        """Take a piece; those of other tasks are ignored."""
        attempt = self.attempts[-1]
        if self.done or piece.task != attempt.task:
            return
        attempt.take(piece, time.monotonic() - self._started)
        if piece.finish is not None:
            self._settle(attempt, piece.finish)

    def abort(self) -> None:
        """Stop the model's work on this case."""
        if not self.done:
            self._model.abort(self.attempts[-1].task)
            self._fail(Failure("aborted", "The run was stopped.", True, self.attempts[-1].stage))

    def record(self) -> dict[str, Any]:
        """The whole `antangel.ddx/1` envelope; the same one at every call."""
        if not self.done:
            raise RuntimeError("the run is not done: feed it until `done`")
        if self._record is None:
            self._record = build_record(self, self._model)
        return self._record

    def _submit(self) -> None:
        again = len(self.attempts)
        sampling = replace(self.options.sampling, seed=self.options.sampling.seed + RETRY_SEED * again)
        task = Task(self._turns, sampling, self.budget.reasoning, self.schema, self.budget.answer, self._time_left())
        stage: Stage = "text" if self.budget.reasoning else "answer"
        self.attempts.append(Attempt(self._model.submit(task), sampling, stage))

    def _time_left(self) -> float | None:
        limit = self.options.timeout_s
        return None if limit is None else max(limit - (time.monotonic() - self._started), 0.0)

    def _settle(self, attempt: Attempt, finish: Finish) -> None:
        failure = _failure(finish, attempt.stage) or self._read(attempt)
        if failure is None:
            self.seconds = time.monotonic() - self._started
        elif failure.again and len(self.attempts) < TRIES and self._time_left() != 0.0:
            self._submit()
        else:
            self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self.seconds = time.monotonic() - self._started

    def _read(self, attempt: Attempt) -> Failure | None:
        """Take the answer if it is one."""
        try:
            answer = Differential.model_validate_json(attempt.answer)
        except ValidationError:
            return Failure("bad_answer", "The model's answer is not of the form asked for.", True, "answer", again=True)
        if not 1 <= len(answer.differential) <= self.options.max_dx or any(unknown_facts(answer, self.facts)):
            return Failure("bad_answer", "The model's answer does not keep to the case.", True, "answer", again=True)
        self.answer = answer
        return None


def diagnose(
    case: Case, options: DiagnoseOptions, model: Model, on_piece: Callable[[Piece], None] | None = None
) -> dict[str, Any]:
    """Diagnose one case to its end and return its record. Raises InputError."""
    run = DiagnoseRun(case, options, model)
    while not run.done:
        pieces = model.step()
        if not pieces:
            raise RuntimeError("the model stopped before its task ended")
        for piece in pieces:
            run.feed(piece)
            if on_piece is not None and piece.task in run.tasks:
                on_piece(piece)
    return run.record()


def plan_budget(prompt: int, context: int, options: DiagnoseOptions) -> Budget:
    """Share the context out: the prompt whole, then reasoning and answer.

    Raises InputError with the counts when prompt and a short answer do not fit; a prompt is never cut.
    """
    left = context - prompt - FORCED_TOKENS
    if left < FEWEST_ANSWER_TOKENS:
        raise InputError(
            f"The case makes {prompt} tokens; with {FEWEST_ANSWER_TOKENS + FORCED_TOKENS} for an answer, "
            f"{prompt + FEWEST_ANSWER_TOKENS + FORCED_TOKENS} are needed and {context} fit.",
            f"Shorten it by {FEWEST_ANSWER_TOKENS - left} tokens, or raise --context if the model allows it.",
        )
    wanted = 0 if options.reasoning == "off" else options.reasoning_tokens
    answer = min(ANSWER_TOKENS, max(FEWEST_ANSWER_TOKENS, left // 2, left - wanted))
    return Budget(prompt, min(wanted, left - answer), answer)


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
