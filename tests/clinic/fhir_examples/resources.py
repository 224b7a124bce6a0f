"""Single resources, each in its R4 and its R5 form."""

from __future__ import annotations

from typing import Any

NAME = "Zyxwvut"
"""The invented patient's family name: it may appear nowhere."""

SNOMED, LOINC, UCUM = "http://snomed.info/sct", "http://loinc.org", "http://unitsofmeasure.org"
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
NOW = "2026-11-20T10:00:00-05:00"

Json = dict[str, Any]


def coded(system: str, code: str, display: str | None = None, text: str | None = None) -> Json:
    """A CodeableConcept."""
    coding = {"system": system, "code": code, **({"display": display} if display else {})}
    return {"coding": [coding], **({"text": text} if text else {})}


def state(code: str) -> Json:
    """A status as a CodeableConcept."""
    return coded(CLINICAL, code)


def quantity(value: float, unit: str, code: str | None = None, **more: Any) -> Json:
    """A Quantity with a UCUM code."""
    return {"value": value, "unit": unit, "system": UCUM, "code": code or unit, **more}


def resource(kind: str, **content: Any) -> Json:
    """A resource about patient p1."""
    subject = "patient" if kind in ("AllergyIntolerance", "FamilyMemberHistory", "Immunization") else "subject"
    return {"resourceType": kind, subject: {"reference": "Patient/p1", "display": NAME}, **content}


def patient(**content: Any) -> Json:
    """A Patient with everything that identifies."""
    return {
        "resourceType": "Patient", "id": "p1", "identifier": [{"system": "urn:mrn", "value": "MRN-7788991"}],
        "name": [{"use": "official", "family": NAME, "given": ["Quux"], "prefix": ["Mr."]}],
        "telecom": [{"system": "phone", "value": "555-819-8274"}], "gender": "male", "birthDate": "1961-03-04",
        "address": [{"line": ["470 Larson Fort"], "city": "Millbury", "postalCode": "01527"}],
        "extension": [{"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-birthsex", "valueCode": "M"}],
        "text": {"status": "generated", "div": f"<div>{NAME}</div>"}, **content,
    }  # fmt: skip


def encounter(kind: str = "EMER", start: str = NOW, **content: Any) -> Json:
    """An R4 Encounter."""
    return resource("Encounter", **{
        "id": "e1", "status": "finished", "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": kind},
        "period": {"start": start}, "reasonCode": [coded(SNOMED, "29857009", "Chest pain (finding)")], **content,
    })  # fmt: skip


def observation(
    code: str, display: str, value: Json | None = None, category: str = "laboratory", **content: Any
) -> Json:
    """An Observation with one quantity."""
    values = {"valueQuantity": value} if value else {}
    return resource("Observation", **{
        "status": "final", "category": [coded("http://terminology.hl7.org/CodeSystem/observation-category", category)],
        "code": coded(LOINC, code, display), "effectiveDateTime": NOW, **values, **content,
    })  # fmt: skip


def bundle(*resources: Json, kind: str = "collection", **content: Any) -> Json:
    """A Bundle of these resources."""
    return {"resourceType": "Bundle", "type": kind, "entry": [{"resource": r} for r in resources], **content}


DRUG = coded("http://www.nlm.nih.gov/research/umls/rxnorm", "314076", "lisinopril 10 MG Oral Tablet")
FORMS: dict[str, tuple[Json, tuple[str, str]]] = {
    "AllergyIntolerance R4": (
        resource(
            "AllergyIntolerance",
            code=coded(SNOMED, "764146007", "Penicillin"),
            reaction=[{"manifestation": [coded(SNOMED, "39579001", "Anaphylaxis")], "severity": "severe"}],
        ),
        ("allergy", "Penicillin Anaphylaxis severe"),
    ),
    "AllergyIntolerance R5": (
        resource(
            "AllergyIntolerance",
            code=coded(SNOMED, "764146007", "Penicillin"),
            reaction=[{"manifestation": [{"concept": coded(SNOMED, "39579001", "Anaphylaxis")}]}],
        ),
        ("allergy", "Penicillin Anaphylaxis"),
    ),
    "Condition R4": (
        resource(
            "Condition", clinicalStatus=state("active"), code=coded(SNOMED, "38341003", "Hypertension (disorder)")
        ),
        ("history", "Hypertension"),
    ),
    "DiagnosticReport R4": (
        resource(
            "DiagnosticReport",
            status="final",
            category=[coded("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD")],
            code=coded(LOINC, "36643-5", "Chest X-ray"),
            conclusion="Clear lungs.",
        ),
        ("imaging", "Chest X-ray: Clear lungs."),
    ),
    "DiagnosticReport R5": (
        resource(
            "DiagnosticReport",
            status="final",
            code=coded(LOINC, "34117-2", "Note"),
            presentedForm=[{"contentType": "text/plain; charset=utf-8", "data": "Q291Z2ggZm9yIHR3byBkYXlzLg=="}],
        ),
        ("note", "Note: Cough for two days."),
    ),
    "DocumentReference R4": (
        resource(
            "DocumentReference",
            status="current",
            type=coded(LOINC, "34117-2", "History and physical note"),
            date=NOW,
            content=[{"attachment": {"contentType": "text/plain", "data": "Q291Z2ggZm9yIHR3byBkYXlzLg=="}}],
        ),
        ("note", "History and physical note: Cough for two days."),
    ),
    "Encounter R4": (encounter(), ("complaint", "Chest pain")),
    "Encounter R5": (
        resource(
            "Encounter",
            status="completed",
            actualPeriod={"start": NOW},
            reason=[{"value": [{"concept": coded(SNOMED, "29857009", "Chest pain (finding)")}]}],
            **{"class": [coded("x", "EMER")]},
        ),
        ("complaint", "Chest pain"),
    ),
    "FamilyMemberHistory R4": (
        resource(
            "FamilyMemberHistory",
            status="completed",
            name=NAME,
            relationship=coded("x", "FTH", "father"),
            condition=[
                {"code": coded(SNOMED, "22298006", "Myocardial infarction"), "onsetAge": quantity(50, "years", "a")}
            ],
        ),
        ("family", "father: Myocardial infarction at 50 years"),
    ),
    "Immunization R4": (
        resource(
            "Immunization",
            status="completed",
            vaccineCode=coded("http://hl7.org/fhir/sid/cvx", "140", "Influenza, seasonal, injectable"),
            occurrenceDateTime="2025-10-02T09:00:00-05:00",
        ),
        ("history", "vaccination: Influenza, seasonal, injectable (2025-10-02)"),
    ),
    "MedicationAdministration R4": (
        resource(
            "MedicationAdministration",
            status="completed",
            medicationCodeableConcept=DRUG,
            effectiveDateTime=NOW,
            dosage={"dose": quantity(10, "mg"), "route": coded(SNOMED, "26643006", "Oral route")},
        ),
        ("medication", "lisinopril 10 MG Oral Tablet 10 mg Oral route"),
    ),
    "MedicationAdministration R5": (
        resource(
            "MedicationAdministration",
            status="completed",
            medication={"concept": DRUG},
            occurenceDateTime="2026-01-02",
        ),
        ("medication", "lisinopril 10 MG Oral Tablet"),
    ),
    "MedicationDispense R4": (
        resource(
            "MedicationDispense",
            status="completed",
            medicationCodeableConcept=DRUG,
            whenHandedOver="2026-11-01",
            daysSupply=quantity(30, "d"),
            dosageInstruction=[{"text": "once daily"}],
            receiver=[{"display": NAME}],
        ),
        ("medication", "lisinopril 10 MG Oral Tablet once daily"),
    ),
    "MedicationDispense R5": (
        resource("MedicationDispense", status="completed", medication={"concept": DRUG}, whenHandedOver="2026-11-01"),
        ("medication", "lisinopril 10 MG Oral Tablet"),
    ),
    "MedicationRequest R4": (
        resource(
            "MedicationRequest",
            status="active",
            intent="order",
            medicationCodeableConcept=DRUG,
            dosageInstruction=[{"text": "once daily", "route": coded(SNOMED, "26643006", "Oral route")}],
        ),
        ("medication", "lisinopril 10 MG Oral Tablet once daily Oral route"),
    ),
    "MedicationRequest R5": (
        resource("MedicationRequest", status="active", intent="order", medication={"concept": DRUG}),
        ("medication", "lisinopril 10 MG Oral Tablet"),
    ),
    "MedicationStatement R4": (
        resource(
            "MedicationStatement",
            status="stopped",
            contained=[{"resourceType": "Medication", "id": "m", "code": DRUG}],
            medicationReference={"reference": "#m"},
        ),
        ("medication", "lisinopril 10 MG Oral Tablet stopped"),
    ),
    "MedicationStatement R5": (
        resource(
            "MedicationStatement",
            status="recorded",
            medication={"concept": DRUG},
            adherence={"code": coded("x", "not-taking")},
        ),
        ("medication", "lisinopril 10 MG Oral Tablet stopped"),
    ),
    "Observation R4": (
        observation("8867-4", "Heart rate", quantity(112, "beats/minute", "/min"), "vital-signs"),
        ("vital", "pulse 112 /min"),
    ),
    "Patient R4": (patient(), ("patient", "male")),
    "Procedure R4": (
        resource(
            "Procedure",
            status="completed",
            code=coded(SNOMED, "80146002", "Appendectomy (procedure)"),
            performedDateTime="2012-08-06",
        ),
        ("procedure", "Appendectomy (2012-08-06)"),
    ),
    "Procedure R5": (
        resource(
            "Procedure",
            status="completed",
            code=coded(SNOMED, "80146002", "Appendectomy"),
            occurrencePeriod={"start": "2012-08-06"},
        ),
        ("procedure", "Appendectomy (2012-08-06)"),
    ),
}
"""Name and version -> the resource, and the fact it must make: kind and text."""
