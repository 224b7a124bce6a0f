"""Phenopackets v2: what is excluded is absent, what is about several people is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.reader_warnings import READER_WARNINGS
from antangel_cli.clinic.readers import read_case

SECRET = "Zyxwvut"


def term(code: str, label: str) -> dict[str, str]:
    """An OntologyClass."""
    return {"id": code, "label": label}


def packet(**content: Any) -> dict[str, Any]:
    """A Phenopacket of a boy of six, in protobuf's JSON."""
    return {
        "id": SECRET,
        "subject": {"id": SECRET, "sex": "MALE", "timeAtLastEncounter": {"age": {"iso8601duration": "P6Y3M"}}},
        "phenotypicFeatures": [{"type": term("HP:0001945", "Fever ")}],
        "metaData": {"created": "2026-01-01T00:00:00Z", "createdBy": SECRET, "phenopacketSchemaVersion": "2.0"},
        **content,
    }


def read(**content: Any) -> Case:
    """The case in a Phenopacket with these fields."""
    case = read_case(json.dumps(packet(**content)).encode(), None)
    assert SECRET not in case.model_dump_json()
    return case


def told(case: Case) -> list[tuple[str, str, str | None]]:
    """Kind, text and place of the facts."""
    return [(fact.kind, fact.text, fact.source) for fact in facts(case)]


def feature(**content: Any) -> tuple[str, str]:
    """Kind and text of one feature."""
    return told(read(phenotypicFeatures=[{"type": term("HP:0001250", "Seizure"), **content}]))[1][:2]


def test_the_subject_and_a_feature() -> None:
    case = read()
    assert told(case) == [("patient", "6 years, male", "subject"), ("finding", "Fever", "phenotypicFeatures[0]")]
    assert case.id == "case-1"
    assert case.findings[0].code == "HP:0001945"
    dropped = next(w for w in case._input_warnings if w["code"] == "identifiers_dropped")
    assert dropped["kinds"] == "createdBy 1, id 1"


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ({}, ("finding", "Seizure")),
        ({"excluded": True}, ("finding", "no Seizure")),
        ({"excluded": False}, ("finding", "Seizure")),
        ({"severity": term("HP:0012828", "Severe")}, ("finding", "Seizure Severe")),
        ({"modifiers": [term("HP:0031796", "Recurrent")]}, ("finding", "Seizure, Recurrent")),
        ({"onset": {"age": {"iso8601duration": "P6M"}}}, ("finding", "Seizure at 6 months")),
        ({"onset": {"timestamp": "2020-03-17T00:00:00Z"}}, ("finding", "Seizure 2020-03-17")),
        ({"onset": {"interval": {"start": "2020-03-18T00:00:00Z"}}}, ("finding", "Seizure 2020-03-18")),
        ({"onset": {"ontologyClass": term("HP:0003577", "Congenital onset")}}, ("finding", "Seizure Congenital onset")),
        ({"resolution": {"age": {"iso8601duration": "P2Y"}}}, ("history", "Seizure (resolved)")),
        ({"type": {"id": "HP:0001250"}}, ("finding", "HP:0001250")),
    ],
)
def test_features(content: dict[str, Any], fact: tuple[str, str]) -> None:
    assert feature(**content) == fact


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ({"timeAtLastEncounter": {"age": {"iso8601duration": "P1Y11M"}}}, "23 months"),
        ({"timeAtLastEncounter": {"age": {"iso8601duration": "P12D"}}}, "12 days"),
        ({"timeAtLastEncounter": {"timestamp": "2020-05-01T00:00:00Z"}, "dateOfBirth": "1990-04-01T00:00:00Z"}, "30 years"),
        ({"sex": "FEMALE", "timeAtLastEncounter": {"age": {"iso8601duration": "P70Y"}}}, "70 years, female"),
    ],
)  # fmt: skip
def test_ages(subject: dict[str, Any], text: str) -> None:
    assert told(read(subject=subject))[0][1] == text


@pytest.mark.parametrize(
    "subject", [{}, {"dateOfBirth": "1990-04-01T00:00:00Z"}, {"timeAtLastEncounter": {"age": {"iso8601duration": "P"}}}]
)
def test_an_age_is_never_guessed(subject: dict[str, Any]) -> None:
    case = read(subject=subject)
    assert case.patient.age is None
    assert "age_unknown" in [w["code"] for w in case._input_warnings]


def test_measurements_diseases_and_actions() -> None:
    unit = term("UCUM:mg/dL", "milligram per deciliter")
    case = read(
        phenotypicFeatures=[],
        measurements=[
            {"assay": term("LOINC:2160-0", "Creatinine"), "value": {"quantity": {"unit": unit, "value": 2.1, "referenceRange": {"unit": unit, "low": 0.6, "high": 1.2}}}},
            {"assay": term("LOINC:1", "Bilirubin"), "value": {"quantity": {"unit": unit}}},
            {"assay": term("LOINC:2", "Nitrite"), "value": {"ontologyClass": term("NCIT:1", "Positive")}},
            {"assay": term("LOINC:3", "Pressure"), "complexValue": {"typedQuantities": [{"type": term("NCIT:C25298", "Systolic Blood Pressure"), "quantity": {"unit": term("UCUM:mm[Hg]", "mmHg"), "value": 125}}]}},
        ],
        diseases=[{"term": term("MONDO:0005015", "diabetes mellitus"), "excluded": True}, {"term": term("MONDO:1", "asthma")}],
        medicalActions=[{"procedure": {"code": term("NCIT:1", "Intubation")}}, {"treatment": {"agent": term("NCIT:2", "Oxygen"), "routeOfAdministration": term("NCIT:3", "Nasal")}}],
        biosamples=[{"id": "b"}], interpretations=[{"id": "i"}],
    )  # fmt: skip
    assert told(case)[1:] == [
        ("history", "no diabetes mellitus", "diseases[0]"),
        ("history", "asthma", "diseases[1]"),
        ("procedure", "Intubation", "medicalActions[0]"),
        ("medication", "Oxygen Nasal unknown", "medicalActions[1]"),
        ("lab", "Creatinine 2.1 mg/dL high", "measurements[0]"),
        ("lab", "Bilirubin 0 mg/dL", "measurements[1]"),
        ("lab", "Nitrite Positive", "measurements[2]"),
        ("lab", "Systolic Blood Pressure 125 mm[Hg]", "measurements[3].complexValue.typedQuantities[0]"),
    ]
    unread = next(w for w in case._input_warnings if w["code"] == "resources_unread")
    assert unread["kinds"] == "biosamples 1, interpretations 1"
    assert all(str(w["code"]) in READER_WARNINGS for w in case._input_warnings)


def test_the_schemas_own_field_names_are_read_too() -> None:
    text = json.dumps(
        {
            "subject": {"time_at_last_encounter": {"age": {"iso8601duration": "P6Y"}}},
            "phenotypic_features": [{"type": term("HP:1", "Cough")}],
        }
    )
    assert [row[1] for row in told(read_case(text.encode(), None))] == ["6 years", "Cough"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"proband": {}}, "family"),
        ({"members": []}, "family"),
        ({"phenotypicFeatures": [{"type": term("HP:1", "x"), "negated": False}]}, "version 1"),
        ({"metaData": {"phenopacketSchemaVersion": "1.0.0"}}, "version 1"),
        ({"subject": {"taxonomy": term("NCBITaxon:10090", "Mus musculus")}}, "not human"),
        ({"meta_data": {}}, "two spellings"),
    ],
)
def test_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read(**content)
    assert caught.value.remedy
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "x", 3, {"a": 1}, [None, 3, "x", {}, {"type": 3}]])
def test_fields_of_another_form_count_as_missing(value: object) -> None:
    for name in ("subject", "phenotypicFeatures", "measurements", "diseases", "medicalActions", "metaData"):
        read(**{name: value})
