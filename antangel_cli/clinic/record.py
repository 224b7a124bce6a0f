"""The record of one case: the `antangel.ddx/1` envelope around checks, answer and provenance."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from antangel_cli.clinic.checks.urgency import final_urgency
from antangel_cli.clinic.dose import withhold_doses
from antangel_cli.clinic.model import Finish, Model, Piece, Sampling, Stage
from antangel_cli.clinic.notice import NOTICE
from antangel_cli.clinic.post_checks import Reviewed, review
from antangel_cli.clinic.provenance import input_hmac, sampling_record, tool
from antangel_cli.clinic.result import SCHEMA_ID, schema_hash
from antangel_cli.clinic.rules import rules_provenance

if TYPE_CHECKING:
    from antangel_cli.clinic.diagnose import DiagnoseRun


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


def build_record(run: DiagnoseRun, model: Model) -> dict[str, Any]:
    """The whole envelope of a finished run."""
    chinese = run.case.chinese
    reviewed = review(run.answer, run.facts, run.checks, chinese) if run.answer is not None else None
    reasons = _degraded(run, reviewed)
    answered = reviewed.answer.urgency if reviewed else None
    record: dict[str, Any] = {
        "schema": SCHEMA_ID,
        "id": run.case.id,
        "run_id": str(uuid.uuid4()),
        "status": _status(reviewed, reasons, model.demonstration),
        "degraded": reasons,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "notice": NOTICE["zh" if chinese else "en"],
        "language": "zh" if chinese else "en",
        "facts": [{"id": f.id, "kind": f.kind, "text": f.text, "path": f.path, "absent": f.absent} for f in run.facts],
        "result": reviewed.answer.model_dump(mode="json") if reviewed else None,
        "checks": _checks(run, reviewed),
        "urgency_final": final_urgency(run.checks.urgency_floor, answered),
        "agreement": None,
        "provenance": _provenance(run, model),
        "error": run.failure.to_json() if run.failure else None,
    }
    if run.options.reasoning == "show":
        record["reasoning"] = withhold_doses(run.attempts[-1].reasoning.strip(), chinese)
    return record


def _status(reviewed: Reviewed | None, reasons: list[str], demonstration: bool) -> str:
    if reviewed is None:
        return "error"
    if demonstration:
        return "demonstration"
    return "degraded" if reasons else "ok"


def _degraded(run: DiagnoseRun, reviewed: Reviewed | None) -> list[str]:
    reasons = [*run.checks.degraded]
    if len(run.attempts) > 1:
        reasons.append("retry")
    if run.failure is not None and run.failure.code == "timeout":
        reasons.append("timeout")
    return [*reasons, *(reviewed.degraded if reviewed else ())]


def _checks(run: DiagnoseRun, reviewed: Reviewed | None) -> dict[str, Any]:
    return {
        **run.checks.to_json(),
        "answer_remarks": [*reviewed.remarks] if reviewed else [],
        "dropped_codes": [*reviewed.dropped_codes] if reviewed else [],
        "unverified_codes": [*reviewed.unverified_codes] if reviewed else [],
    }


def _provenance(run: DiagnoseRun, model: Model) -> dict[str, Any]:
    last = run.attempts[-1]
    return {
        "tool": tool(),
        "model": {**model.provenance, "name": model.name, "demonstration": model.demonstration},
        "prompt": {"id": run.prompt.id, "version": run.prompt.version, "hash": run.prompt.hash},
        "schema": {"id": SCHEMA_ID, "hash": schema_hash(run.options.max_dx)},
        "rules": rules_provenance(),
        "sampling": sampling_record(last.sampling, run.budget.reasoning, run.budget.answer),
        "seed": run.options.sampling.seed,
        "attempts": len(run.attempts),
        "input_hmac": input_hmac(run.case),
        "tokens": {
            "prompt": run.budget.prompt,
            "reasoning": sum(attempt.tokens["text"] for attempt in run.attempts),
            "answer": sum(attempt.tokens["answer"] for attempt in run.attempts),
        },
        "reasoning_finish": last.reasoning_finish,
        "timings": {"total_s": round(run.seconds, 3), "first_token_s": _rounded(run.attempts[0].first_s)},
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
