"""JSON Schemas of what goes in and comes out, and filled examples of each in English and Chinese."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from antangel_cli.clinic import case, result
from antangel_cli.clinic.check_schema import checks_schema, rules_schema
from antangel_cli.clinic.request_schema import request_schema
from antangel_cli.clinic.result import CONFIDENCES, LIKELIHOODS, STEP_KINDS, TIMINGS, URGENCIES
from antangel_cli.clinic.schema_parts import ANY, BOOLEAN, HASH, INTEGER, TEXT, Schema, array, closed, or_null

DRAFT = "https://json-schema.org/draft/2020-12/schema"
NAMES = ("case", "result", "batch")

_SAMPLES = Path(__file__).resolve().parent / "samples"
_FACT_ID: Schema = {"type": "string", "pattern": "^F[1-9][0-9]*$"}


_ERROR = closed(code=TEXT, message=TEXT, retryable=BOOLEAN, stage=TEXT)


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
    """`antangel.case/1`, from the types that read it; a case by itself needs no id."""
    made = _tidied(case.Case.model_json_schema(by_alias=True))
    made["required"] = [name for name in made["required"] if name != "id"]
    for part in (made, *made["$defs"].values()):
        part["patternProperties"] = {"^x_": {}}
    return {"$schema": DRAFT, "$id": case.SCHEMA_ID, "title": "Case", **made}


def batch_schema() -> Schema:
    """One line of a batch: a case, `{"id", "case"}` with a case or its text, or an OpenAI batch request."""
    inner = case_schema()
    definitions = inner.pop("$defs")
    for key in ("$schema", "$id", "title"):
        inner.pop(key)
    named = {**inner, "required": [*inner["required"], "id"]}
    without_id = {"$ref": "#/$defs/CaseWithoutId"}
    wrapped = closed(id=inner["properties"]["id"], case={"anyOf": [{"$ref": "#/$defs/Case"}, without_id, TEXT]})
    return {
        "$schema": DRAFT,
        "$id": "antangel.batch/1",
        "title": "Line of a batch",
        "anyOf": [{"$ref": "#/$defs/Case"}, wrapped, request_schema(inner["properties"]["id"])],
        "$defs": {**definitions, "Case": named, "CaseWithoutId": inner},
    }


def result_schema() -> Schema:
    """`antangel.ddx/1`: the whole envelope, or the short record of a batch line that never became a case."""
    envelope = closed(
        schema={"const": result.SCHEMA_ID},
        id=TEXT,
        run_id={"type": "string", "format": "uuid"},
        status={"enum": ["ok", "degraded", "error", "demonstration"]},
        degraded=array(TEXT),
        created={"type": "string", "format": "date-time"},
        notice=TEXT,
        language={"enum": ["en", "zh"]},
        facts=array(_fact()),
        result=or_null(_differential()),
        checks=checks_schema(),
        urgency_final={"enum": list(URGENCIES)},
        agreement=or_null(_agreement()),
        provenance=_provenance(),
        error=or_null(_ERROR),
    )
    envelope["properties"] |= {"reasoning": TEXT, "fingerprint": _fingerprint()}
    failed = closed(
        schema={"const": result.SCHEMA_ID}, id=or_null(TEXT), line=INTEGER, status={"const": "error"}, error=_ERROR
    )
    failed["properties"] |= {"fingerprint": _fingerprint()}
    return {"$schema": DRAFT, "$id": result.SCHEMA_ID, "title": "Result", "anyOf": [envelope, failed]}


def _fact() -> Schema:
    return closed(id=_FACT_ID, kind=TEXT, text=TEXT, path=TEXT, absent=BOOLEAN, source=or_null(TEXT))


def _fingerprint() -> Schema:
    """Of a line of a batch: an HMAC of each thing that the result depends on."""
    part = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
    settings = dict.fromkeys(("key", "model", "prompt", "schema", "rules", "sampling", "options"), part)
    return closed(**settings, input={"type": "string", "pattern": "^[0-9a-f]{32}$"})


def _agreement() -> Schema:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    diagnoses = array(closed(name=TEXT, share=share, runs=INTEGER))
    most = {"type": "integer", "minimum": 2, "maximum": 16}
    return closed(samples=most, completed=INTEGER, diagnoses=diagnoses, others=diagnoses)


def _differential() -> Schema:
    evidence = array(closed(fact_id=_FACT_ID, why=TEXT))
    diagnosis = closed(
        name=TEXT,
        supporting=evidence,
        contradicting=evidence,
        missing=array(TEXT),
        discriminating_test=TEXT,
        cant_miss=BOOLEAN,
        likelihood={"enum": list(LIKELIHOODS)},
        codes=array({"type": "string", "pattern": f"^{result.CODE_PATTERN}$"}),
    )
    step = closed(action=TEXT, kind={"enum": list(STEP_KINDS)}, timing={"enum": list(TIMINGS)}, rationale=TEXT)
    return closed(
        summary=TEXT,
        red_flags=array(closed(finding=TEXT, fact_ids=array(_FACT_ID), concern=TEXT)),
        differential={**array(diagnosis), "minItems": 1, "maxItems": 10},
        next_steps=array(step),
        missing_information=array(TEXT),
        urgency_reason=TEXT,
        urgency={"enum": list(URGENCIES)},
        confidence_reason=TEXT,
        confidence={"enum": list(CONFIDENCES)},
    )


def _provenance() -> Schema:
    seconds = {"type": ["number", "null"]}
    return closed(
        tool=closed(name=TEXT, version=TEXT, commit=or_null(TEXT)),
        model=_model(),
        prompt=closed(id=TEXT, version=TEXT, hash=HASH),
        schema=closed(id=TEXT, hash=HASH),
        rules=rules_schema(),
        sampling=closed(reasoning=or_null(ANY), answer=ANY),
        seed=INTEGER,
        sample=INTEGER,
        attempts={"type": "integer", "minimum": 1},
        options=_options(),
        input_hmac=or_null(HASH),
        tokens=closed(prompt=INTEGER, reasoning=INTEGER, answer=INTEGER),
        reasoning_finish=or_null(TEXT),
        timings=closed(total_s=seconds, first_token_s=seconds),
    )


def _model() -> Schema:
    words = dict.fromkeys(("name", "number_format", "backend", "device"), TEXT)
    hashes = dict.fromkeys(("weights", "tokenizer", "template"), HASH)
    properties = {**words, **hashes, "demonstration": BOOLEAN}
    return {"type": "object", "required": ["name", "demonstration"], "properties": properties}


def _options() -> Schema:
    number = {"type": "number"}
    return closed(
        reasoning={"enum": ["show", "hide", "off"]},
        reasoning_tokens=INTEGER,
        max_dx=INTEGER,
        lang={"enum": ["en", "zh", None]},
        timeout_s=or_null(number),
        accept_implausible=BOOLEAN,
        samples=INTEGER,
        doses=BOOLEAN,
        input_format=TEXT,
        redact=BOOLEAN,
        sampling=closed(temperature=number, top_p=number, top_k=INTEGER, repetition_penalty=number, seed=INTEGER),
        context=INTEGER,
    )


def _tidied(value: Any, names: bool = False) -> Any:
    """A generated schema without the titles that repeat each key; `names`: the keys here are no keywords."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if names or k != "title"}
        return {k: _tidied(v, not names and k in ("properties", "$defs")) for k, v in kept.items()}
    return [_tidied(item) for item in value] if isinstance(value, list) else value
