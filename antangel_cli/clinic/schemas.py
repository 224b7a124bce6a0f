"""JSON Schemas of what goes in and comes out, and filled examples of each in English and Chinese."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from antangel_cli.clinic import case, result
from antangel_cli.clinic.checks.urgency import ORDER
from antangel_cli.clinic.result import CONFIDENCES, LIKELIHOODS, STEP_KINDS, TIMINGS, URGENCIES

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
NAMES = ("case", "result", "batch")

_SAMPLES = Path(__file__).resolve().parent / "samples"
_TEXT: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_BOOLEAN: Schema = {"type": "boolean"}
_HASH: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_FACT_ID: Schema = {"type": "string", "pattern": "^F[1-9][0-9]*$"}
_ANY: Schema = {"type": "object"}


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_ERROR = _object(code=_TEXT, message=_TEXT, retryable=_BOOLEAN, stage=_TEXT)


@cache
def schema(name: str) -> Schema:
    """The JSON Schema called `case`, `result` or `batch`."""
    return {"case": case_schema, "result": result_schema, "batch": batch_schema}[name]()


@cache
def example(name: str, chinese: bool = False) -> dict[str, Any]:
    """A filled example of it; the case is invented."""
    language = "zh" if chinese else "en"
    stored = "result" if name == "result" else "case"
    content: dict[str, Any] = json.loads((_SAMPLES / f"{stored}.{language}.json").read_text(encoding="utf-8"))
    return {"id": content["id"], "case": content} if name == "batch" else content


def case_schema() -> Schema:
    """`antangel.case/1`, from the types that read it."""
    made = _tidied(case.Case.model_json_schema(by_alias=True))
    for part in (made, *made["$defs"].values()):
        part["patternProperties"] = {"^x_": {}}
    return {"$schema": DRAFT, "$id": case.SCHEMA_ID, "title": "Case", **made}


def batch_schema() -> Schema:
    """One line of a batch: a case, or `{"id", "case"}` with a case or its text."""
    inner = case_schema()
    definitions = inner.pop("$defs")
    for key in ("$schema", "$id", "title"):
        inner.pop(key)
    without_id = {"$ref": "#/$defs/CaseWithoutId"}
    wrapped = _object(id=inner["properties"]["id"], case={"anyOf": [{"$ref": "#/$defs/Case"}, without_id, _TEXT]})
    loose = {**inner, "required": [name for name in inner["required"] if name != "id"]}
    return {
        "$schema": DRAFT,
        "$id": "antangel.batch/1",
        "title": "Line of a batch",
        "anyOf": [{"$ref": "#/$defs/Case"}, wrapped],
        "$defs": {**definitions, "Case": inner, "CaseWithoutId": loose},
    }


def result_schema() -> Schema:
    """`antangel.ddx/1`: the whole envelope, or the short record of a batch line that never became a case."""
    envelope = _object(
        schema={"const": result.SCHEMA_ID},
        id=_TEXT,
        run_id={"type": "string", "format": "uuid"},
        status={"enum": ["ok", "degraded", "error", "demonstration"]},
        degraded=_array(_TEXT),
        created={"type": "string", "format": "date-time"},
        notice=_TEXT,
        language={"enum": ["en", "zh"]},
        facts=_array(_fact()),
        result=_or_null(_differential()),
        checks=_checks(),
        urgency_final={"enum": list(URGENCIES)},
        agreement=_or_null(_agreement()),
        provenance=_provenance(),
        error=_or_null(_ERROR),
    )
    envelope["properties"] |= {"reasoning": _TEXT, "fingerprint": _fingerprint()}
    failed = _object(
        schema={"const": result.SCHEMA_ID}, id=_or_null(_TEXT), line=_INTEGER, status={"const": "error"}, error=_ERROR
    )
    failed["properties"] |= {"fingerprint": _fingerprint()}
    return {"$schema": DRAFT, "$id": result.SCHEMA_ID, "title": "Result", "anyOf": [envelope, failed]}


def _fact() -> Schema:
    return _object(id=_FACT_ID, kind=_TEXT, text=_TEXT, path=_TEXT, absent=_BOOLEAN, source=_or_null(_TEXT))


def _fingerprint() -> Schema:
    """Of a line of a batch: an HMAC of each thing that the result depends on."""
    part = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
    settings = dict.fromkeys(("key", "model", "prompt", "schema", "rules", "sampling", "options"), part)
    return _object(**settings, input={"type": "string", "pattern": "^[0-9a-f]{32}$"})


def _agreement() -> Schema:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    diagnoses = _array(_object(name=_TEXT, share=share, runs=_INTEGER))
    most = {"type": "integer", "minimum": 2, "maximum": 16}
    return _object(samples=most, completed=_INTEGER, diagnoses=diagnoses, others=diagnoses)


def _differential() -> Schema:
    evidence = _array(_object(fact_id=_FACT_ID, why=_TEXT))
    diagnosis = _object(
        name=_TEXT,
        supporting=evidence,
        contradicting=evidence,
        missing=_array(_TEXT),
        discriminating_test=_TEXT,
        cant_miss=_BOOLEAN,
        likelihood={"enum": list(LIKELIHOODS)},
        codes=_array({"type": "string", "pattern": f"^{result.CODE_PATTERN}$"}),
    )
    step = _object(action=_TEXT, kind={"enum": list(STEP_KINDS)}, timing={"enum": list(TIMINGS)}, rationale=_TEXT)
    return _object(
        summary=_TEXT,
        red_flags=_array(_object(finding=_TEXT, fact_ids=_array(_FACT_ID), concern=_TEXT)),
        differential={**_array(diagnosis), "minItems": 1, "maxItems": 10},
        next_steps=_array(step),
        missing_information=_array(_TEXT),
        urgency_reason=_TEXT,
        urgency={"enum": list(URGENCIES)},
        confidence_reason=_TEXT,
        confidence={"enum": list(CONFIDENCES)},
    )


def _checks() -> Schema:
    news2 = _object(
        score=_INTEGER,
        band={"enum": ["low", "low_medium", "medium", "high", None]},
        missing=_array(_TEXT),
        partial=_BOOLEAN,
        points={"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 3}},
        spo2_scale={"enum": [1, 2]},
    )
    fired = _object(rule=_TEXT, family=_TEXT, urgency={"enum": list(ORDER)}, concern=_TEXT, fact_ids=_array(_TEXT))
    remark = {
        "type": "object",
        "required": ["check", "message"],
        "properties": {"check": _TEXT, "message": _TEXT},
    }
    warning = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": _TEXT, "message": _TEXT},
    }
    code = _object(diagnosis=_TEXT, code=_TEXT)
    return _object(
        input_warnings=_array(warning),
        unit_conversions=_array({"type": "object", "required": ["path", "original", "converted"]}),
        set_aside=_array(_ANY),
        implausible_accepted=_array(_ANY),
        news2=_or_null(news2),
        paediatric=_or_null(_paediatric()),
        rule_red_flags=_array(fired),
        rules=_rules(),
        allergy_conflicts=_or_null(_array(_ANY)),
        pregnancy_conflicts=_or_null(_array(_ANY)),
        injection_suspected=_array(_object(fact_id=_TEXT, pattern=_TEXT)),
        urgency_floor={"enum": [*ORDER, None]},
        not_run=_array(_object(check=_TEXT, reason=_TEXT, message=_TEXT)),
        answer_remarks=_array(remark),
        dropped_codes=_array(code),
        unverified_codes=_array(code),
    )


def _paediatric() -> Schema:
    limit = {"type": ["number", "null"]}
    found = _object(
        name=_TEXT,
        value={"type": ["number", "string"]},
        unit=_or_null(_TEXT),
        low=limit,
        high=limit,
        fact_id=_TEXT,
        urgency={"enum": ["urgent", "emergency"]},
    )
    return _object(band=_TEXT, out_of_range=_array(found), missing=_array(_TEXT))


def _rules() -> Schema:
    return _object(
        version=_TEXT,
        hash=_HASH,
        reviewed=_BOOLEAN,
        reviewer=_or_null(_TEXT),
        source=_or_null(_TEXT),
        site=_or_null(_object(version=_TEXT, hash=_HASH)),
    )


def _provenance() -> Schema:
    seconds = {"type": ["number", "null"]}
    return _object(
        tool=_object(name=_TEXT, version=_TEXT, commit=_or_null(_TEXT)),
        model=_model(),
        prompt=_object(id=_TEXT, version=_TEXT, hash=_HASH),
        schema=_object(id=_TEXT, hash=_HASH),
        rules=_rules(),
        sampling=_object(reasoning=_or_null(_ANY), answer=_ANY),
        seed=_INTEGER,
        sample=_INTEGER,
        attempts={"type": "integer", "minimum": 1},
        options=_options(),
        input_hmac=_or_null(_HASH),
        tokens=_object(prompt=_INTEGER, reasoning=_INTEGER, answer=_INTEGER),
        reasoning_finish=_or_null(_TEXT),
        timings=_object(total_s=seconds, first_token_s=seconds),
    )


def _model() -> Schema:
    words = dict.fromkeys(("name", "number_format", "backend", "device"), _TEXT)
    hashes = dict.fromkeys(("weights", "tokenizer", "template"), _HASH)
    properties = {**words, **hashes, "demonstration": _BOOLEAN}
    return {"type": "object", "required": ["name", "demonstration"], "properties": properties}


def _options() -> Schema:
    number = {"type": "number"}
    return _object(
        reasoning={"enum": ["show", "hide", "off"]},
        reasoning_tokens=_INTEGER,
        max_dx=_INTEGER,
        lang={"enum": ["en", "zh", None]},
        timeout_s=_or_null(number),
        accept_implausible=_BOOLEAN,
        samples=_INTEGER,
        doses=_BOOLEAN,
        input_format=_TEXT,
        redact=_BOOLEAN,
        sampling=_object(temperature=number, top_p=number, top_k=_INTEGER, repetition_penalty=number, seed=_INTEGER),
        context=_INTEGER,
    )


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(inner: Schema) -> Schema:
    return {"anyOf": [inner, {"type": "null"}]}


def _tidied(value: Any, names: bool = False) -> Any:
    """A generated schema without the titles that repeat each key; `names`: the keys here are no keywords."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if names or k != "title"}
        return {k: _tidied(v, not names and k in ("properties", "$defs")) for k, v in kept.items()}
    return [_tidied(item) for item in value] if isinstance(value, list) else value
