"""What the published examples of FHIR, and files of other programs, showed to be missed or mistaken."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fhir.resources import get_fhir_model_class as model_of_r5
from fhir.resources.R4B import get_fhir_model_class as model_of_r4

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.readers import read_case
from tests.clinic.fhir_examples.resources import (
    FORMS,
    NAME,
    NOW,
    SNOMED,
    bundle,
    coded,
    encounter,
    observation,
    patient,
    quantity,
    resource,
)
from tests.clinic.fhir_examples.synthea import history

BILLS = {"Claim", "ExplanationOfBenefit"}
"""What is counted and not read, and so not written out in full."""
PULSE = FORMS["Observation R4"][0]
INGREDIENTS = [{"itemCodeableConcept": {"text": "amino acids"}}, {"item": {"concept": {"text": "glucose"}}}]


PUBLISHED = {path.stem: path for path in (Path(__file__).parent / "fhir_examples" / "published").iterdir()}
FACTS = {
    "AllergyIntolerance-nkla": [("history", "No Known Latex Allergy")],
    "Bundle-ips-minimal": [
        ("patient", "44 years, female"),
        ("history", "Menopausal flushing"),
        ("medication", "Product containing anastrozole (medicinal product) 1 tablet Oral use"),
        ("allergy", "Substance with penicillin structure high risk"),
    ],
    "Condition-f201": [("history", "Fever, Entire body as a whole (resolved)")],
    "Encounter-xcda": [("complaint", "Arm")],
    "FamilyMemberHistory-mother": [("family", "mother: Stroke at 56 yr")],
    "Immunization-historical": [("history", "vaccination: Influenza (January 2012)")],
    "MedicationAdministration-medadmin0302": [("medication", "Potassium Chloride + Sodium Chloride 0.9%")],
    "MedicationRequest-medrx0323": [("medication", "Clinimix 4.25/10 sulfite-free")],
    "Observation-alcohol-type": [
        ("social", f"Type of alcohol consumed: {drink}") for drink in ("Wine", "Beer", "Liquor")
    ],
    "Observation-blood-pressure-dar": [("vital", "systolic bp 107 mmHg")],
    "Observation-example-genetics-3": [("finding", "Further analysis: The EGFR p.L858R mutation")],
    "Observation-glasgow": [
        ("finding", "GCS Motor: 5 (Localizes painful stimuli)"),
        ("finding", "GSC Verbal: 4 (Confused, disoriented)"),
        ("finding", "Eyes: 4 (Opens eyes spontaneously)"),
        ("vital", "gcs 13"),
    ],
    "Procedure-colonoscopy": [("procedure", "Colonoscopy; complication: Perforated intestine condition")],
}
"""Of published examples: the kind of each fact, and how its text begins."""


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_examples(name: str) -> None:
    data = PUBLISHED[name].read_bytes()
    if name == "Observation-trachcare":
        with pytest.raises(InputError, match="about_another: Observation 1"):
            read_case(data, None)
        return
    found = facts(read_case(data, None))
    assert [fact.kind for fact in found] == [kind for kind, _ in FACTS[name]]
    assert all(fact.text.startswith(text) for fact, (_, text) in zip(found, FACTS[name], strict=True))


def read(*resources: Any) -> Case:
    """The case in a Bundle of these resources."""
    return read_case(json.dumps(bundle(*resources)).encode(), None)


def told(case: Case, kind: str) -> list[str]:
    """The texts of the facts of one kind."""
    return [fact.text for fact in facts(case) if fact.kind == kind]


def warned(case: Case) -> dict[str, Any]:
    """The kinds that each warning counts, by code."""
    return {str(warning["code"]): warning.get("kinds") for warning in case._input_warnings}


def test_a_patient_with_a_urn_is_also_known_by_id() -> None:
    document = bundle(patient(), PULSE, FORMS["Condition R4"][0])
    document["entry"][0]["fullUrl"] = "urn:uuid:7"
    document["entry"][1]["resource"] = {**PULSE, "subject": {"reference": "urn:uuid:7"}}
    case = read_case(json.dumps(document).encode(), None)
    assert told(case, "vital") == ["pulse 112 /min"]
    assert told(case, "history") == ["Hypertension"]


def test_the_only_encounter_counts_without_a_date() -> None:
    undated = {key: value for key, value in encounter().items() if key != "period"}
    case = read(undated, observation("8867-4", "HR", quantity(90, "/min"), effectiveDateTime="2001-03-04"), patient())
    assert (case.setting, case.chief_complaint) == ("ed", "Chest pain")
    assert told(case, "patient") == ["40 years, male"]
    two = read(undated, {**undated, "id": "e9"}, PULSE)
    assert (two.setting, two.chief_complaint) == ("unknown", None)
    assert read(undated, encounter("AMB", id="e2")).setting == "clinic"


@pytest.mark.parametrize("kind", ["Observation", "MedicationRequest", "FamilyMemberHistory", "DiagnosticReport"])
def test_a_generated_list_of_fields_is_no_narrative(kind: str) -> None:
    listed = f"<div><p><b>Generated Narrative with Details</b></p><p>id: 3</p><p>subject: {NAME}</p></div>"
    case = read(encounter(), resource(kind, status="final", text={"status": "generated", "div": listed}))
    assert NAME not in case.model_dump_json()
    assert len(facts(case)) == 1
    assert warned(case)["without_content"] == f"{kind} 1"


def test_a_drug_without_a_name_is_told_by_what_is_in_it() -> None:
    mixture = {"resourceType": "Medication", "id": "m", "ingredient": INGREDIENTS}
    order = resource("MedicationRequest", status="active", intent="order", medicationReference={"reference": "#m"})
    assert told(read({**order, "contained": [mixture]}), "medication") == ["amino acids + glucose"]
    named = {**mixture, "code": {"text": "TPN"}}
    assert told(read({**order, "contained": [named]}), "medication") == ["TPN"]


@pytest.mark.parametrize(
    "about",
    [
        {"focus": [{"reference": "Patient/fetus"}]},
        {"focus": [{"reference": "RelatedPerson/mother"}]},
        {"subject": {"reference": "Group/herd"}},
        {"subject": {"reference": "http://server/fhir/Location/ward/_history/1"}},
    ],
)
def test_what_is_about_another_is_left_out_and_counted(about: dict[str, Any]) -> None:
    case = read(patient(), encounter(), {**PULSE, **about})
    assert not case.vitals
    assert warned(case)["about_another"] == "Observation 1"


@pytest.mark.parametrize(
    "about",
    [
        {"focus": [{"reference": "Patient/p1"}]},
        {"subject": {"reference": "Patient?identifier=http://acme.org/mrn|1"}},
        {"subject": {"display": "the patient"}},
    ],
)
def test_what_is_about_the_patient_in_other_words_is_kept(about: dict[str, Any]) -> None:
    assert told(read(patient(), encounter(), {**PULSE, **about}), "vital") == ["pulse 112 /min"]


@pytest.mark.parametrize(
    ("text", "none_known", "kind"),
    [
        ("No known allergies", True, None), ("NKDA", True, None), ("no known drug allergies", True, None),
        ("No Known Latex Allergy", None, "history"), ("Allergy to peanut", None, "allergy"),
    ],
)  # fmt: skip
def test_no_allergy_in_words_alone(text: str, none_known: bool | None, kind: str | None) -> None:
    case = read(encounter(), resource("AllergyIntolerance", code={"text": text}))
    assert case.no_known_allergies is none_known
    assert bool(case.allergies) == (kind == "allergy")
    assert told(case, "history") == ([text] if kind == "history" else [])


def test_no_latex_allergy_says_nothing_of_other_allergies() -> None:
    case = read(encounter(), resource("AllergyIntolerance", code=coded(SNOMED, "716184000", "No allergy to latex")))
    assert (case.no_known_allergies, case.allergies) == (None, ())


def test_components_without_a_name_have_that_of_the_whole() -> None:
    drinks = [{"code": {"coding": [{"code": "x"}]}, "valueCodeableConcept": {"text": t}} for t in ("Wine", "Beer")]
    case = read(observation("74013-4", "Alcohol", None, "social-history", component=drinks))
    assert told(case, "social") == ["Alcohol: Wine", "Alcohol: Beer"]


def test_an_unnamed_component_is_no_vital_sign() -> None:
    part = [{"code": {"coding": [{"code": "x"}]}, "valueQuantity": quantity(7, "/min")}]
    case = read(observation("8867-4", "Heart rate", quantity(90, "/min"), "vital-signs", component=part))
    assert [row.value for row in case.vitals if row.name == "pulse"] == [90]


def test_a_habit_in_numbers_is_social_history() -> None:
    case = read(observation("74013-4", "Drinks per day", quantity(3, "d"), "social-history"))
    assert told(case, "social") == ["Drinks per day: 3 d"]
    assert not case.labs


def test_complications_of_a_procedure_are_told() -> None:
    scope = resource(
        "Procedure", status="completed", code=coded(SNOMED, "73761001", "Colonoscopy"), performedDateTime="2026-11-19",
        complication=[{"text": "bleeding"}], complicationDetail=[{"display": "Perforated intestine"}],
    )  # fmt: skip
    assert told(read(scope), "procedure") == [
        "Colonoscopy (2026-11-19); complication: bleeding; complication: Perforated intestine"
    ]


def test_vaccines_are_history_and_one_not_given_is_absent() -> None:
    given = FORMS["Immunization R4"][0]
    case = read(given, {**given, "status": "not-done", "occurrenceDateTime": NOW})
    assert told(case, "history") == [
        "vaccination: Influenza, seasonal, injectable (2025-10-02)",
        "no vaccination: Influenza, seasonal, injectable",
    ]


@pytest.mark.parametrize("seen", ["2026-11-19", "2024-01-01"])
def test_what_was_seen_long_ago_is_history_with_its_date(seen: str) -> None:
    tender = observation("x", "Abdominal tenderness", None, "exam", valueBoolean=False, effectiveDateTime=seen)
    case = read(encounter(), tender)
    recent = seen.startswith("2026")
    assert told(case, "finding") == (["no Abdominal tenderness"] if recent else [])
    assert told(case, "history") == ([] if recent else ["no Abdominal tenderness (2024-01-01)"])


def test_smoking_is_social_history_in_any_category() -> None:
    smoking = observation("72166-2", "Tobacco smoking status NHIS", None, "survey", valueCodeableConcept={"text": "No"})
    assert told(read(smoking), "social") == ["Tobacco smoking status NHIS: No"]


def test_a_semantic_tag_is_cut_from_the_text_too() -> None:
    named = {"text": "Sinusitis (disorder)", "coding": [{"system": SNOMED, "code": "36971009"}]}
    assert told(read(resource("Condition", code=named)), "history") == ["Sinusitis"]


@pytest.mark.parametrize(
    ("more", "status"),
    [({}, "pregnant"), ({"onsetDateTime": "2026-03-20"}, "pregnant"), ({"clinicalStatus": coded("x", "resolved")}, "unknown"),
     ({"verificationStatus": coded("x", "refuted")}, "unknown"), ({"onsetDateTime": "2020-01-01"}, "unknown")],
)  # fmt: skip
def test_a_pregnancy_on_the_problem_list_is_one(more: dict[str, Any], status: str) -> None:
    problem = resource(
        "Condition", **{"code": coded(SNOMED, "72892002", "Normal pregnancy"), "onsetDateTime": NOW, **more}
    )
    found = read(patient(gender="female", extension=[]), encounter(), problem).patient.pregnancy
    assert (found.status if found else "unknown") == status


@pytest.mark.parametrize(("category", "seen"), [("exam", "2024-01-01"), ("exam", NOW), ("social-history", NOW)])
def test_the_patients_name_is_taken_out_of_what_was_observed(category: str, seen: str) -> None:
    said = observation("x", "Remark", None, category, valueString=f"{NAME} feels well", effectiveDateTime=seen)
    case = read(patient(), encounter(), said)
    assert NAME not in case.model_dump_json()
    assert "[removed] feels well" in case.model_dump_json()


def test_a_time_in_words_is_not_cut() -> None:
    vaccine = {key: value for key, value in FORMS["Immunization R4"][0].items() if key != "occurrenceDateTime"}
    case = read({**vaccine, "occurrenceString": "January 2012"})
    assert told(case, "history") == ["vaccination: Influenza, seasonal, injectable (January 2012)"]


def test_the_note_of_an_observation_without_a_value_is_told() -> None:
    notes = [{"text": "Associated with a response."}, {"text": ""}, {"time": NOW}]
    case = read(observation("81247-9", "Further analysis", None, note=notes))
    assert told(case, "finding") == ["Further analysis: Associated with a response."]


@pytest.mark.parametrize(
    ("given", "status", "stands"),
    [(NOW, "completed", "active"), ("2026-11-01", "completed", "stopped"), (NOW, "not-done", None)],
)
def test_a_dose_given_today_may_still_act(given: str, status: str, stands: str | None) -> None:
    dose = {**FORMS["MedicationAdministration R4"][0], "effectiveDateTime": given, "status": status}
    case = read(encounter(), dose)
    assert [drug.status for drug in case.medications] == ([stands] if stands else [])
    assert ("not_taken" in warned(case)) == (stands is None)


def test_a_note_that_is_a_report_and_a_document_is_told_once() -> None:
    report, document = FORMS["DiagnosticReport R5"][0], FORMS["DocumentReference R4"][0]
    assert told(read(encounter(), report, document), "note") == ["Note: Cough for two days."]
    old = {**document, "context": {"period": {"start": "2020-01-01"}}}
    case = read(encounter(), old, {**document, "status": "superseded"})
    assert not case.notes
    assert warned(case)["older_left_out"] == "DocumentReference 2"


@pytest.mark.parametrize(("at", "recent"), [("2026-10-21T10:00:00-05:00", True), ("2026-10-21T09:59:00-05:00", False)])
def test_thirty_days_before_the_case_is_told_is_the_oldest_that_is_present(at: str, recent: bool) -> None:
    report = {**FORMS["DiagnosticReport R4"][0], "effectiveDateTime": at}
    document = {**FORMS["DocumentReference R4"][0], "context": {"period": {"start": at}}}
    for dated in (report, document):
        case = read(encounter(), dated)
        assert bool(case.notes or case.imaging) == recent
        assert ("older_left_out" in warned(case)) != recent
    asthma = resource("Condition", code=coded(SNOMED, "195967001", "Asthma"), onsetDateTime=at)
    assert told(read(encounter(), asthma), "finding" if recent else "history")


def test_documents_that_are_no_text_are_counted() -> None:
    forms = [{"contentType": "application/pdf", "data": "QQ=="}, {"contentType": "text/plain", "url": "Binary/1"}]
    document = {**FORMS["DocumentReference R4"][0], "content": [{"attachment": form} for form in forms]}
    assert warned(read(encounter(), document))["attachments_unread"] == "DocumentReference 2"


def test_a_synthea_history_of_a_thousand_entries_is_read_in_a_second() -> None:
    document = history(years=25)
    assert len(document["entry"]) > 1000
    data = json.dumps(document).encode()
    started = time.process_time()
    case = read_case(data, None)
    assert time.process_time() - started < 1
    newest = [row.time for row in case.vitals]
    assert set(newest) == {"2026-10-01T09:00:00-05:00"}
    assert warned(case)["resources_unread"] == "Claim 100, ExplanationOfBenefit 100"


def test_a_vital_sign_of_an_earlier_visit_is_kept_with_its_date() -> None:
    early = observation("9279-1", "Breaths", quantity(24, "/min"), "vital-signs", effectiveDateTime="2026-07-01")
    document = history(years=1)
    document["entry"].append({"resource": {**early, "subject": {"reference": "urn:uuid:p1"}}})
    case = read_case(json.dumps(document).encode(), None)
    assert "respiratory rate 24 /min (2026-07-01)" in told(case, "history")
    assert [row.name for row in case.vitals] == ["diastolic bp", "systolic bp"]


def _written() -> Iterator[dict[str, Any]]:
    yield from (document for name, (document, _) in FORMS.items() if name.endswith("R4"))
    yield from (entry["resource"] for entry in history(years=1)["entry"])


@pytest.mark.parametrize("kind", sorted({document["resourceType"] for document in _written()} - BILLS))
def test_what_readers_are_tested_with_is_fhir_by_the_models_of_others(kind: str) -> None:
    for document in _written():
        if document["resourceType"] == kind:
            model_of_r4(kind).model_validate(document)


@pytest.mark.parametrize("form", [form for form in FORMS if form.endswith("R5")])
def test_what_is_of_r5_is_so_by_the_models_of_others(form: str) -> None:
    model_of_r5(form.split()[0]).model_validate(FORMS[form][0])
