"""A long history in the form of a Synthea export: a transaction Bundle with urn references, decades of visits."""

from __future__ import annotations

import base64
from typing import Any

from tests.clinic.fhir_examples.resources import (
    NAME,
    SNOMED,
    coded,
    encounter,
    observation,
    patient,
    quantity,
    resource,
)

Json = dict[str, Any]


def history(years: int = 20, visits: int = 4) -> Json:
    """A Bundle of `years` with `visits` each; the last, on 2026-10-01, is to the emergency department."""
    entries = [_entry("p1", patient()), _entry("org", {"resourceType": "Organization", "name": "A Clinic"})]
    for year in range(2027 - years, 2027):
        for visit in range(visits):
            entries += _visit(year, f"{year}-{1 + visit * 3:02d}-01T09:00:00-05:00", visit)
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _visit(year: int, start: str, visit: int) -> list[Json]:
    name = f"e-{year}-{visit}"
    last = year == 2026 and start.startswith("2026-10")
    pressure = observation("85354-9", "Blood Pressure", None, "vital-signs", effectiveDateTime=start, component=[
        {"code": coded("http://loinc.org", "8462-4", "Diastolic Blood Pressure"), "valueQuantity": quantity(70 + visit, "mm[Hg]")},
        {"code": coded("http://loinc.org", "8480-6", "Systolic Blood Pressure"), "valueQuantity": quantity(120 + year - 2020, "mm[Hg]")},
    ])  # fmt: skip
    note = f"{start[:10]}\n# Chief Complaint\n{NAME} has chest pain."
    rows = [
        encounter("EMER" if last else "AMB", start, id=name),
        pressure,
        observation("29463-7", "Body Weight", quantity(80 + visit, "kg"), "vital-signs", effectiveDateTime=start),
        observation("4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood", quantity(6.0 + visit, "%"), effectiveDateTime=start),
        resource("Condition", id=f"c-{name}", clinicalStatus=coded("x", "active" if last else "resolved"), code=coded(SNOMED, "444814009", "Viral sinusitis (disorder)" if not last else "Acute bronchitis (disorder)"), encounter={"reference": f"urn:uuid:{name}"}, onsetDateTime=start),
        resource("MedicationRequest", status="active" if last else "completed", intent="order", authoredOn=start, medicationCodeableConcept=coded("http://www.nlm.nih.gov/research/umls/rxnorm", "860975", "Metformin 500 MG")),
        resource("DiagnosticReport", status="final", code=coded("http://loinc.org", "34117-2", "History and physical note"), effectiveDateTime=start, presentedForm=[{"contentType": "text/plain", "data": base64.b64encode(note.encode()).decode()}]),
        resource("DocumentReference", status="current", type=coded("http://loinc.org", "34117-2", "History and physical note"), date=start, context={"period": {"start": start}}, content=[{"attachment": {"contentType": "text/plain; charset=utf-8", "data": base64.b64encode(note.encode()).decode()}}]),
        resource("Immunization", status="completed", vaccineCode=coded("http://hl7.org/fhir/sid/cvx", "140", "Influenza, seasonal"), occurrenceDateTime=start),
        {"resourceType": "Claim", "id": f"cl-{name}", "patient": {"reference": "urn:uuid:p1"}, "status": "active"},
        {"resourceType": "ExplanationOfBenefit", "id": f"eob-{name}", "patient": {"reference": "urn:uuid:p1"}, "status": "active"},
    ]  # fmt: skip
    return [_entry(f"{name}-{i}" if i else name, row) for i, row in enumerate(rows)]


def _entry(name: str, content: Json) -> Json:
    """An entry as Synthea writes it: a urn for the address, references by urn."""
    content = {**content, "id": name}
    for name_of_subject in ("subject", "patient"):
        if name_of_subject in content:
            content[name_of_subject] = {"reference": "urn:uuid:p1"}
    return {
        "fullUrl": f"urn:uuid:{name}",
        "resource": content,
        "request": {"method": "POST", "url": content["resourceType"]},
    }
