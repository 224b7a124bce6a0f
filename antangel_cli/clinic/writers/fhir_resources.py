"""The FHIR R4 resources of a result, each with the name its address is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.clinic.notice import DEMONSTRATION, NOTICE
from antangel_cli.clinic.rules import rules_status
from antangel_cli.clinic.writers.vitals import vitals_lines
from antangel_cli.clinic.writers.words import VALUES, WORDS

Resource = dict[str, Any]
Named = tuple[str, Resource]

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
ICD_10_CM = "http://hl7.org/fhir/sid/icd-10-cm"

_RISK = {"very_likely": "high", "likely": "high", "possible": "moderate", "unlikely": "low"}
"""The nearest codes of risk-probability; the band's own words stand beside them."""
_PRIORITY = {"now": "stat", "today": "urgent", "days": "routine", "weeks": "routine", "if_worse": "routine"}
_SEVERITY = {"emergency": "high", "urgent": "moderate", "soon": "low"}
_ISSUE = {"timeout": "timeout", "aborted": "incomplete", "too_long_answer": "too-long"}


@dataclass(frozen=True)
class Told:
    """A record on its way into FHIR. `subject` is the input's Patient reference; `address` makes a name a URN."""

    record: dict[str, Any] = field(repr=False)
    subject: str | None = field(repr=False)
    chinese: bool
    address: Callable[[str], str] = field(repr=False)

    @property
    def patient(self) -> Resource:
        """Who it is about: a reference where the input had one, else a text that names the case."""
        if self.subject:
            return {"reference": self.subject}
        return {"display": f"{WORDS['case'][self.chinese]} {self.record['id']}"}

    def value(self, key: str) -> str:
        """A label in words."""
        return VALUES[key][self.chinese] if key in VALUES else key

    def word(self, key: str) -> str:
        """A word of the page."""
        return WORDS[key][self.chinese]

    def fact(self, fact_id: str, why: str = "") -> Resource:
        """A fact as a concept that is text alone."""
        text = next((f["text"] for f in self.record["facts"] if f["id"] == fact_id), "")
        return {"text": f"{text} ({fact_id}){f': {why}' if why else ''}".strip()}

    def reference(self, name: str) -> Resource:
        """A reference to another resource of the Bundle."""
        return {"reference": self.address(name)}


def resources(told: Told) -> Iterator[Named]:
    """Every resource but the Provenance, in the order of a page."""
    if told.record["result"] is None:
        yield "outcome", _outcome(told)
    else:
        yield from _answer(told)
    yield from _issues(told)


def _answer(told: Told) -> Iterator[Named]:
    result = told.record["result"]
    yield "impression", _impression(told, result)
    for rank, diagnosis in enumerate(result["differential"], 1):
        yield f"condition/{rank}", _condition(told, diagnosis)
    yield "risk", _risk(told, result["differential"])
    for number, step in enumerate(result["next_steps"], 1):
        yield f"request/{number}", _request(told, step)


def _impression(told: Told, result: Resource) -> Resource:
    findings = [
        {"itemReference": told.reference(f"condition/{rank}"), "basis": told.value(diagnosis["likelihood"])}
        for rank, diagnosis in enumerate(result["differential"], 1)
    ]
    urgency = f"{told.word('urgency')}: {told.value(told.record['urgency_final'])}"
    return _filled({
        "resourceType": "ClinicalImpression",
        "status": "in-progress",
        "description": f"{urgency}. {result['urgency_reason']}".strip(),
        "subject": told.patient,
        "date": told.record["created"],
        "summary": result["summary"],
        "finding": findings,
        "note": _notes(_said(told)),
    })  # fmt: skip


def _said(told: Told) -> Iterator[str]:
    """What a page says besides: what it is, what is missing, and what was not checked."""
    record, language = told.record, "zh" if told.chinese else "en"
    result, checks = record["result"], record["checks"]
    joined = ("、" if told.chinese else ", ").join
    if record["provenance"]["model"]["demonstration"]:
        yield DEMONSTRATION[language]
    yield NOTICE[language]
    yield rules_status(chinese=told.chinese)
    yield from vitals_lines(checks, told.chinese, joined)
    yield from (f"{told.word('degraded')}: {told.value(reason)}" for reason in record["degraded"])
    yield from (f"{told.word('missing')}: {text}" for text in result["missing_information"])
    yield f"{told.word('confidence')}: {told.value(result['confidence'])}. {result['confidence_reason']}".strip()
    yield from (remark["message"] for remark in checks["answer_remarks"])
    yield from (f"{told.word('not_checked')}: {entry['message']}" for entry in checks["not_run"])
    if record.get("reasoning"):
        yield f"{told.word('reasoning')}: {record['reasoning']}"


def _condition(told: Told, diagnosis: Resource) -> Resource:
    notes = [f"{told.word('against')}: {told.fact(**_cited(e))['text']}" for e in diagnosis["contradicting"]]
    notes += [f"{told.word('lacks')}: {text}" for text in diagnosis["missing"]]
    notes += [f"{told.word('decides')}: {diagnosis['discriminating_test']}"] if diagnosis["discriminating_test"] else []
    notes += [told.word("cant_miss")] if diagnosis["cant_miss"] else []
    return _filled({
        "resourceType": "Condition",
        "verificationStatus": _coded("condition-ver-status", "differential"),
        "category": [_coded("condition-category", "encounter-diagnosis")],
        "code": _filled({
            "coding": [{"system": ICD_10_CM, "code": code} for code in diagnosis["codes"]],
            "text": diagnosis["name"],
        }),
        "subject": told.patient,
        "recordedDate": told.record["created"],
        "evidence": [{"code": [told.fact(**_cited(e))]} for e in diagnosis["supporting"]],
        "note": _notes(notes),
    })  # fmt: skip


def _cited(evidence: Resource) -> dict[str, str]:
    return {"fact_id": evidence["fact_id"], "why": evidence["why"]}


def _risk(told: Told, differential: Sequence[Resource]) -> Resource:
    predictions = [
        {
            "outcome": {"text": diagnosis["name"]},
            "qualitativeRisk": {
                **_coded("risk-probability", _RISK[diagnosis["likelihood"]]),
                "text": told.value(diagnosis["likelihood"]),
            },
        }
        for diagnosis in differential
    ]
    return {
        "resourceType": "RiskAssessment",
        "status": "preliminary",
        "subject": told.patient,
        "occurrenceDateTime": told.record["created"],
        "basis": [told.reference(f"condition/{rank}") for rank in range(1, len(differential) + 1)],
        "prediction": predictions,
    }


def _request(told: Told, step: Resource) -> Resource:
    only_then = {"asNeededCodeableConcept": {"text": told.value("if_worse")}} if step["timing"] == "if_worse" else {}
    return _filled({
        "resourceType": "ServiceRequest",
        "status": "draft",
        "intent": "proposal",
        "category": [{"text": told.value(step["kind"])}],
        "priority": _PRIORITY[step["timing"]],
        "code": {"text": step["action"]},
        "subject": told.patient,
        **only_then,
        "authoredOn": told.record["created"],
        "reasonCode": [{"text": step["rationale"]}] if step["rationale"] else [],
        "note": _notes([told.value(step["timing"])]),
    })  # fmt: skip


def _issues(told: Told) -> Iterator[Named]:
    """Red flags of rules and model, then possible conflicts with allergies and pregnancy."""
    checks, result = told.record["checks"], told.record["result"]
    rules = [(f["concern"], _SEVERITY.get(f["urgency"], "low"), f["fact_ids"]) for f in checks["rule_red_flags"]]
    flags = [
        (f"{f['finding']}: {f['concern']}", "moderate", f["fact_ids"]) for f in (result["red_flags"] if result else ())
    ]
    for number, (detail, severity, fact_ids) in enumerate([*rules, *flags], 1):
        yield f"red-flag/{number}", _issue(told, told.word("red_flags"), detail, severity, fact_ids)
    conflicts = [c for key in ("allergy_conflicts", "pregnancy_conflicts") for c in checks[key] or ()]
    for number, found in enumerate(conflicts, 1):
        facts = found.get("fact_ids", ())
        yield f"conflict/{number}", _issue(told, told.word("conflicts"), found["message"], "moderate", facts)


def _issue(told: Told, kind: str, detail: str, severity: str, fact_ids: Sequence[str]) -> Resource:
    return _filled({
        "resourceType": "DetectedIssue",
        "status": "preliminary",
        "code": {"text": kind},
        "severity": severity,
        "patient": told.patient,
        "identifiedDateTime": told.record["created"],
        "evidence": [{"code": [told.fact(fact_id)]} for fact_id in fact_ids],
        "detail": detail,
    })  # fmt: skip


def _outcome(told: Told) -> Resource:
    error = told.record["error"]
    issue = {
        "severity": "error",
        "code": _ISSUE.get(error["code"], "exception"),
        "details": {"text": told.value(error["code"])},
        "diagnostics": error["code"],
    }
    urgency = f"{told.word('urgency')}: {told.value(told.record['urgency_final'])}"
    said = {"severity": "information", "code": "informational", "details": {"text": urgency}}
    return {"resourceType": "OperationOutcome", "issue": [issue, said]}


def provenance(told: Told, names: Sequence[str]) -> Resource:
    """What made the resources of these names: the tool and the model, as devices, from the case."""
    made = told.record["provenance"]
    tool, model = made["tool"], made["model"]
    return {
        "resourceType": "Provenance",
        "contained": [
            _device("tool", tool["name"], {"version": tool["version"], "commit": tool["commit"]}),
            _device("model", model["name"], {"weights SHA-256": model.get("weights")}),
        ],
        "target": [told.reference(name) for name in names],
        "recorded": told.record["created"],
        "agent": [
            {"type": _coded("provenance-participant-type", "assembler"), "who": {"reference": "#tool"}},
            {"type": _coded("provenance-participant-type", "author"), "who": {"reference": "#model"}},
        ],
        "entity": [{"role": "source", "what": {"display": f"{told.word('case')} {told.record['id']}"}}],
    }


def _device(name: str, title: str, versions: dict[str, str | None]) -> Resource:
    return _filled({
        "resourceType": "Device",
        "id": name,
        "deviceName": [{"name": title, "type": "user-friendly-name"}],
        "version": [{"type": {"text": kind}, "value": value} for kind, value in versions.items() if value],
    })  # fmt: skip


def _coded(system: str, code: str) -> Resource:
    return {"coding": [{"system": f"{_TERMINOLOGY}/{system}", "code": code}]}


def _notes(texts: Any) -> list[Resource]:
    return [{"text": text} for text in texts]


def _filled(resource: Resource) -> Resource:
    """Without what is empty, which FHIR forbids."""
    return {key: value for key, value in resource.items() if value not in ("", [], {}, None)}
