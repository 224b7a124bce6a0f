"""`--redact`: what identifies is removed and counted, never echoed; without it, it is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers import read_case
from antangel_cli.clinic.readers.keys import IDENTIFIERS

SECRET = "Zyxwvut"


def document(**content: Any) -> bytes:
    """A case document with these fields."""
    return json.dumps({"schema": "antangel.case/1", "id": "t", "chief_complaint": "cough", **content}).encode()


def redacted(**content: Any) -> Case:
    """The case with what identifies removed."""
    case = read_case(document(**content), None, redact=True)
    assert SECRET not in case.model_dump_json()
    return case


def warned(case: Case) -> dict[str, Any]:
    """What each warning counts, by code."""
    return {str(w["code"]): w["kinds"] for w in case._input_warnings}


@pytest.mark.parametrize("key", sorted(IDENTIFIERS))
@pytest.mark.parametrize("inside", [True, False])
def test_every_identifying_field_is_removed(key: str, inside: bool) -> None:
    content = {"patient": {key: SECRET}} if inside else {key: SECRET}
    assert warned(redacted(**content)) == {"identifiers_dropped": f"{key} 1"}
    with pytest.raises(InputError, match="--redact"):
        read_case(document(**content), None)


def test_names_of_measurements_stay() -> None:
    case = redacted(labs=[{"name": "potassium", "value": 4, "mrn": SECRET}], notes=[{"name": "ECG", "text": "normal"}])
    assert case.labs[0].name == "potassium"
    assert case.notes[0].name == "ECG"


def test_a_birth_date_gives_the_age_only_with_a_time() -> None:
    patient = {"birth_date": "1961-03-04"}
    assert redacted(patient=patient).patient.age is None
    case = redacted(patient=patient, labs=[{"name": "x", "value": 1, "time": "2026-11-20T10:00"}])
    assert case.patient.age is not None
    assert case.patient.age.value == 65
    stated = redacted(patient={**patient, "age": {"value": 50}}, labs=[{"name": "x", "value": 1, "time": "2026-11-20"}])
    assert stated.patient.age is not None
    assert stated.patient.age.value == 50


def test_identifiers_in_the_texts_of_a_case_are_replaced() -> None:
    case = redacted(narrative=f"Name: {SECRET}. Call 617-555-0123.", findings=[{"text": "MRN: 1234567 cough"}])
    assert case.narrative == "Name: [removed]. Call [removed]."
    assert case.findings[0].text == "MRN: [removed] cough"
    assert warned(case) == {"identifiers_removed": "name 1, phone 1, record_number 1"}


@pytest.mark.parametrize("text", [f"Mr {SECRET} has a cough.", f"姓名：王小明\n电话13812345678\n咳嗽 {'x'}"])
def test_plain_text(text: str) -> None:
    case = read_case(text.encode(), None, redact=True)
    assert SECRET not in str(case.narrative)
    assert "王小明" not in str(case.narrative)
    assert "[removed]" in str(case.narrative)
    assert case.language == read_case(text.encode(), None).language


def test_without_redact_text_is_as_it_was() -> None:
    assert read_case(b"MRN: 1234567", None).narrative == "MRN: 1234567"


def test_gold_and_places_are_kept() -> None:
    case = redacted(gold={"name": "asthma"})
    assert case.gold == {"name": "asthma"}
    fhir = {
        "resourceType": "Condition",
        "subject": {"reference": "Patient/1"},
        "code": {"text": f"Mr {SECRET}'s cough"},
    }
    case = read_case(json.dumps(fhir).encode(), None, redact=True)
    assert case._sources == {"history[0]": "Condition"}
    assert SECRET not in case.model_dump_json()
