"""One case: checks, prompt, reasoning, constrained answer, post-checks, record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from antangel_cli.clinic.answering import Answering, Question
from antangel_cli.clinic.budget import plan_budget
from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks import facts_to_use, run_checks
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.model import Model, Piece, Sampling, Turn
from antangel_cli.clinic.prompt import case_message, load_prompt
from antangel_cli.clinic.record import build_record

MOST_SAMPLES = 16


@dataclass(frozen=True)
class DiagnoseOptions:
    """How one case is diagnosed; `lang` None is the case's own, `timeout_s` is for all samples and tries together.

    `input_format` and `redact` say how the case was read: they are recorded, and change nothing here.
    """

    sampling: Sampling = field(default_factory=Sampling)
    reasoning: Literal["show", "hide", "off"] = "hide"
    reasoning_tokens: int = 2048
    max_dx: int = 5
    lang: str | None = None
    timeout_s: float | None = None
    accept_implausible: bool = False
    samples: int = 1
    doses: bool = False
    input_format: str = "auto"
    redact: bool = False

    @property
    def alike(self) -> str | None:
        """The flag under which all samples would be the same, if there is one: sampling happens in the reasoning."""
        if self.reasoning == "off":
            return "--reasoning off"
        return "--temperature 0" if self.sampling.temperature == 0 else None


class DiagnoseRun:
    """One case on its way through the model. Feed it the pieces of its tasks until it is done.

    Construction checks the case, submits the first task of every sample (they share the prompt's keys and values),
    and raises InputError when the prompt is too long. It is `done` when every sample has an answer or no hope of one;
    `seconds` is the time until then.
    """

    def __init__(self, case: Case, options: DiagnoseOptions, model: Model) -> None:
        started = time.monotonic()
        self.case = case if options.lang is None else case.model_copy(update={"language": options.lang})
        self.options = options
        self._model = model
        self.facts = facts_to_use(self.case, options.accept_implausible)
        if not self.facts:
            raise InputError("The case states nothing.", "Give a complaint, findings or a narrative.")
        self.checks = run_checks(self.case, self.facts, options.accept_implausible)
        self.prompt = load_prompt("diagnose", self.case.chinese)
        self.question = self._ask(started)
        self.samples = tuple(
            Answering(self.question, replace(options.sampling, seed=options.sampling.seed + i), model)
            for i in range(options.samples)
        )
        self.seconds = 0.0
        self.done = False
        self._record: dict[str, Any] | None = None

    def _ask(self, started: float) -> Question:
        message = case_message(self.case, self.case.chinese, self.facts)
        turns = (Turn("system", self.prompt.system), Turn("user", message))
        reasoning = 0 if self.options.reasoning == "off" else self.options.reasoning_tokens
        budget = plan_budget(self._model.count(turns), self._model.context, reasoning)
        return Question(turns, self.facts, budget, self.options.max_dx, started, self.options.timeout_s)

    @property
    def tasks(self) -> tuple[int, ...]:
        """The numbers of the tasks submitted so far."""
        return tuple(attempt.task for sample in self.samples for attempt in sample.attempts)

    @property
    def shown(self) -> Answering:
        """The sample whose answer is the result: the first, or if it came to nothing, the next that did not."""
        return next((sample for sample in self.samples if sample.answer is not None), self.samples[0])

    def feed(self, piece: Piece) -> None:
        """Take a piece; those of other tasks are ignored."""
        if self.done:
            return
        for sample in self.samples:
            sample.feed(piece)
        self._note()

    def abort(self) -> None:
        """Stop the model's work on this case."""
        if self.done:
            return
        for sample in self.samples:
            sample.abort()
        self._note()

    def _note(self) -> None:
        self.done = all(sample.done for sample in self.samples)
        self.seconds = self.question.seconds

    def record(self) -> dict[str, Any]:
        """The whole `antangel.ddx/1` envelope; the same one at every call."""
        if not self.done:
            raise RuntimeError("the run is not done: feed it until `done`")
        if self._record is None:
            self._record = build_record(self, self._model)
        return self._record


def diagnose(
    case: Case, options: DiagnoseOptions, model: Model, on_piece: Callable[[Piece], None] | None = None
) -> dict[str, Any]:
    """Diagnose one case to its end and return its record. Raises InputError."""
    return finish(DiagnoseRun(case, options, model), model, on_piece)


def finish(run: DiagnoseRun, model: Model, on_piece: Callable[[Piece], None] | None = None) -> dict[str, Any]:
    """Step the model until a run is done, and return its record."""
    while not run.done:
        pieces = model.step()
        if not pieces:
            raise RuntimeError("the model stopped before its task ended")
        for piece in pieces:
            run.feed(piece)
            if on_piece is not None and piece.task in run.tasks:
                on_piece(piece)
    return run.record()
