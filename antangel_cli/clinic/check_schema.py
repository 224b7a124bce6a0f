"""The JSON Schema of what checks find, as results carry it."""

from __future__ import annotations

from antangel_cli.clinic.checks.urgency import ORDER
from antangel_cli.clinic.schema_parts import ANY, BOOLEAN, HASH, INTEGER, TEXT, Schema, array, closed, or_null


def checks_schema() -> Schema:
    """`checks` of a result: what the tool found itself."""
    news2 = closed(
        score=INTEGER,
        band={"enum": ["low", "low_medium", "medium", "high", None]},
        missing=array(TEXT),
        partial=BOOLEAN,
        points={"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 3}},
        spo2_scale={"enum": [1, 2]},
    )
    fired = closed(rule=TEXT, family=TEXT, urgency={"enum": list(ORDER)}, concern=TEXT, fact_ids=array(TEXT))
    remark = {
        "type": "object",
        "required": ["check", "message"],
        "properties": {"check": TEXT, "message": TEXT},
    }
    warning = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": TEXT, "message": TEXT},
    }
    code = closed(diagnosis=TEXT, code=TEXT)
    return closed(
        input_warnings=array(warning),
        unit_conversions=array({"type": "object", "required": ["path", "original", "converted"]}),
        set_aside=array(ANY),
        implausible_accepted=array(ANY),
        news2=or_null(news2),
        paediatric=or_null(_paediatric()),
        rule_red_flags=array(fired),
        rules=rules_schema(),
        allergy_conflicts=or_null(array(ANY)),
        pregnancy_conflicts=or_null(array(ANY)),
        injection_suspected=array(closed(fact_id=TEXT, pattern=TEXT)),
        urgency_floor={"enum": [*ORDER, None]},
        not_run=array(closed(check=TEXT, reason=TEXT, message=TEXT)),
        answer_remarks=array(remark),
        dropped_codes=array(code),
        unverified_codes=array(code),
    )


def _paediatric() -> Schema:
    limit = {"type": ["number", "null"]}
    found = closed(
        name=TEXT,
        value={"type": ["number", "string"]},
        unit=or_null(TEXT),
        low=limit,
        high=limit,
        fact_id=TEXT,
        urgency={"enum": ["urgent", "emergency"]},
    )
    return closed(band=TEXT, out_of_range=array(found), missing=array(TEXT))


def rules_schema() -> Schema:
    """Version, hash and review of the rules."""
    return closed(
        version=TEXT,
        hash=HASH,
        reviewed=BOOLEAN,
        reviewer=or_null(TEXT),
        source=or_null(TEXT),
        site=or_null(closed(version=TEXT, hash=HASH)),
    )
