"""FHIR: what is written beside a structured entry (`note`), and what was dispensed."""

from __future__ import annotations

from typing import Any

import pytest

from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.reader_warnings import READER_WARNINGS
from antangel_cli.clinic.readers.fhir.notes import MOST_NOTED
from tests.clinic.cases import checked
from tests.clinic.fhir_examples.resources import (
    FORMS,
    LOINC,
    NAME,
    NOW,
    SNOMED,
    coded,
    encounter,
    observation,
    patient,
    quantity,
    resource,
    state,
)  # fmt: skip
from tests.clinic.test_fhir import read, told, warned

NOTE: list[dict[str, Any]] = [
    {"text": "Melena since Monday."},
    {"text": ""},
    {"time": NOW},
    {"text": "昨起胸闷。"},
]
SAID = "Melena since Monday.; 昨起胸闷。"


def condition(**content: Any) -> dict[str, Any]:
    """An anemia with notes, of the newest encounter."""
    about = {"code": coded(SNOMED, "271737000", "Anemia"), "onsetDateTime": NOW, "note": NOTE}
    return resource("Condition", **{**about, **content})


def flags(*resources: Any) -> list[str]:
    return [hit.rule.id for hit in checked(read(encounter(), *resources)).red_flags]


def test_the_note_of_a_condition_follows_it() -> None:
    assert told(read(encounter(), condition()), "finding") == [f"Anemia; {SAID} {NOW[:10]}"]
    assert "gut_bleeding" in flags(condition())


@pytest.mark.parametrize("over", [{"clinicalStatus": state("resolved")}, {"onsetDateTime": "2019-01-01"}])
def test_the_note_of_an_old_condition_is_history(over: dict[str, Any]) -> None:
    case = read(encounter(), condition(**over))
    assert len(told(case, "history")) == 1
    assert told(case, "history")[0].endswith(SAID)
    assert "gut_bleeding" not in flags(condition(**over))


@pytest.mark.parametrize(("verified", "status"), [("refuted", True), ("unconfirmed", False)])
def test_a_note_on_what_is_not_present_is_told_apart(verified: str, status: bool) -> None:
    case = read(encounter(), condition(verificationStatus=state(verified)))
    rows = {fact.kind: fact for fact in facts(case)}
    assert "Melena" not in rows["finding"].text
    assert rows["finding"].absent == status
    assert (rows["history"].text, rows["history"].absent) == (SAID, False)


@pytest.mark.parametrize(
    ("status", "texts"), [("completed", [f"Colonoscopy; {SAID}"]), ("not-done", ["no Colonoscopy"])]
)
def test_the_note_of_a_procedure(status: str, texts: list[str]) -> None:
    done = resource("Procedure", status=status, code=coded(SNOMED, "73761001", "Colonoscopy"), note=NOTE)
    case = read(encounter(), done)
    assert told(case, "procedure") == texts
    assert told(case, "history") == ([SAID] if status == "not-done" else [])
    assert "gut_bleeding" not in flags(done)


def test_the_note_of_a_value_is_a_note() -> None:
    case = read(encounter(), observation("2823-3", "Potassium", quantity(4.1, "mmol/L"), note=NOTE))
    assert told(case, "lab") == ["potassium 4.1 mmol/L"]
    assert " ".join(told(case, "note")) == "Potassium: Melena since Monday.; 昨起胸闷。"
    assert {fact.source for fact in facts(case) if fact.kind == "note"} == {"Bundle.entry[1].resource"}


def test_a_note_on_a_finding_does_not_repeat_what_it_denies() -> None:
    case = read(
        encounter(), observation("x", "melena", None, "exam", valueBoolean=False, note=[{"text": "Asked twice"}])
    )
    assert told(case, "note") == ["Asked twice"]


def test_the_note_of_a_social_answer_is_social() -> None:
    answer = observation(
        "72166-2", "Tobacco", None, "social-history", valueString="former", note=[{"text": "10 a day"}]
    )
    assert told(read(encounter(), answer), "social") == ["Tobacco: former", "10 a day"]


def test_the_note_of_an_old_value_is_history_and_of_a_superseded_one_left_out() -> None:
    rows = [
        observation(
            "2823-3", "K", quantity(k, "mmol/L"), effectiveDateTime=f"2026-{month:02d}-01", note=[{"text": text}]
        )
        for k, month, text in ((3.1, 1, "Melena then"), (3.9, 9, "Melena in autumn"))
    ]
    case = read(encounter(), *rows)
    assert told(case, "history") == ["potassium 3.9 mmol/L (2026-09-01)", "Melena in autumn (2026-09-01)"]
    assert warned(case)["older_left_out"] == "labs 1, notes 1"
    assert flags(*rows) == []


@pytest.mark.parametrize("kind", ["Condition", "Procedure", "Observation"])
def test_names_are_taken_out_of_notes_and_long_ones_are_cut(kind: str) -> None:
    form = FORMS[f"{kind} R4"][0]
    long = {**form, "note": [{"text": f"{NAME} says. " + "x" * 3 * MOST_NOTED}]}
    case = read(patient(), encounter(), long)
    assert NAME not in case.model_dump_json()
    assert "in text 1" in warned(case)["identifiers_dropped"]
    assert warned(case)["notes_cut"] == f"{kind} 1"
    assert max(len(text) for text in told(case)) < MOST_NOTED + 200
    assert all("1" in words.format(count=1, kinds=f"{kind} 1") for words in READER_WARNINGS["notes_cut"])
    assert "notes_cut" not in warned(read(encounter(), {**form, "note": [{"text": "x" * MOST_NOTED}]}))


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"whenHandedOver": "2026-11-01", "daysSupply": quantity(30, "d")}, "active"),
        ({"whenHandedOver": "2026-10-01", "daysSupply": quantity(30, "d")}, "stopped"),
        ({"whenHandedOver": "2026-10-01"}, "active"), ({"whenHandedOver": "2026-01-01"}, "unknown"), ({}, "active"),
        ({"status": "in-progress", "whenPrepared": "2026-11-19"}, "active"), ({"status": "preparation"}, "unknown"),
        ({"status": "on-hold"}, "unknown"), ({"status": "stopped"}, "stopped"), ({"status": "unknown"}, "unknown"),
        ({"whenHandedOver": "2026-11-01", "daysSupply": quantity(1e300, "d")}, "active"),
        ({"whenHandedOver": "2026-11-01", "daysSupply": quantity(-1, "d")}, "active"),
        ({"status": "declined"}, None), ({"status": "cancelled"}, None),
    ],
)  # fmt: skip
def test_what_was_dispensed(content: dict[str, Any], status: str | None) -> None:
    drug = {"status": "completed", "medicationCodeableConcept": coded(LOINC, "1", "warfarin"), **content}
    case = read(encounter(), resource("MedicationDispense", **drug))
    assert [medication.status for medication in case.medications] == ([status] if status else [])
    assert warned(case).get("not_taken") == (None if status else "MedicationDispense 1")
