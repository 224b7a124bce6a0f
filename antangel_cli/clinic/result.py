"""What the model must return, `antangel.ddx/1`: its types, and the JSON Schema made for one case."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_ID = "antangel.ddx/1"

Likelihood = Literal["very_likely", "likely", "possible", "unlikely"]
Urgency = Literal["emergency", "urgent", "soon", "routine", "self_care", "undetermined"]
Confidence = Literal["high", "moderate", "low"]
StepKind = Literal["test", "imaging", "treatment", "referral", "monitoring", "history", "examination", "safety_net"]
Timing = Literal["now", "today", "days", "weeks", "if_worse"]

LIKELIHOODS: tuple[Likelihood, ...] = ("very_likely", "likely", "possible", "unlikely")
URGENCIES: tuple[Urgency, ...] = ("emergency", "urgent", "soon", "routine", "self_care", "undetermined")
CONFIDENCES: tuple[Confidence, ...] = ("high", "moderate", "low")
STEP_KINDS: tuple[StepKind, ...] = (
    "test",
    "imaging",
    "treatment",
    "referral",
    "monitoring",
    "history",
    "examination",
    "safety_net",
)
TIMINGS: tuple[Timing, ...] = ("now", "today", "days", "weeks", "if_worse")

CODE_PATTERN = r"[A-Z][0-9][0-9A-Z](\.[0-9A-Z]{1,4})?"
"""The form of an ICD-10-CM code."""


class Answer(BaseModel):
    """Base of the answer's parts: closed, immutable, silent about its values in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


T = TypeVar("T")
Many = Annotated[tuple[T, ...], Field(max_length=64)]
"""Items of an answer: more than any grammar allows, merged entries counted. An answer with more is none."""


class Evidence(Answer):
    """A fact of the case and why it counts."""

    fact_id: str
    why: str


class RedFlag(Answer):
    """A finding that must not wait."""

    finding: str
    fact_ids: Many[str]
    concern: str


class Diagnosis(Answer):
    """One entry of the differential; the order of entries is their rank."""

    name: str
    supporting: Many[Evidence]
    contradicting: Many[Evidence]
    missing: Many[str]
    discriminating_test: str
    cant_miss: bool
    likelihood: Likelihood
    codes: Many[str]


class Step(Answer):
    """Something to do next."""

    action: str
    kind: StepKind
    timing: Timing
    rationale: str


class Differential(Answer):
    """The model's answer. Property order is generation order: reasons stand before the labels they justify."""

    summary: str
    red_flags: Many[RedFlag]
    differential: Many[Diagnosis]
    next_steps: Many[Step]
    missing_information: Many[str]
    urgency_reason: str
    urgency: Urgency
    confidence_reason: str
    confidence: Confidence


Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}


def answer_schema(fact_ids: Sequence[str], max_dx: int = 5) -> Schema:
    """The JSON Schema of an answer to one case: a fact that is not among `fact_ids` cannot be cited.

    Objects are closed with every property required, arrays are bounded, strings are not (clinic.md, "Schema rules").
    """
    fact = {"enum": list(fact_ids)}
    evidence = _object(fact_id=fact, why=_STRING)
    diagnosis = _object(
        name=_STRING,
        supporting=_array(evidence, 0, 5),
        contradicting=_array(evidence, 0, 3),
        missing=_array(_STRING, 0, 3),
        discriminating_test=_STRING,
        cant_miss={"type": "boolean"},
        likelihood={"enum": list(LIKELIHOODS)},
        codes=_array({"type": "string", "pattern": f"^{CODE_PATTERN}$"}, 0, 2),
    )
    step = _object(action=_STRING, kind={"enum": list(STEP_KINDS)}, timing={"enum": list(TIMINGS)}, rationale=_STRING)
    return _object(
        summary=_STRING,
        red_flags=_array(_object(finding=_STRING, fact_ids=_array(fact, 1, 4), concern=_STRING), 0, 4),
        differential=_array(diagnosis, 3, max_dx),
        next_steps=_array(step, 1, 6),
        missing_information=_array(_STRING, 0, 5),
        urgency_reason=_STRING,
        urgency={"enum": list(URGENCIES)},
        confidence_reason=_STRING,
        confidence={"enum": list(CONFIDENCES)},
    )


def schema_hash(max_dx: int = 5) -> str:
    """SHA-256 of the answer schema without a case's own fact ids."""
    return hashlib.sha256(json.dumps(answer_schema((), max_dx)).encode()).hexdigest()


def answer_text(answer: Differential) -> str:
    """The answer as the model writes it: compact JSON, property order kept, non-ASCII kept."""
    return json.dumps(answer.model_dump(), ensure_ascii=False, separators=(",", ":"))


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _array(items: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}
