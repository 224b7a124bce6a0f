"""FHIR R4: a result as a `collection` Bundle, every part marked as a proposal (docs/results.md has the table)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.writers.fhir_resources import Resource, Told, provenance, resources
from antangel_cli.clinic.writers.json_text import dumped

_TEST = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST", "display": "test health data"}


def write_fhir(record: dict[str, Any], case: Case, plain: bool, width: int, lang: str | None) -> str:
    """The Bundle as JSON. Its addresses follow from the run's id, so a result is always the same Bundle."""
    del plain, width
    told = Told(record, case._subject, (lang or case.language).lower().startswith("zh"), _address(record))
    entries = list(_entries(told))
    bundle = {
        "resourceType": "Bundle",
        "meta": _meta(record),
        "language": "zh" if told.chinese else "en",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{record['run_id']}"},
        "type": "collection",
        "timestamp": record["created"],
        "entry": entries,
    }
    return dumped({key: value for key, value in bundle.items() if value}, 2) + "\n"


def _address(record: dict[str, Any]) -> Any:
    space = uuid.UUID(record["run_id"])
    return lambda name: f"urn:uuid:{uuid.uuid5(space, name)}"


def _entries(told: Told) -> Iterator[Resource]:
    made = list(resources(told))
    for name, resource in [*made, ("provenance", provenance(told, [name for name, _ in made]))]:
        meta = _meta(told.record)
        kind = {"resourceType": resource["resourceType"], **({"meta": meta} if meta else {})}
        yield {"fullUrl": told.address(name), "resource": {**kind, **resource}}


def _meta(record: dict[str, Any]) -> Resource:
    """What marks a demonstration's resources as test data, each of them: a Bundle may be taken apart."""
    return {"security": [_TEST]} if record["provenance"]["model"]["demonstration"] else {}
