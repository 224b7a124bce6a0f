"""Names of resource types that may be said aloud: a type is no patient text, an invented one may be."""

from __future__ import annotations

from antangel_cli.clinic.rules import load_rules

READ = (
    "AllergyIntolerance", "Condition", "DiagnosticReport", "DocumentReference", "Encounter", "FamilyMemberHistory",
    "Immunization", "MedicationAdministration", "MedicationDispense", "MedicationRequest", "MedicationStatement",
    "Observation", "Patient", "Procedure",
)  # fmt: skip

_KNOWN = {*READ, *load_rules("fhir")["kinds"]["known"]}


def shown_kind(kind: str) -> str:
    """The type's name, or `other`."""
    return kind if kind in _KNOWN else "other"
