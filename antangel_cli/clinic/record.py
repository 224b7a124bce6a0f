"""The record of one case: the `antangel.ddx/1` envelope around checks, answer and provenance."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from antangel_cli.clinic.agreement import agreement
from antangel_cli.clinic.answering import Answering
from antangel_cli.clinic.checks.drugs.conflicts import answer_conflicts
from antangel_cli.clinic.checks.urgency import final_urgency, highest
from antangel_cli.clinic.dose import mark_doses, withhold_doses
from antangel_cli.clinic.dose_refusal import dose_refusal, refusal_remark
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.model import Model
from antangel_cli.clinic.notice import NOTICE
from antangel_cli.clinic.post_checks import Reviewed, review
from antangel_cli.clinic.provenance import run_provenance
from antangel_cli.clinic.result import SCHEMA_ID

if TYPE_CHECKING:
    from antangel_cli.clinic.diagnose import DiagnoseRun

_RAISED = (
    "urgency raised to {urgency}: another sample said so",
    "紧急程度上调为{urgency}：另一次采样如此判断",
)


@dataclass(frozen=True)
class Outcome:
    """What the samples came to: the answer that is shown, and those of all samples that have one, after review."""

    shown: Reviewed | None = field(repr=False)
    all: tuple[Reviewed, ...] = field(repr=False)

    @classmethod
    def of(cls, run: DiagnoseRun) -> Outcome:
        """Review every answer of a run."""
        reviewed = {i: _review(run, sample) for i, sample in enumerate(run.samples) if sample.answer is not None}
        return cls(reviewed.get(run.samples.index(run.shown)), tuple(reviewed.values()))

    @property
    def urgency(self) -> str | None:
        """The urgency of the shown answer."""
        return self.shown.answer.urgency if self.shown else None

    def raised_to(self, floor: str | None) -> str | None:
        """The highest urgency of any sample, where that is above the floor and the shown answer's."""
        known = highest([floor, self.urgency])
        top = highest([known, *(reviewed.answer.urgency for reviewed in self.all)])
        return None if top == known else top


def build_record(run: DiagnoseRun, model: Model) -> dict[str, Any]:
    """The whole envelope of a finished run."""
    chinese = run.case.chinese
    outcome = Outcome.of(run)
    raised = outcome.raised_to(run.checks.urgency_floor)
    reasons = _degraded(run, outcome)
    shown, failure = outcome.shown, run.shown.failure
    record: dict[str, Any] = {
        "schema": SCHEMA_ID,
        "id": run.case.id,
        "run_id": str(uuid.uuid4()),
        "status": _status(outcome, reasons, model.demonstration),
        "degraded": reasons,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "notice": NOTICE["zh" if chinese else "en"],
        "language": "zh" if chinese else "en",
        "facts": [_fact(fact) for fact in run.facts],
        "result": shown.answer.model_dump(mode="json") if shown else None,
        "checks": _checks(run, shown, raised),
        "urgency_final": raised or final_urgency(run.checks.urgency_floor, outcome.urgency),
        "agreement": _agreement(run, outcome),
        "provenance": run_provenance(run, model),
        "error": failure.to_json() if failure else None,
    }
    if run.options.reasoning == "show":
        shown_doses = mark_doses if _refused(run) is None else withhold_doses
        record["reasoning"] = shown_doses(run.shown.last.reasoning.strip(), chinese)
    return record


def _review(run: DiagnoseRun, sample: Answering) -> Reviewed:
    assert sample.answer is not None
    return review(sample.answer, run.facts, run.checks, run.case.chinese, _refused(run) is None)


def _refused(run: DiagnoseRun) -> str | None:
    """Why doses are withheld; None when they were asked for and may be shown."""
    return dose_refusal(run.case, run.facts) if run.options.doses else "not_asked"


def _fact(fact: Fact) -> dict[str, Any]:
    about = {"id": fact.id, "kind": fact.kind, "text": fact.text, "path": fact.path}
    return {**about, "absent": fact.absent, "source": fact.source}


def _status(outcome: Outcome, reasons: list[str], demonstration: bool) -> str:
    if outcome.shown is None:
        return "error"
    if demonstration:
        return "demonstration"
    return "degraded" if reasons else "ok"


def _degraded(run: DiagnoseRun, outcome: Outcome) -> list[str]:
    """Why less can be made of this result than of another, each reason once."""
    failures = [sample.failure.code for sample in run.samples if sample.failure is not None]
    reasons = [*run.checks.degraded]
    if len(run.shown.attempts) > 1:
        reasons.append("retry")
    if "timeout" in failures:
        reasons.append("timeout")
    if failures and run.options.samples > 1:
        reasons.append("samples_failed")
    return [*reasons, *(outcome.shown.degraded if outcome.shown else ())]


def _agreement(run: DiagnoseRun, outcome: Outcome) -> dict[str, Any] | None:
    if run.options.samples == 1 or outcome.shown is None:
        return None
    return agreement(run.options.samples, outcome.shown.answer, [reviewed.answer for reviewed in outcome.all])


def _checks(run: DiagnoseRun, reviewed: Reviewed | None, raised: str | None) -> dict[str, Any]:
    remarks = [*reviewed.remarks] if reviewed else []
    if raised is not None:
        message = _RAISED[run.case.chinese].format(urgency=raised)
        remarks.append({"check": "sample_urgency", "urgency": raised, "message": message})
    if run.options.doses and (refused := _refused(run)) is not None:
        remarks.append(refusal_remark(refused, run.case.chinese))
    found = run.checks.to_json()
    return {
        **found,
        **(_conflicts(run, reviewed, found) if reviewed else {}),
        "answer_remarks": remarks,
        "dropped_codes": [*reviewed.dropped_codes] if reviewed else [],
        "unverified_codes": [*reviewed.unverified_codes] if reviewed else [],
    }


def _conflicts(run: DiagnoseRun, reviewed: Reviewed, found: dict[str, Any]) -> dict[str, Any]:
    """Those of what the patient takes, then those of what the answer names."""
    allergy, pregnancy = answer_conflicts(reviewed.answer.model_dump(), run.case, run.facts)
    return {
        "allergy_conflicts": [*found["allergy_conflicts"], *allergy],
        "pregnancy_conflicts": [*found["pregnancy_conflicts"], *pregnancy],
    }
