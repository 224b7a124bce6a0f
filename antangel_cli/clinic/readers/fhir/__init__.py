"""FHIR R4 and R5 as JSON: a Bundle of any type, a single resource, or a line for each (bulk export)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.privacy import without_words
from antangel_cli.clinic.readers.fhir.allergy import read_allergy, without_contradiction
from antangel_cli.clinic.readers.fhir.bundle import Record, Resource, about_another, record_of, subject_of
from antangel_cli.clinic.readers.fhir.condition import read_condition
from antangel_cli.clinic.readers.fhir.document import read_document
from antangel_cli.clinic.readers.fhir.encounter import read_encounter
from antangel_cli.clinic.readers.fhir.family import read_family
from antangel_cli.clinic.readers.fhir.immunization import read_immunization
from antangel_cli.clinic.readers.fhir.kinds import READ, shown_kind
from antangel_cli.clinic.readers.fhir.medication import read_medication
from antangel_cli.clinic.readers.fhir.newest import each_text_once, newest_of_each, old_values_as_history
from antangel_cli.clinic.readers.fhir.observation import read_observation
from antangel_cli.clinic.readers.fhir.patient import identifying_words, read_patient
from antangel_cli.clinic.readers.fhir.procedure import read_procedure
from antangel_cli.clinic.readers.fhir.report import read_report
from antangel_cli.clinic.readers.fhir.values import codes_of
from antangel_cli.clinic.readers.intake import DEEPEST_FHIR, Intake
from antangel_cli.clinic.readers.parts import Found, Part, Remark, assemble, warnings
from antangel_cli.clinic.readers.strict_json import parse_json
from antangel_cli.clinic.rules import load_rules

RESOURCES: dict[str, Callable[[Resource, Record], Iterator[Found]]] = {
    "AllergyIntolerance": read_allergy,
    "Condition": read_condition,
    "DiagnosticReport": read_report,
    "DocumentReference": read_document,
    "Encounter": read_encounter,
    "FamilyMemberHistory": read_family,
    "Immunization": read_immunization,
    "MedicationAdministration": read_medication,
    "MedicationDispense": read_medication,
    "MedicationRequest": read_medication,
    "MedicationStatement": read_medication,
    "Observation": read_observation,
    "Patient": read_patient,
    "Procedure": read_procedure,
}
"""The reader of each resource type; `kinds.READ` names the same."""

_IDENTIFYING = {name: frozenset(fields) for name, fields in load_rules("fhir")["identifying"].items()}
_FREE_TEXT = {"notes", "imaging", "findings", "social", "chief_complaint"}


def read_fhir(intake: Intake, case_id: str) -> Case:
    """Read one patient's record. Raises InputError when it is more than one's, or no FHIR."""
    record = record_of(_documents(intake))
    found = without_contradiction([part for resource in record.resources for part in _read(resource, record)])
    parts = _without_names(newest_of_each(each_text_once(found)), identifying_words(record.patient))
    rows = [*old_values_as_history(parts, record.now), *_identifying(record)]
    if not any(isinstance(row, Part) for row in rows):
        raise _nothing_read(rows)
    return assemble(case_id, rows, subject_of(record))


def _nothing_read(rows: list[Found]) -> InputError:
    """Why: what was left out, by the codes of the warnings and the types they count."""
    why = "; ".join(
        f"{w['code']}: {w['kinds']}" for w in warnings([r for r in rows if isinstance(r, Remark)]) if "kinds" in w
    )
    message = "This FHIR document holds nothing that can be read" + (f" ({why})." if why else ".")
    return InputError(message, f"Export some of: {', '.join(READ)}.")


def is_lines(text: str) -> bool:
    """Whether a text is a bulk export: a whole resource on its first line, and more lines after it."""
    first, _, rest = text.lstrip().partition("\n")
    whole = first.startswith("{") and first.rstrip().endswith("}") and '"resourceType"' in first
    return whole and rest.lstrip().startswith("{")


def _documents(intake: Intake) -> Iterator[tuple[str, Any]]:
    if not is_lines(intake.text):
        yield "", intake.document
        return
    for number, line in enumerate(intake.text.split("\n"), 1):
        if line.strip():
            try:
                content, hidden = parse_json(line, DEEPEST_FHIR)
            except InputError as error:
                raise InputError(error.message, error.remedy, f"line {number}") from None
            intake.dropped.update(hidden)
            yield f"line {number}", content


def _read(resource: Resource, record: Record) -> Iterator[Found]:
    kind = shown_kind(resource.kind)
    if resource.kind not in RESOURCES:
        if resource.kind not in ("Medication", *_IDENTIFYING["people"]):
            yield Remark("resources_unread", kind)
    elif _in_error(resource):
        yield Remark("entered_in_error", kind)
    elif _modified(resource.content):
        yield Remark("modifier_unknown", kind)
    elif about_another(resource, record):
        yield Remark("about_another", kind)
    else:
        yield from RESOURCES[resource.kind](resource, record)


def _in_error(resource: Resource) -> bool:
    status = codes_of(resource.content.get("status")) | codes_of(resource.content.get("verificationStatus"))
    return "entered-in-error" in status


def _modified(value: Any) -> bool:
    """Whether something in it may change its meaning in a way that is not known here."""
    if isinstance(value, dict):
        return bool(value.get("modifierExtension") or value.get("implicitRules")) or any(map(_modified, value.values()))
    return isinstance(value, list) and any(map(_modified, value))


def _without_names(found: Iterator[Found], known: set[str]) -> Iterator[Found]:
    """Take the patient's own names and numbers out of free text, and count them."""
    for row in found:
        if not isinstance(row, Part) or row.section not in _FREE_TEXT:
            yield row
            continue
        counts: Counter[str] = Counter()
        content = {name: _cut(value, known, counts) for name, value in row.content.items()}
        yield replace(row, content=content)
        yield from (Remark("identifiers_dropped", kind) for kind in counts.elements())


def _cut(value: Any, known: set[str], counts: Counter[str]) -> Any:
    if not isinstance(value, str):
        return value
    text, count = without_words(value, known)
    counts["in text"] += count
    return text


def _identifying(record: Record) -> Iterator[Found]:
    """A remark for each field, and each person's resource, that was dropped because it identifies."""
    for resource in record.resources:
        if resource.kind in _IDENTIFYING["people"]:
            yield Remark("identifiers_dropped", resource.kind)
        elif resource.kind in RESOURCES:
            names = _IDENTIFYING["patient" if resource.kind == "Patient" else "other"]
            yield from (Remark("identifiers_dropped", name) for name in resource.content if name in names)
