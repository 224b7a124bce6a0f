"""Immunization: a vaccine and its date, told as history; one that was not given is absent."""

from __future__ import annotations

from collections.abc import Iterator

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.narrative import concept_or_narrative
from antangel_cli.clinic.readers.fhir.values import day, period
from antangel_cli.clinic.readers.parts import Found, Part, Remark


def read_immunization(resource: Resource, record: Record) -> Iterator[Found]:
    """One vaccination; of several with one vaccine the newest is kept."""
    del record
    named = concept_or_narrative(resource, "vaccineCode")
    if named is None:
        yield Remark("without_content", resource.kind)
        return
    given = period(resource.content, "occurrenceDateTime", "occurrenceString", "date")[0]
    stands = "absent" if resource.content.get("status") == "not-done" else "present"
    text = f"vaccination: {named.text}"
    shown = f"{text} ({day(given)})" if given and stands == "present" else text
    content = {"text": shown, "status": stands, "code": named.code}
    yield Part("history", content, resource.path, f"{text}|{stands}", given)
