"""MedicationStatement, -Request, -Administration and -Dispense, R4 and R5, with the Medication they refer to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.narrative import concept_or_narrative, narrative
from antangel_cli.clinic.readers.fhir.values import Concept, codes_of, concept, entries, number, period, words
from antangel_cli.clinic.readers.parts import Found, Part, Remark
from antangel_cli.clinic.readers.times import instant

_NOT_TAKEN = ("draft", "cancelled", "not-done", "declined")
_STOPPED = {"completed", "stopped", "not-taken", "not-taking"}
_TIMES = ("effectivePeriod", "effectiveDateTime", "occurencePeriod", "occurenceDateTime", "authoredOn", "dateAsserted",
          "whenHandedOver", "whenPrepared")  # fmt: skip
"""R5 spells the time of an administration with one r."""
_UNSURE = {"on-hold", "unknown", "intended", "on-hold-as-directed", "preparation"}
SUPPLY = timedelta(days=90)
"""How long a dispensed drug is taken, where the days of its supply are not said."""


def read_medication(resource: Resource, record: Record) -> Iterator[Found]:
    """One drug; of several entries of one drug and state the newest is kept."""
    planned = resource.content.get("intent") in ("proposal", "plan") or resource.content.get("doNotPerform") is True
    if planned or resource.content.get("status") in _NOT_TAKEN:
        yield Remark("not_taken", resource.kind)
        return
    named = _named(resource, record)
    if named is None:
        yield Remark("without_content", resource.kind)
        return
    start, end = period(resource.content, *_TIMES)
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
    drug = (_mixed(target) or concept_or_narrative(target, "code")) if target else None
    told = text or narrative(resource)[0]
    return drug or (Concept(told) if told else None)


def _mixed(medication: Resource) -> Concept | None:
    """What a Medication without a name of its own is made of."""
    if concept(medication.content.get("code")):
        return None
    rows = entries(medication.content.get("ingredient"))
    parts = [concept(row.get("itemCodeableConcept")) or concept(row.get("item")) for row in rows]
    return Concept(" + ".join(part.text for part in parts if part)) if any(parts) else None


def _status(resource: Resource, record: Record, end: str | None) -> str:
    adherence = resource.content.get("adherence")
    taken = codes_of(adherence.get("code")) if isinstance(adherence, dict) else frozenset()
    states = taken | {str(resource.content.get("status"))}
    if resource.kind == "MedicationAdministration" and _just_given(end, record):
        return "active"
    if resource.kind == "MedicationDispense" and states & {"completed", "in-progress"}:
        return _dispensed(resource, record, end)
    ended = instant(end) if "effectivePeriod" in resource.content else None
    if states & _STOPPED or (ended and record.now and ended < record.now):
        return "stopped"
    return "unknown" if states & _UNSURE else "active"


def _dispensed(resource: Resource, record: Record, at: str | None) -> str:
    """Active while the supply lasts; then stopped where its days are said, else unknown."""
    given, supply = instant(at), entries(resource.content.get("daysSupply"))
    days = number(supply[0].get("value")) if supply else None
    if given is None or record.now is None:
        return "active"
    lasts = timedelta(days=min(days, 3_650)) if days and days > 0 else SUPPLY
    if record.now <= given + lasts:
        return "active"
    return "stopped" if days else "unknown"


def _just_given(at: str | None, record: Record) -> bool:
    """Whether a dose was given within a day of *now*, so that it may still act."""
    given = instant(at)
    return bool(given and record.now and given >= record.now - timedelta(days=1))


def _dose(resource: Resource) -> tuple[str | None, str | None]:
    """The dose and route of the first instruction: its text, else its quantity."""
    row = next(iter(entries(resource.content.get("dosage") or resource.content.get("dosageInstruction"))), {})
    route = concept(row.get("route"))
    rate = next(iter(entries(row.get("doseAndRate"))), {})
    quantity = next(iter(entries(rate.get("doseQuantity") or row.get("dose"))), {})
    amount = number(quantity.get("value"))
    given = f"{amount:g} {words(quantity.get('unit')) or ''}".strip() if amount is not None else None
    return words(row.get("text")) or given, route.text if route else None
