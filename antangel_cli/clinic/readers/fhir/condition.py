"""Condition: a finding when it is of this encounter, else history."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.narrative import concept_or_narrative
from antangel_cli.clinic.readers.fhir.notes import apart, notes_of, with_note
from antangel_cli.clinic.readers.fhir.values import codes_of, concept, day, period, words
from antangel_cli.clinic.readers.parts import Found, Part, Remark
from antangel_cli.clinic.readers.times import instant
from antangel_cli.clinic.rules import load_rules

_PREGNANT = frozenset(load_rules("fhir")["pregnant_conditions"]["codes"])
PREGNANCY = timedelta(weeks=45)
_OVER = {"inactive", "resolved", "remission"}
_DOUBTED = {"unconfirmed", "provisional", "differential"}


def read_condition(resource: Resource, record: Record) -> Iterator[Found]:
    """One problem or diagnosis."""
    named = concept_or_narrative(resource, "code")
    if named is None:
        yield Remark("without_content", resource.kind)
        return
    note, remarks = notes_of(resource, record)
    yield from remarks
    clinical = codes_of(resource.content.get("clinicalStatus"))
    site = concept(resource.content.get("bodySite"))
    text = f"{named.text}, {site.text}" if site else named.text
    status = _status(resource)
    common = {"status": status, "code": named.code}
    if named.codes & _PREGNANT and status == "present" and not clinical & _OVER and _lasts(resource, record):
        yield Part("patient", {"pregnancy": {"status": "pregnant"}}, resource.path)
    if clinical & _OVER or not _current(resource, record):
        over = next(iter(sorted(clinical & _OVER)), None)
        text = f"{text} ({over})" if over else text
        content = {"text": with_note(text, note, status), **common}
        yield Part("history", content, resource.path, f"{text}|{status}", _began(resource))
        yield from apart(resource, note, status)
        return
    severity = concept(resource.content.get("severity"))
    shown = {"onset": _onset(resource), "severity": severity.text if severity else None}
    yield Part("findings", {"text": with_note(text, note, status), **common, **shown}, resource.path)
    yield from apart(resource, note, status)


def _status(resource: Resource) -> str:
    verified = codes_of(resource.content.get("verificationStatus"))
    if "refuted" in verified:
        return "absent"
    return "unknown" if verified & _DOUBTED else "present"


def _current(resource: Resource, record: Record) -> bool:
    """Whether it belongs to the newest encounter, or began within 30 days of it."""
    encounter = record.find(resource.content.get("encounter"), resource)
    if encounter is not None and encounter is record.encounter:
        return True
    began = instant(_began(resource))
    if began is None or record.now is None:
        return "encounter-diagnosis" in codes_of(resource.content.get("category"))
    return not record.is_old(began)


def _lasts(resource: Resource, record: Record) -> bool:
    """Whether a pregnancy that began then can still last."""
    began = instant(_began(resource))
    return _current(resource, record) or bool(began and record.now and began >= record.now - PREGNANCY)


def _began(resource: Resource) -> str | None:
    start = period(resource.content, "onsetDateTime", "onsetPeriod")[0]
    return start or words(resource.content.get("recordedDate")) or words(resource.content.get("dateRecorded"))


def _onset(resource: Resource) -> str | None:
    return words(resource.content.get("onsetString")) or day(
        period(resource.content, "onsetDateTime", "onsetPeriod")[0]
    )
