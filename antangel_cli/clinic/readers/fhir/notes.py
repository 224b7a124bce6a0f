"""`note`: what someone wrote beside a structured entry."""

from __future__ import annotations

from collections.abc import Iterator

from antangel_cli.clinic.privacy import without_words
from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.patient import identifying_words
from antangel_cli.clinic.readers.fhir.values import entries, words
from antangel_cli.clinic.readers.parts import Part, Remark

MOST_NOTED = 2_000
"""Characters of one resource's notes that are told."""


def notes_of(resource: Resource, record: Record) -> tuple[str, list[Remark]]:
    """The notes of a resource, each once, without the patient's own names; and what was taken out or cut."""
    rows = (words(row.get("text")) for row in entries(resource.content.get("note")))
    text, names = without_words("; ".join(dict.fromkeys(filter(None, rows))), identifying_words(record.patient))
    remarks = [Remark("identifiers_dropped", "in text")] * names
    if len(text) > MOST_NOTED:
        text = f"{text[:MOST_NOTED].rstrip()} [...]"
        remarks.append(Remark("notes_cut", resource.kind))
    return text, remarks


def with_note(text: str, note: str, status: str) -> str:
    """What is present with its note; a note on what is absent or unknown stands apart, for it denies nothing."""
    return f"{text}; {note}" if note and status == "present" else text


def apart(resource: Resource, note: str, status: str) -> Iterator[Part]:
    """A note on what is absent or unknown, as history."""
    if note and status != "present":
        yield Part("history", {"text": note}, resource.path)
