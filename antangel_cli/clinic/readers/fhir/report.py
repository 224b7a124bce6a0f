"""DiagnosticReport: its conclusion and plain-text form, when it is of this encounter; its results are Observations."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.narrative import narrative, visible_text
from antangel_cli.clinic.readers.fhir.values import codes_of, concept, entries, period, words
from antangel_cli.clinic.readers.intake import clean
from antangel_cli.clinic.readers.parts import Found, Part, Remark
from antangel_cli.clinic.readers.times import instant

MOST_ATTACHED = 1 << 20
"""Bytes of an attachment that is still read."""

_READABLE = ("text/plain", "text/html", "text/markdown")
_IMAGING = {"RAD", "RUS", "CT", "NMR", "XRC", "CUS", "IMG", "imaging", "LP29684-5", "363679005", "ECG", "EC", "VUS"}


def read_report(resource: Resource, record: Record) -> Iterator[Found]:
    """The text of a report, as imaging or as a note."""
    at = period(resource.content, "effectiveDateTime", "effectivePeriod", "issued")[0]
    if resource.content.get("status") == "cancelled":
        yield Remark("not_taken", resource.kind)
        return
    if record.is_old(instant(at)):
        yield Remark("older_left_out", resource.kind)
        return
    texts, unread = _texts(resource)
    yield from (Remark("attachments_unread", resource.kind) for _ in range(unread))
    if not texts and not resource.content.get("result"):
        text, hidden = narrative(resource)
        texts = [text] if text else []
        yield from [Remark("narrative_hidden", resource.kind)] if hidden else []
    named = concept(resource.content.get("code"))
    section = "imaging" if codes_of(resource.content.get("category")) & _IMAGING else "notes"
    for text in texts:
        yield Part(section, {"text": text, "name": named.text if named else None, "time": at}, resource.path)
    if not texts and not unread and not resource.content.get("result"):
        yield Remark("without_content", resource.kind)


def _texts(resource: Resource) -> tuple[list[str], int]:
    """What the report says, each text once, and how many attachments could not be read."""
    rows = [words(resource.content.get("conclusion"))]
    rows += [found.text for found in map(concept, entries(resource.content.get("conclusionCode"))) if found]
    forms = [attached_text(form) for form in entries(resource.content.get("presentedForm"))]
    return list(dict.fromkeys(text for text in (*rows, *forms) if text)), forms.count(None)


def attached_text(form: dict[str, Any]) -> str | None:
    """The text of an attachment, None when it is no text, too large, or not there."""
    kind, data = str(form.get("contentType")).lower(), form.get("data")
    if not kind.startswith(_READABLE) or not isinstance(data, str) or len(data) > MOST_ATTACHED * 4 // 3 + 4:
        return None
    try:
        text = base64.b64decode("".join(data.split()), validate=True).decode("utf-8-sig")
    except (binascii.Error, ValueError):
        return None
    return clean(visible_text(text)[0] if "html" in kind else text)[0].strip() or None
