"""Encounter: only the newest one says where the patient is and why."""

from __future__ import annotations

from collections.abc import Iterator

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.values import codes_of, concept, entries
from antangel_cli.clinic.readers.parts import Found, Part
from antangel_cli.clinic.rules import load_rules

_SETTINGS: dict[str, str] = load_rules("fhir")["settings"]


def read_encounter(resource: Resource, record: Record) -> Iterator[Found]:
    """The setting and the reasons of the newest encounter."""
    if resource is not record.encounter:
        return
    codes = codes_of(resource.content.get("class"))
    setting = next((_SETTINGS[code] for code in sorted(codes) if code in _SETTINGS), None)
    if setting:
        yield Part("setting", {"setting": setting}, resource.path)
    reasons = list(dict.fromkeys(_reasons(resource)))
    if reasons:
        yield Part("chief_complaint", {"chief_complaint": "; ".join(reasons)}, resource.path)


def _reasons(resource: Resource) -> Iterator[str]:
    """R4 `reasonCode`, R5 `reason.value`."""
    rows = [*entries(resource.content.get("reasonCode"))]
    for reason in entries(resource.content.get("reason")):
        rows += entries(reason.get("value")) or [reason]
    yield from (found.text for found in map(concept, rows) if found)
