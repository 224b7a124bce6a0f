"""FamilyMemberHistory: `father: myocardial infarction at 50 years`; the relative's name is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.narrative import narrative
from antangel_cli.clinic.readers.fhir.values import concept, entries, number, words
from antangel_cli.clinic.readers.parts import Found, Part, Remark


def read_family(resource: Resource, record: Record) -> Iterator[Found]:
    """One entry for each condition of a relative."""
    del record
    relation = concept(resource.content.get("relationship"))
    who = relation.text if relation else "relative"
    rows = [(i, row, concept(row.get("code"))) for i, row in enumerate(entries(resource.content.get("condition")))]
    for index, row, named in rows:
        if named:
            text = " ".join(piece for piece in (f"{who}: {named.text}", _onset(row)) if piece)
            yield Part("family", {"text": text, "code": named.code}, f"{resource.path}.condition[{index}]")
    if not any(named for *_, named in rows):
        text = narrative(resource)[0]
        yield Part("family", {"text": text}, resource.path) if text else Remark("without_content", resource.kind)


def _onset(row: dict[str, Any]) -> str | None:
    age = row.get("onsetAge")
    if isinstance(age, dict) and number(age.get("value")) is not None:
        return f"at {age['value']:g} {words(age.get('unit')) or 'years'}"
    return words(row.get("onsetString"))
