"""MedicationStatement and MedicationRequest, R4 and R5, with the Medication they refer to."""

from __future__ import annotations

from collections.abc import Iterator

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.narrative import concept_or_narrative, narrative
from antangel_cli.clinic.readers.fhir.values import Concept, codes_of, concept, entries, number, period, words
from antangel_cli.clinic.readers.parts import Found, Part, Remark
from antangel_cli.clinic.readers.times import instant

_STOPPED = {"completed", "stopped", "not-taken", "not-taking"}
_UNSURE = {"on-hold", "unknown", "intended", "on-hold-as-directed"}


def read_medication(resource: Resource, record: Record) -> Iterator[Found]:
    """One drug; of several entries of one drug and state the newest is kept."""
    planned = resource.content.get("intent") in ("proposal", "plan") or resource.content.get("doNotPerform") is True
    if planned or resource.content.get("status") in ("draft", "cancelled"):
        yield Remark("not_taken", resource.kind)
        return
    named = _named(resource, record)
    if named is None:
        yield Remark("without_content", resource.kind)
        return
    start, end = period(resource.content, "effectivePeriod", "effectiveDateTime", "authoredOn", "dateAsserted")
    status = _status(resource, record, end)
    dose, route = _dose(resource)
    content = {"text": named.text, "dose": dose, "route": route, "status": status, "code": named.code}
    yield Part("medications", content, resource.path, f"{named.text.lower()}|{status}", end or start)


def _named(resource: Resource, record: Record) -> Concept | None:
    content = resource.content
    r5 = content.get("medication") if isinstance(content.get("medication"), dict) else {}
    found = concept(content.get("medicationCodeableConcept")) or concept((r5 or {}).get("concept"))
    if found:
        return found
    reference = content.get("medicationReference") or (r5 or {}).get("reference")
    target = record.find(reference, resource)
    text = words(reference.get("display")) if isinstance(reference, dict) else None
    drug = concept_or_narrative(target, "code") if target else None
    return (
        drug
        or (Concept(text) if text else None)
        or (Concept(narrative(resource)[0]) if narrative(resource)[0] else None)
    )


def _status(resource: Resource, record: Record, end: str | None) -> str:
    adherence = resource.content.get("adherence")
    taken = codes_of(adherence.get("code")) if isinstance(adherence, dict) else frozenset()
    states = taken | {str(resource.content.get("status"))}
    ended = instant(end) if "effectivePeriod" in resource.content else None
    if states & _STOPPED or (ended and record.now and ended < record.now):
        return "stopped"
    return "unknown" if states & _UNSURE else "active"


def _dose(resource: Resource) -> tuple[str | None, str | None]:
    """The dose and route of the first instruction: its text, else its quantity."""
    row = next(iter(entries(resource.content.get("dosage") or resource.content.get("dosageInstruction"))), {})
    route = concept(row.get("route"))
    rate = next(iter(entries(row.get("doseAndRate"))), {})
    quantity = next(iter(entries(rate.get("doseQuantity"))), {})
    amount = number(quantity.get("value"))
    given = f"{amount:g} {words(quantity.get('unit')) or ''}".strip() if amount is not None else None
    return words(row.get("text")) or given, route.text if route else None
