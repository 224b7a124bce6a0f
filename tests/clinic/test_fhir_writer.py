"""FHIR output: valid R4B by someone else's models, with the codes these leave open, and addresses that hold together."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.diagnose import DiagnoseOptions, diagnose
from antangel_cli.clinic.result import LIKELIHOODS, TIMINGS
from antangel_cli.clinic.writers import write
from antangel_cli.clinic.writers.fhir_resources import ICD_10_CM
from tests.clinic.cases import adult, prose
from tests.clinic.scripted import answer, diagnosis, model_saying

REQUIRED = tomllib.loads((Path(__file__).parent / "fhir_required.toml").read_text(encoding="utf-8"))
NASTY = 'chest pain <script>alert("x")</script> & "more"'


def bundle(*answers: Any, case: Case | None = None, **about: Any) -> dict[str, Any]:
    told = case or prose("Thunderclap headache. Crushing chest pain radiating to the left arm.")
    record = diagnose(told, DiagnoseOptions(reasoning="show"), model_saying(*answers, **about))
    made: dict[str, Any] = json.loads(write(record, told, "fhir"))
    return made


def of(made: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [e["resource"] for e in made["entry"] if e["resource"]["resourceType"] == kind]


def everything() -> dict[str, Any]:
    """An answer with every likelihood and every timing."""
    diagnoses = [
        diagnosis(f"D{i}", likelihood=band, codes=["I21.9"], cant_miss=True) for i, band in enumerate(LIKELIHOODS)
    ]
    diagnoses[0]["contradicting"] = [{"fact_id": "F1", "why": NASTY}]
    steps = [{"action": NASTY, "kind": "test", "timing": timing, "rationale": ""} for timing in TIMINGS]
    return answer(*diagnoses, next_steps=steps, urgency_reason="")


BUNDLES = {
    "answer": lambda: bundle(answer()),
    "everything": lambda: bundle(everything()),
    "demonstration": lambda: bundle(answer(), demonstration=True),
    "error": lambda: bundle("bad"),
    "quiet": lambda: bundle(answer(red_flags=[], missing_information=[]), case=adult()),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_someone_elses_models_take_it(name: str) -> None:
    made = BUNDLES[name]()
    get_fhir_model_class("Bundle").model_validate_json(json.dumps(made))
    for entry in made["entry"]:
        get_fhir_model_class(entry["resource"]["resourceType"]).model_validate_json(json.dumps(entry["resource"]))


@pytest.mark.parametrize("name", BUNDLES)
def test_required_elements_and_codes(name: str) -> None:
    made = BUNDLES[name]()
    for resource in [made, *(entry["resource"] for entry in made["entry"])]:
        rule = REQUIRED[resource["resourceType"]]
        assert [key for key in rule["required"] if key not in resource] == []
        for key, codes in rule.get("codes", {}).items():
            assert resource[key] in codes
        for key, (system, code) in rule.get("coded", {}).items():
            assert resource[key]["coding"] == [{"system": system, "code": code}]


@pytest.mark.parametrize("name", BUNDLES)
def test_nothing_is_empty_and_every_reference_is_inside(name: str) -> None:
    made = BUNDLES[name]()
    places = {entry["fullUrl"] for entry in made["entry"]} | {"#tool", "#model"}
    assert len(places) == len(made["entry"]) + 2
    for value in walk(made):
        assert value not in ("", [], {}, None)
        if isinstance(value, dict) and "reference" in value:
            assert value["reference"] in places


def walk(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def test_a_result_is_always_the_same_bundle() -> None:
    case = adult()
    record = diagnose(case, DiagnoseOptions(), model_saying())
    assert write(record, case, "fhir") == write(record, case, "fhir")
    other = {**record, "run_id": "00000000-0000-4000-8000-000000000000"}
    assert (
        json.loads(write(other, case, "fhir"))["entry"][0]["fullUrl"]
        != json.loads(write(record, case, "fhir"))["entry"][0]["fullUrl"]
    )


def test_the_differential_keeps_its_order_and_its_codes() -> None:
    made = bundle(everything())
    conditions = of(made, "Condition")
    assert [c["code"]["text"] for c in conditions] == ["D0"]
    assert conditions[0]["code"]["coding"] == [{"system": ICD_10_CM, "code": "I21.9"}]


def test_likelihoods_stand_as_codes_and_words() -> None:
    names = [diagnosis(f"D{i}", likelihood=band) for i, band in enumerate(LIKELIHOODS)]
    (risk,) = of(bundle(answer(*names)), "RiskAssessment")
    said = [(p["qualitativeRisk"]["coding"][0]["code"], p["qualitativeRisk"]["text"]) for p in risk["prediction"]]
    assert said == [("high", "very likely"), ("high", "likely"), ("moderate", "possible"), ("low", "unlikely")]


def test_steps_are_proposals_and_what_waits_says_for_what() -> None:
    requests = of(bundle(everything()), "ServiceRequest")
    assert [r["priority"] for r in requests] == ["stat", "urgent", "routine", "routine", "routine"]
    assert [r.get("asNeededCodeableConcept", {}).get("text") for r in requests] == [None] * 4 + ["if worse"]
    assert NASTY.replace("5 mg", "") in requests[0]["code"]["text"]


def test_red_flags_are_issues() -> None:
    details = [issue["detail"] for issue in of(bundle(answer()), "DetectedIssue")]
    assert "the complaint: serious cause" in details
    assert len(details) > 1


def test_conflicts_are_issues() -> None:
    case = adult()
    record = diagnose(case, DiagnoseOptions(), model_saying())
    conflict = {"drug": "x", "message": "possible conflict: x", "fact_ids": ["F2"]}
    record["checks"]["allergy_conflicts"] = [conflict]
    details = [issue["detail"] for issue in of(json.loads(write(record, case, "fhir")), "DetectedIssue")]
    assert "possible conflict: x" in details


def test_the_subject_is_the_inputs_patient() -> None:
    case = adult()
    case._subject = "Patient/p1"
    record = diagnose(case, DiagnoseOptions(), model_saying())
    made = json.loads(write(record, case, "fhir"))
    assert {r["subject"]["reference"] for r in of(made, "Condition")} == {"Patient/p1"}
    assert of(bundle(answer(), case=adult()), "Condition")[0]["subject"] == {"display": "Case t"}


def test_a_demonstration_is_test_data_in_every_part() -> None:
    made = bundle(answer(), demonstration=True)
    for resource in [made, *(entry["resource"] for entry in made["entry"])]:
        assert [coding["code"] for coding in resource["meta"]["security"]] == ["HTEST"]
    assert "HTEST" not in json.dumps(bundle(answer()))


def test_an_error_keeps_what_the_rules_found() -> None:
    made = bundle("bad")
    (outcome,) = of(made, "OperationOutcome")
    assert outcome["issue"][0]["diagnostics"] == "bad_answer"
    assert of(made, "DetectedIssue")
    assert not of(made, "Condition")


def test_the_notice_goes_with_it() -> None:
    notes = [note["text"] for note in of(bundle(answer()), "ClinicalImpression")[0]["note"]]
    assert any("not a diagnosis" in note for note in notes)
    assert any("not clinically reviewed" in note for note in notes)
    assert any(note.startswith("What was not checked") for note in notes)
    assert any(note.startswith("Reasoning") for note in notes)


def test_provenance_names_tool_and_model() -> None:
    (made,) = of(bundle(answer()), "Provenance")
    assert [device["deviceName"][0]["name"] for device in made["contained"]] == ["antangel", "scripted"]
    assert len(made["target"]) == len(bundle(answer())["entry"]) - 1
