"""From a FHIR document to its resources: one patient's, each once, with its place and what refers to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers.fhir.kinds import shown_kind
from antangel_cli.clinic.readers.fhir.values import entries, period, words
from antangel_cli.clinic.readers.times import instant

ONE_PATIENT = "Export one patient at a time."
RECENT = timedelta(days=30)
"""What began or was written longer before the case is told is no part of what is present."""


@dataclass(frozen=True)
class Resource:
    """A resource: its type, its content, its place (`Bundle.entry[3].resource`) and its address in the Bundle."""

    kind: str
    content: dict[str, Any] = field(repr=False)
    path: str
    url: str | None = field(default=None, repr=False)

    @property
    def reference(self) -> str | None:
        """How others refer to it: its `urn:`, else `Type/id`."""
        if self.url and self.url.startswith("urn:"):
            return self.url
        return self._by_id

    @property
    def addresses(self) -> set[str]:
        """Every way in which others may refer to it; `Type/id` stands beside a `urn:` in some exports."""
        return {name for name in (self.reference, self._by_id, self.url, bare(self.url or "")) if name}

    @property
    def _by_id(self) -> str | None:
        name = words(self.content.get("id"))
        return f"{self.kind}/{name}" if name else None


@dataclass(frozen=True)
class Record:
    """One patient's resources."""

    resources: tuple[Resource, ...] = field(repr=False)
    stamp: str | None = None

    def is_old(self, moment: datetime | None) -> bool:
        """Whether something is known to be of more than 30 days before the case is told."""
        return moment is not None and self.now is not None and moment < self.now - RECENT

    @cached_property
    def _by_reference(self) -> dict[str, Resource]:
        return {name: r for r in self.resources for name in r.addresses}

    @cached_property
    def patient(self) -> Resource | None:
        """The Patient."""
        return next((r for r in self.resources if r.kind == "Patient"), None)

    @cached_property
    def encounter(self) -> Resource | None:
        """The newest encounter that took place; one without a date counts where there is no other."""
        took_place = [r for r in self.resources if r.kind == "Encounter" and _real(r)]
        dated = [r for r in took_place if _began(r)] or (took_place if len(took_place) == 1 else [])
        return max(dated, key=lambda r: _began(r) or datetime.min, default=None)

    @cached_property
    def now(self) -> datetime | None:
        """When the case is told: the newest encounter's start, else the newest dated entry, else the Bundle's time."""
        if self.encounter and _began(self.encounter):
            return _began(self.encounter)
        dates = (instant(_dated(r)) for r in self.resources if _real(r))
        return max((date for date in dates if date), default=None) or instant(self.stamp)

    def find(self, reference: Any, beside: Resource) -> Resource | None:
        """The resource that a Reference means: contained in `beside`, or in the record."""
        target = words(reference.get("reference")) if isinstance(reference, dict) else None
        if target is None:
            return None
        if target.startswith("#"):
            return next((r for r in _contained(beside) if r.content.get("id") == target[1:]), None)
        return self._by_reference.get(target) or self._by_reference.get(bare(target))


def bare(reference: str) -> str:
    """A reference without server and version: `Patient/1` of `https://x/fhir/Patient/1/_history/2`."""
    parts = reference.split("/_history/")[0].split("/")
    return "/".join(parts[-2:])


def record_of(documents: Iterable[tuple[str, Any]]) -> Record:
    """The record in one or several documents, each with its place. Raises InputError when it is not one patient's."""
    known: dict[tuple[str, Any], Resource] = {}
    stamp = None
    for place, document in documents:
        stamp = stamp or (words(document.get("timestamp")) if isinstance(document, dict) else None)
        for resource in _with_contained(_resources(document, place)):
            name = resource.content.get("id")
            own = isinstance(name, str) and ".contained[" not in resource.path
            key = (resource.kind, name if own else resource.path)
            if known.setdefault(key, resource).content != resource.content:
                raise InputError(
                    f"Two versions of one resource are there: {shown_kind(resource.kind)}.",
                    "Keep the version that holds.",
                    resource.path,
                )
    record = Record(tuple(known.values()), stamp)
    _require_one_patient(record)
    return record


def subject_of(record: Record) -> str | None:
    """The reference of the patient, from the Patient, else from what refers to one."""
    if record.patient:
        return record.patient.reference
    return next((subject for subject in (_subject(r) for r in record.resources) if subject), None)


def _resources(document: Any, place: str, depth: int = 0) -> Iterator[Resource]:
    kind = document.get("resourceType") if isinstance(document, dict) else None
    if not isinstance(kind, str):
        raise InputError("This is no FHIR resource: it has no resourceType.", "Export it as FHIR JSON.", place or None)
    if kind != "Bundle":
        yield Resource(kind, document, place or shown_kind(kind))
        return
    if document.get("type") == "history":
        raise InputError("A history Bundle holds several versions of one resource.", "Export the current versions.")
    if words(document.get("implicitRules")):
        raise InputError("The Bundle has implicitRules, which are not known here.", "Export it without them.")
    for index, entry in enumerate(document["entry"] if isinstance(document.get("entry"), list) else []):
        where = f"{place or 'Bundle'}.entry[{index}].resource"
        inner = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(inner, dict):
            continue
        if inner.get("resourceType") == "Bundle" and depth < 3:
            yield from _resources(inner, where, depth + 1)
        elif isinstance(inner.get("resourceType"), str):
            yield Resource(inner["resourceType"], inner, where, words(entry.get("fullUrl")))


def _with_contained(resources: Iterator[Resource]) -> Iterator[Resource]:
    """The resources, each followed by the Observations that it contains: members of a panel, results of a report."""
    for resource in resources:
        yield resource
        yield from (inner for inner in _contained(resource) if inner.kind == "Observation")


def _contained(resource: Resource) -> Iterator[Resource]:
    for index, row in enumerate(entries(resource.content.get("contained"))):
        if isinstance(row.get("resourceType"), str):
            yield Resource(row["resourceType"], row, f"{resource.path}.contained[{index}]")


def _require_one_patient(record: Record) -> None:
    patients = [r for r in record.resources if r.kind == "Patient"]
    if len(patients) > 1:
        raise InputError("There is more than one Patient.", ONE_PATIENT, patients[1].path)
    own = {name for r in patients for name in r.addresses}
    for resource in record.resources:
        subject = _subject(resource)
        if subject is None:
            continue
        own = own or {subject, bare(subject)}
        if subject not in own and bare(subject) not in own:
            raise InputError("This refers to another patient than the rest.", ONE_PATIENT, resource.path)


def _subject(resource: Resource) -> str | None:
    """The reference to the patient that a resource is about; contained ones and other kinds of subjects are none."""
    target = _target(resource.content.get("subject") or resource.content.get("patient"))
    if target is None or not (target.startswith("urn:") or "Patient" in target.split("/")):
        return None
    return target if target.startswith("urn:") else bare(target)


def about_another(resource: Resource, record: Record) -> bool:
    """Whether its subject is no patient (a group, a device, a place), or its focus is not this one (R4 `focus`)."""
    kind = shown_kind(bare(_target(resource.content.get("subject")) or "").rpartition("/")[0])
    own = record.patient.addresses if record.patient else {_subject(resource)}
    focus = [target for target in map(_target, entries(resource.content.get("focus"))) if target]
    return kind not in ("other", "Patient") or any(target not in own and bare(target) not in own for target in focus)


def _target(reference: Any) -> str | None:
    return words(reference.get("reference")) if isinstance(reference, dict) else None


def _real(resource: Resource) -> bool:
    return resource.content.get("status") not in ("planned", "cancelled", "entered-in-error", "draft", "not-done")


def _began(encounter: Resource) -> datetime | None:
    return instant(period(encounter.content, "period", "actualPeriod")[0])


_DATES = ("effectiveDateTime", "effectivePeriod", "effectiveInstant", "performedDateTime", "performedPeriod",
          "occurrenceDateTime", "occurrencePeriod", "occurenceDateTime", "occurencePeriod", "recordedDate",
          "authoredOn", "dateAsserted", "issued", "whenHandedOver", "whenPrepared")  # fmt: skip


def _dated(resource: Resource) -> str | None:
    return period(resource.content, *_DATES)[0]
