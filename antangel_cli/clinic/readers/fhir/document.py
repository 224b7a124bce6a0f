"""DocumentReference: the plain text of a clinical note of the last 30 days."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.report import attached_text
from antangel_cli.clinic.readers.fhir.values import concept, entries, period
from antangel_cli.clinic.readers.parts import Found, Part, Remark
from antangel_cli.clinic.readers.times import instant


def read_document(resource: Resource, record: Record) -> Iterator[Found]:
    """Each text that is attached, as a note; what stands elsewhere, or is no text, is counted."""
    at = _date(resource.content)
    if resource.content.get("status") == "superseded":
        yield Remark("older_left_out", resource.kind)
        return
    if record.is_old(instant(at)):
        yield Remark("older_left_out", resource.kind)
        return
    named = concept(resource.content.get("type"))
    texts = [attached_text(form) for form in _forms(resource.content)]
    for text in dict.fromkeys(text for text in texts if text):
        yield Part("notes", {"text": text, "name": named.text if named else None, "time": at}, resource.path)
    yield from (Remark("attachments_unread", resource.kind) for text in texts if not text)
    if not texts:
        yield Remark("without_content", resource.kind)


def _forms(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [form for row in entries(content.get("content")) for form in entries(row.get("attachment"))]


def _date(content: dict[str, Any]) -> str | None:
    """When what it tells of took place, else when it was written."""
    for context in (content, *entries(content.get("context"))):
        if start := period(context, "period")[0]:
            return start
    return period(content, "date")[0]
