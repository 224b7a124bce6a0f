"""Records and cases for the tests of the evaluation, made from a few words."""

from __future__ import annotations

from typing import Any

from antangel_cli.clinic.case import Case
from tests.clinic.cases import make_case
from tests.clinic.scripted import answer, diagnosis

FACTS = [
    {"id": "F1", "kind": "patient", "text": "40 years, female", "path": "patient", "absent": False},
    {"id": "F2", "kind": "complaint", "text": "chest pain", "path": "chief_complaint#0", "absent": False},
    {"id": "F3", "kind": "finding", "text": "no fever", "path": "findings[0]", "absent": True},
    {"id": "F4", "kind": "text", "text": "Denies cough or chills.", "path": "narrative#0", "absent": False},
    {"id": "F5", "kind": "text", "text": "否认发热", "path": "narrative#1", "absent": False},
    {"id": "F7", "kind": "finding", "text": "swelling", "path": "findings[1]", "absent": True},
    {"id": "F6", "kind": "text", "text": "Sweating, no fever.", "path": "narrative#2", "absent": False},
]


def record(*names: str, case_id: str = "t", urgency: str = "urgent", **about: Any) -> dict[str, Any]:
    """A record whose differential has these names, each supported by the complaint."""
    listed = [diagnosis(name) for name in names]
    return {
        "id": case_id,
        "status": "ok",
        "facts": FACTS,
        "result": answer(*listed) if names else None,
        "urgency_final": urgency,
        "checks": {"answer_remarks": [], "rule_red_flags": [], "urgency_floor": None},
        **about,
    }


def citing(*fact_ids: str, **about: Any) -> dict[str, Any]:
    """A record whose first diagnosis is supported by these facts, and whose others by none."""
    first = diagnosis("Angina", supporting=[{"fact_id": i, "why": "typical"} for i in fact_ids])
    others = [diagnosis(name, supporting=[]) for name in ("B", "C")]
    return {**record("x"), "result": answer(first, *others), **about}


def gold_case(case_id: str = "t", age: float = 40, sex: str = "female", **gold: Any) -> Case:
    """A case with gold."""
    patient = {"age": {"value": age}, "sex_at_birth": sex}
    return make_case(id=case_id, patient=patient, narrative="Sweating.", gold=gold or None)
