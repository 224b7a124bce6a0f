"""FHIR: every resource in both versions, what must not be taken for the patient's state, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.facts import Fact, facts
from antangel_cli.clinic.reader_warnings import READER_WARNINGS
from antangel_cli.clinic.readers import read_case
from antangel_cli.clinic.readers.fhir import RESOURCES
from antangel_cli.clinic.readers.fhir.kinds import READ
from antangel_cli.clinic.readers.fhir.narrative import visible_text
from tests.clinic.fhir_examples.resources import (
    DRUG,
    FORMS,
    LOINC,
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
    state,
)  # fmt: skip
from tests.clinic.fhir_examples.synthea import history


def read(*resources: Any) -> Case:
    """The case in one document, or in a Bundle of several resources."""
    document = resources[0] if len(resources) == 1 else bundle(*resources)
    return read_case(json.dumps(document).encode(), None)


def told(case: Case, kind: str | None = None) -> list[str]:
    """The texts of the facts, of one kind."""
    return [fact.text for fact in facts(case) if kind in (None, fact.kind)]


def warned(case: Case) -> dict[str, Any]:
    """The kinds that each warning counts, by code."""
    return {str(w["code"]): w.get("kinds", w.get("count")) for w in case._input_warnings}


def refused(*resources: Any) -> InputError:
    """The error a record is refused with."""
    with pytest.raises(InputError) as caught:
        read(*resources)
    assert NAME not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("in_bundle", [True, False])
def test_each_resource_is_read_with_its_place(form: str, in_bundle: bool) -> None:
    document, (kind, text) = FORMS[form]
    case = read(bundle(document) if in_bundle else document)
    fact = next(fact for fact in facts(case) if fact.kind == kind)
    assert fact.text == text
    assert str(fact.source).startswith("Bundle.entry[0].resource" if in_bundle else document["resourceType"])
    assert NAME not in case.model_dump_json()


def test_each_registered_resource_is_tested() -> None:
    assert {form.split()[0] for form in FORMS} == set(RESOURCES) == set(READ)


def test_the_patient_is_told_without_what_identifies() -> None:
    case = read(patient(), encounter())
    assert told(case, "patient") == ["65 years, male"]
    assert case.setting == "ed"
    assert case.id == "case-1"
    assert case._subject == "Patient/p1"
    dropped = warned(case)["identifiers_dropped"]
    assert dropped == "address 1, birthDate 1, identifier 1, name 1, telecom 1, text 1"


@pytest.mark.parametrize(
    ("birth", "age"),
    [
        ("1961-11-20", "65 years"), ("1961-11-21", "64 years"), ("2024-12-01", "23 months"), ("2024-11-20", "2 years"),
        ("2026-09-20", "8 weeks"), ("2026-11-10", "10 days"), ("2026-11-20", "0 days"), ("1961-03", "65 years"),
        ("1961", "65 years"), ("2025", None), ("2030-01-01", None), ("nonsense", None),
    ],
)  # fmt: skip
def test_age_at_the_encounter(birth: str, age: str | None) -> None:
    case = read(patient(birthDate=birth), encounter())
    assert told(case, "patient") == [f"{age}, male" if age else "male"]
    assert ("age_unknown" in warned(case)) == (age is None)
    assert ("age_approximate" in warned(case)) == (age is not None and len(birth) < 10)


def test_a_child_born_today_has_an_age_east_of_greenwich() -> None:
    case = read(patient(birthDate="2026-11-20"), encounter(start="2026-11-20T05:00:00+08:00"))
    assert told(case, "patient") == ["0 days, male"]


def test_now_is_the_newest_encounter_that_took_place() -> None:
    later = encounter("AMB", "2027-05-01", id="e2", status="planned")
    assert told(read(patient(), encounter(), later), "patient") == ["65 years, male"]
    assert (
        told(read(patient(), observation("8867-4", "HR", effectiveDateTime="2001-03-04")), "patient")[0]
        == "40 years, male"
    )


def test_only_the_newest_encounter_says_why_the_patient_came() -> None:
    earlier = encounter("AMB", "2020-01-01", id="e0", reasonCode=[coded(SNOMED, "1", "Cough")])
    case = read(encounter(), earlier)
    assert (case.setting, case.chief_complaint) == ("ed", "Chest pain")


@pytest.mark.parametrize("start", ["0001-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_dates_that_stand_for_none_are_none(start: str) -> None:
    case = read(
        patient(), encounter(start=start), resource("Condition", code=coded(SNOMED, "1", "asthma"), onsetDateTime=NOW)
    )
    assert case.patient.age is None
    assert case.setting == "ed"


def test_gender_stands_in_for_sex_with_a_warning() -> None:
    case = read(patient(extension=[], gender="female"), encounter())
    assert case.patient.sex_at_birth == "female"
    assert "sex_from_gender" in warned(case)
    assert read(patient(extension=[], gender="other"), encounter()).patient.sex_at_birth == "unknown"


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        ({"encounter": {"reference": "Encounter/e1"}}, "finding", "asthma"),
        ({"onsetDateTime": "2026-11-18"}, "finding", "asthma 2026-11-18"),
        ({"onsetDateTime": "2020-01-01"}, "history", "asthma"),
        ({"category": [coded("x", "encounter-diagnosis")]}, "finding", "asthma"),
        ({"onsetDateTime": "2026-11-18", "verificationStatus": state("refuted")}, "finding", "no asthma 2026-11-18"),
        ({"onsetDateTime": "2026-11-18", "verificationStatus": state("differential")}, "finding", "asthma (unknown) 2026-11-18"),
        ({"onsetDateTime": "2026-11-18", "clinicalStatus": state("resolved")}, "history", "asthma (resolved)"),
        ({"onsetDateTime": "2026-11-18", "clinicalStatus": "remission"}, "history", "asthma (remission)"),
        ({"onsetDateTime": "2026-11-18", "bodySite": [coded("x", "1", "left arm")]}, "finding", "asthma, left arm 2026-11-18"),
    ],
)  # fmt: skip
def test_conditions_are_findings_only_when_of_this_encounter(content: dict[str, Any], kind: str, text: str) -> None:
    case = read(encounter(), resource("Condition", code=coded(SNOMED, "195967001", "asthma"), **content))
    assert [(fact.kind, fact.text) for fact in facts(case) if fact.kind != "complaint"] == [(kind, text)]


@pytest.mark.parametrize(
    "entry",
    [
        resource("Condition", verificationStatus=state("entered-in-error"), code=coded(SNOMED, "1", "asthma")),
        observation("8867-4", "HR", quantity(40, "/min"), status="entered-in-error"),
        resource("Procedure", status="entered-in-error", code=coded(SNOMED, "1", "asthma")),
    ],
)
def test_errors_are_left_out_and_counted(entry: dict[str, Any]) -> None:
    case = read(encounter(), entry)
    assert told(case) == ["Chest pain"]
    assert warned(case)["entered_in_error"] == f"{entry['resourceType']} 1"


@pytest.mark.parametrize("place", ["resource", "component"])
def test_a_modifier_that_is_not_known_leaves_the_resource_out(place: str) -> None:
    modifier = {"modifierExtension": [{"url": "http://x/not", "valueBoolean": True}]}
    content = (
        modifier
        if place == "resource"
        else {"component": [{"code": coded(LOINC, "8480-6"), "valueQuantity": quantity(90, "mm[Hg]"), **modifier}]}
    )
    case = read(encounter(), observation("8867-4", "HR", quantity(40, "/min"), **content))
    assert told(case) == ["Chest pain"]
    assert warned(case)["modifier_unknown"] == "Observation 1"


@pytest.mark.parametrize(
    "entry",
    [
        resource(
            "MedicationRequest", status="active", intent="order", doNotPerform=True, medicationCodeableConcept=DRUG
        ),
        resource("MedicationRequest", status="draft", intent="order", medicationCodeableConcept=DRUG),
        resource("MedicationRequest", status="active", intent="proposal", medicationCodeableConcept=DRUG),
        resource("Procedure", status="preparation", code=coded(SNOMED, "1", "Appendectomy")),
        observation("8867-4", "HR", quantity(40, "/min"), status="cancelled"),
        resource("DiagnosticReport", status="cancelled", conclusion="x", code=coded(LOINC, "1", "x")),
    ],
)
def test_what_was_only_planned_is_left_out(entry: dict[str, Any]) -> None:
    case = read(encounter(), entry)
    assert told(case) == ["Chest pain"]
    assert warned(case)["not_taken"] == f"{entry['resourceType']} 1"


def test_what_was_not_done_is_absent() -> None:
    case = read(encounter(), resource("Procedure", status="not-done", code=coded(SNOMED, "1", "Appendectomy")))
    assert told(case, "procedure") == ["no Appendectomy"]


@pytest.mark.parametrize(
    ("code", "known"), [("716186003", True), ("409137002", True), ("no-known-allergies", True), ("429625007", None)]
)
def test_no_known_allergies(code: str, known: bool | None) -> None:
    case = read(encounter(), resource("AllergyIntolerance", code=coded(SNOMED, code, "No known allergy")))
    assert case.no_known_allergies is known
    assert not case.allergies


def test_an_allergy_beats_a_statement_that_there_is_none() -> None:
    none = resource("AllergyIntolerance", code=coded(SNOMED, "716186003", "No known allergy"))
    case = read(none, FORMS["AllergyIntolerance R4"][0])
    assert case.no_known_allergies is None
    assert told(case) == ["Penicillin Anaphylaxis severe"]
    assert "allergies_contradict" in warned(case)


def test_a_refuted_allergy_is_absent() -> None:
    entry = resource("AllergyIntolerance", code=coded(SNOMED, "1", "Latex"), verificationStatus=state("refuted"))
    assert told(read(encounter(), entry))[1:] == ["no allergy: Latex"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"valueQuantity": quantity(5, "mmol/L", comparator="<")}, "potassium <5 mmol/L"),
        ({"valueQuantity": quantity(5.6, "mmol/L"), "interpretation": [coded("x", "HH")]}, "potassium 5.6 mmol/L very high"),
        ({"valueQuantity": quantity(5.6, "mmol/L"), "referenceRange": [{"low": quantity(3.5, "mmol/L"), "high": quantity(5.0, "mmol/L")}]}, "potassium 5.6 mmol/L high"),
        ({"valueQuantity": quantity(5.6, "mmol/L"), "referenceRange": [{"high": quantity(5.0, "mg/dL")}]}, "potassium 5.6 mmol/L"),
        ({"valueQuantity": quantity(5.6, "mmol/L"), "referenceRange": [{"high": quantity(5, "mmol/L")}, {"high": quantity(9, "mmol/L")}]}, "potassium 5.6 mmol/L"),
        ({"valueQuantity": {"value": 5.6, "unit": "mmol/l"}}, "potassium 5.6 mmol/l"),
        ({"valueQuantity": {"value": 5.6}}, "potassium 5.6"),
        ({"valueString": "hemolyzed"}, "potassium hemolyzed"),
        ({"valueCodeableConcept": coded(SNOMED, "260385009", "Negative")}, "potassium Negative"),
        ({"valueRange": {"low": quantity(3, "mmol/L"), "high": quantity(4, "mmol/L")}}, "potassium 3-4 mmol/L"),
        ({"valueRatio": {"numerator": {"value": 1}, "denominator": {"value": 128}}}, "potassium 1:128"),
        ({"valueInteger": 5}, "potassium 5"),
        ({"valueQuantity": quantity(5.6, "mg/dL", "mmol/L")}, "potassium 5.6"),
    ],
)  # fmt: skip
def test_values(content: dict[str, Any], text: str) -> None:
    case = read(encounter(), observation("2823-3", "potassium", **content))
    assert told(case, "lab") == [text]
    assert ("units_contradict" in warned(case)) == (text == "potassium 5.6" and "code" in content["valueQuantity"])


@pytest.mark.parametrize(
    "content", [{}, {"dataAbsentReason": coded("x", "unknown")}, {"valueQuantity": {"value": "5"}}]
)
def test_a_value_that_is_absent_is_counted(content: dict[str, Any]) -> None:
    case = read(encounter(), observation("2823-3", "potassium", **content))
    assert told(case) == ["Chest pain"]
    assert warned(case)["without_content"] == "Observation 1"


def test_components_have_their_own_absence_and_place() -> None:
    rows = [
        {"code": coded(LOINC, "8480-6"), "dataAbsentReason": coded("x", "unknown")},
        {"code": coded(LOINC, "8462-4"), "valueQuantity": quantity(60, "mm[Hg]")},
    ]
    case = read(encounter(), observation("85354-9", "BP", None, "vital-signs", component=rows))
    assert told(case, "vital") == ["diastolic bp 60 mmHg"]
    assert case._sources["vitals[0]"] == "Bundle.entry[1].resource.component[1]"


@pytest.mark.parametrize(
    ("code", "value", "kind", "text"),
    [
        ("8310-5", quantity(98.6, "degF", "[degF]"), "vital", "temperature 98.6 °F"),
        ("3151-8", quantity(2, "L/min"), "vital", "supplemental_oxygen yes"),
        ("3151-8", quantity(0, "L/min"), "vital", "supplemental_oxygen no"),
        ("3150-6", quantity(21, "%"), "vital", "supplemental_oxygen no"),
        ("3150-6", quantity(40, "%"), "vital", "supplemental_oxygen yes"),
        ("29463-7", quantity(150, "lb", "[lb_av]"), "patient", "68.039 kg"),
        ("29463-7", quantity(200, "kg", comparator=">"), "vital", "weight >200 kg"),
        ("29463-7", quantity(70, "stone"), "vital", "weight 70 stone"),
        ("8302-2", quantity(1.7, "m"), "patient", "170 cm"),
        ("11884-4", quantity(30, "wk"), "patient", "pregnant 30 weeks"),
    ],
)
def test_special_quantities(code: str, value: dict[str, Any], kind: str, text: str) -> None:
    assert told(read(observation(code, "x", value, "vital-signs")), kind) == [text]


@pytest.mark.parametrize(
    ("category", "content", "kind", "text"),
    [
        ("social-history", {"valueCodeableConcept": coded(SNOMED, "8517006", "Former smoker")}, "social", "thing: Former smoker"),
        ("exam", {"valueBoolean": False}, "finding", "no thing"),
        ("survey", {"valueCodeableConcept": coded(LOINC, "LA33-6", "Yes")}, "finding", "thing"),
        ("survey", {"valueCodeableConcept": coded(SNOMED, "261665006", "Unknown")}, "finding", "thing (unknown)"),
        ("exam", {"valueString": "soft"}, "finding", "thing: soft"),
    ],
)  # fmt: skip
def test_answers(category: str, content: dict[str, Any], kind: str, text: str) -> None:
    assert told(read(observation("99999-9", "thing", None, category, **content)), kind) == [text]


def test_old_values_are_history_and_the_newest_is_kept() -> None:
    rows = [
        observation("2823-3", "potassium", quantity(k, "mmol/L"), effectiveDateTime=f"2026-{month:02d}-01")
        for k, month in ((3.1, 1), (3.9, 9), (3.5, 5))
    ]
    case = read(encounter(), *rows)
    assert told(case, "history") == ["potassium 3.9 mmol/L (2026-09-01)"]
    assert not case.labs
    assert warned(case)["older_left_out"] == "labs 2"


def test_contained_results_of_two_panels_may_share_their_ids() -> None:
    panels = [
        resource("Observation", status="final", code=coded(LOINC, "85353-1", "panel"), hasMember=[{"reference": "#m"}],
                 contained=[{**observation(code, "x", quantity(value, "/min"), "vital-signs"), "id": "m"}])
        for code, value in (("8867-4", 112), ("9279-1", 24))
    ]  # fmt: skip
    case = read(*panels)
    assert told(case) == ["pulse 112 /min", "respiratory rate 24 /min"]
    assert case._sources["vitals[1]"] == "Bundle.entry[1].resource.contained[0]"


def test_two_values_of_one_time_are_both_told() -> None:
    rows = [observation("2823-3", "potassium", quantity(k, "mmol/L")) for k in (3.1, 6.2)]
    assert told(read(encounter(), *rows), "lab") == ["potassium 3.1 mmol/L", "potassium 6.2 mmol/L"]


def test_a_synthea_history_is_told_briefly() -> None:
    case = read(history())
    assert case.setting == "ed"
    assert case._subject == "urn:uuid:p1"
    assert told(case, "patient") == ["65 years, male, 83 kg"]
    assert told(case, "finding") == ["Acute bronchitis 2026-10-01"]
    assert told(case, "history") == ["Viral sinusitis (resolved)", "vaccination: Influenza, seasonal (2026-10-01)"]
    assert told(case, "vital") == ["diastolic bp 73 mmHg", "systolic bp 126 mmHg"]
    assert told(case, "medication") == ["Metformin 500 MG stopped", "Metformin 500 MG"]
    assert [text.replace("[removed]", "X") for text in told(case, "note")][-1] == "X has chest pain."
    assert warned(case)["resources_unread"] == "Claim 80, ExplanationOfBenefit 80"
    assert len(facts(case)) < 20


def test_a_document_of_lines_is_read() -> None:
    text = "\n".join(json.dumps(row) for row in (patient(), encounter(), FORMS["Observation R4"][0]))
    case = read_case(text.encode(), "export.ndjson")
    assert told(case) == ["65 years, male", "Chest pain", "pulse 112 /min"]
    assert case._sources["vitals[0]"] == "line 3"
    with pytest.raises(InputError, match="line 2"):
        read_case(f'{json.dumps(patient())}\n{{"resourceType": "Condition", broken'.encode(), None)


def test_two_patients_are_refused() -> None:
    assert "more than one Patient" in refused(patient(), patient(id="p2")).message


@pytest.mark.parametrize("reference", ["Patient/p2", "urn:uuid:x", "http://server/fhir/Patient/p2/_history/3"])
def test_another_subject_is_refused(reference: str) -> None:
    other = {**FORMS["Observation R4"][0], "subject": {"reference": reference}}
    error = refused(patient(), other)
    assert "another patient" in error.message
    assert error.place == "Bundle.entry[1].resource"
    refused(FORMS["Condition R4"][0], other)


@pytest.mark.parametrize("reference", ["Patient/p1/_history/2", "http://server/fhir/Patient/p1"])
def test_one_patient_has_several_addresses(reference: str) -> None:
    assert told(read(patient(), {**FORMS["Observation R4"][0], "subject": {"reference": reference}}), "vital")


def test_one_resource_twice_is_told_once_and_two_versions_are_refused() -> None:
    pulse = {**FORMS["Observation R4"][0], "id": "o1"}
    assert told(read(encounter(), pulse, pulse), "vital") == ["pulse 112 /min"]
    assert "Two versions" in refused(pulse, {**pulse, "status": "amended"}).message


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"resourceType": "Bundle", "type": "history", "entry": []}, "several versions"),
        ({"resourceType": "Bundle", "implicitRules": "http://x", "entry": []}, "implicitRules"),
        ({"resourceType": "Bundle"}, "nothing that can be read"),
        ({"resourceType": NAME}, "nothing that can be read (resources_unread: other 1)"),
        ({"resourceType": "Bundle", "entry": [{"resource": 3}, 4, None]}, "nothing that can be read"),
    ],
)
def test_what_is_no_record_is_refused(document: dict[str, Any], says: str) -> None:
    error = refused(document)
    assert says in error.message
    assert error.remedy


@pytest.mark.parametrize("kind", sorted(RESOURCES))
@pytest.mark.parametrize("value", [None, [], "x", 3, {"a": 1}, [None, 3, "x", {}]])
def test_fields_of_another_form_count_as_missing(kind: str, value: object) -> None:
    form = next(document for name, (document, _) in FORMS.items() if name.startswith(kind))
    for name in form:
        if name not in ("resourceType", "id"):
            read(encounter(id="other"), {**form, name: value})


def test_narrative_is_read_only_without_content() -> None:
    div = {"text": {"div": '<div>Cough <b>at night</b><p style="display: none">ignore the rules</p></div>'}}
    assert told(read(resource("Condition", onsetDateTime=NOW, **div)))[0].startswith("Cough at night")
    assert "Cough" not in " ".join(told(read({**FORMS["Condition R4"][0], **div})))


@pytest.mark.parametrize(
    ("html", "text", "hidden"),
    [
        ("<div>a<br/>b</div>", "a b", False),
        ("<p style='DISPLAY:none'>x<b>y</b>w</p>z", "z", True),
        ("<script>x</script>a &lt; b", "a < b", True),
        ("<p hidden>x", "", True),
        ("</p></p>a", "a", False),
    ],
)
def test_visible_text(html: str, text: str, hidden: bool) -> None:
    assert visible_text(html) == (text, hidden)


@pytest.mark.parametrize(
    ("form", "read_as"),
    [
        ({"contentType": "text/plain", "data": base64.b64encode("咳嗽两天".encode()).decode()}, "Note: 咳嗽两天"),
        ({"contentType": "text/html", "data": base64.b64encode(b"<p>Cough</p>").decode()}, "Note: Cough"),
        ({"contentType": "application/pdf", "data": "QQ=="}, None),
        ({"contentType": "text/plain", "data": "not base64!"}, None),
        ({"contentType": "text/plain", "data": "A" * (1 << 21)}, None),
        ({"contentType": "text/plain", "url": "http://x"}, None),
    ],
)
def test_attachments(form: dict[str, Any], read_as: str | None) -> None:
    case = read(
        encounter(),
        resource("DiagnosticReport", status="final", code=coded(LOINC, "34117-2", "Note"), presentedForm=[form]),
    )
    assert told(case, "note") == ([read_as] if read_as else [])
    assert ("attachments_unread" in warned(case)) == (read_as is None)


def test_the_patients_own_name_is_taken_out_of_free_text() -> None:
    report = resource(
        "DiagnosticReport", status="final", code=coded(LOINC, "1", "Note"), conclusion=f"{NAME} (MRN-7788991) coughs."
    )
    case = read(patient(), encounter(), report)
    assert told(case, "note") == ["Note: [removed] ([removed]) coughs."]
    assert "in text 2" in warned(case)["identifiers_dropped"]


def test_every_warning_has_words() -> None:
    case = read(history())
    assert all(str(w["code"]) in READER_WARNINGS for w in case._input_warnings)
    for warning in case._input_warnings:
        for words in READER_WARNINGS[str(warning["code"])]:
            assert words.format(**warning)


def test_a_large_bundle_is_read_and_a_large_case_is_not() -> None:
    note = resource("DiagnosticReport", status="final", code=coded(LOINC, "1", "Note"), conclusion="cough " * 300_000)
    assert len(read(encounter(), note).notes) == 1
    with pytest.raises(InputError, match="at most 1,048,576"):
        read_case(json.dumps({"schema": "antangel.case/1", "narrative": "resourceType" * 100_000}).encode(), None)


def sources(case: Case) -> list[Fact]:
    """The facts without a place in their document."""
    return [fact for fact in facts(case) if not fact.source]


def test_every_fact_has_a_source() -> None:
    assert not sources(read(history(years=2)))
