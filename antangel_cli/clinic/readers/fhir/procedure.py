"""Procedure: what was done, with its date; what was not done is said so."""

from __future__ import annotations

from collections.abc import Iterator

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.narrative import concept_or_narrative
from antangel_cli.clinic.readers.fhir.notes import apart, notes_of, with_note
from antangel_cli.clinic.readers.fhir.values import concept, day, entries, period, words
from antangel_cli.clinic.readers.parts import Found, Part, Remark


def read_procedure(resource: Resource, record: Record) -> Iterator[Found]:
    """One procedure; of several of one name the newest is kept."""
    named = concept_or_narrative(resource, "code")
    status = resource.content.get("status")
    if named is None or status in ("preparation", "on-hold"):
        yield Remark("without_content" if named is None else "not_taken", resource.kind)
        return
    site = concept(resource.content.get("bodySite"))
    text = f"{named.text}, {site.text}" if site else named.text
    done = period(resource.content, "performedDateTime", "performedPeriod", "occurrenceDateTime", "occurrencePeriod",
                  "performedString", "occurrenceString")[0]  # fmt: skip
    stands = {"not-done": "absent", "unknown": "unknown"}.get(str(status), "present")
    shown = "; ".join([f"{text} ({day(done)})" if done else text, *_complications(resource)])
    note, remarks = notes_of(resource, record)
    yield from remarks
    content = {"text": with_note(shown, note, stands), "status": stands, "code": named.code}
    yield Part("procedures", content, resource.path, f"{text}|{stands}", done)
    yield from apart(resource, note, stands)


def _complications(resource: Resource) -> Iterator[str]:
    """R4 `complication` and what `complicationDetail` shows, R5 CodeableReferences."""
    named = [found.text for found in map(concept, entries(resource.content.get("complication"))) if found]
    named += [
        text for row in entries(resource.content.get("complicationDetail")) if (text := words(row.get("display")))
    ]
    yield from (f"complication: {text}" for text in dict.fromkeys(named))
