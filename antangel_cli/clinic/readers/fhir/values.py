"""FHIR's data types, read tolerantly: whatever has another form than expected counts as missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.clinic.rules import load_rules

_SYSTEMS: dict[str, str] = load_rules("fhir")["systems"]
_UCUM: dict[str, str] = load_rules("fhir")["ucum"]
_TIMED = re.compile(r"\d{4}-\d{2}-\d{2}T")
_SEMANTIC_TAG = re.compile(
    r" \((?:disorder|finding|situation|procedure|event|substance|morphologic abnormality|regime/therapy)\)$"
)


@dataclass(frozen=True)
class Concept:
    """A CodeableConcept: its words, its first code as `SYSTEM code`, and all its bare codes."""

    text: str = field(repr=False)
    code: str | None = None
    codes: frozenset[str] = frozenset()


def entries(value: Any) -> list[dict[str, Any]]:
    """The objects in a list, or the one object that stands in its place."""
    rows = value if isinstance(value, list) else [value]
    return [row for row in rows if isinstance(row, dict)]


def words(value: Any) -> str | None:
    """A text that says something, None for anything else."""
    return value.strip() or None if isinstance(value, str) else None


def number(value: Any) -> float | None:
    """A number; text that looks like one is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def concept(value: Any) -> Concept | None:
    """A CodeableConcept, R5's CodeableReference, or a plain code of older exports. None when it says nothing."""
    if isinstance(value, str):
        return Concept(value.strip(), None, frozenset({value.strip()})) if value.strip() else None
    row = next(iter(entries(value)), {})
    row = _inner(row) or row
    codings = sorted(entries(row.get("coding")), key=lambda coding: coding.get("userSelected") is not True)
    shown = next((text for text in (words(c.get("display")) for c in codings) if text), None)
    code = next((label for label in map(_label, codings) if label), None)
    text = words(row.get("text")) or shown or code
    return Concept(_SEMANTIC_TAG.sub("", text), code, codes_of(row)) if text else None


def _label(coding: dict[str, Any]) -> str | None:
    """`LOINC 8867-4`; None for a code of a system that is not known."""
    name, code = _SYSTEMS.get(str(coding.get("system"))), words(coding.get("code"))
    return f"{name} {code}" if name and code else None


def codes_of(value: Any) -> frozenset[str]:
    """All codes of one or several CodeableConcepts, codings or plain codes."""
    rows = value if isinstance(value, list) else [value]
    return frozenset(code for row in rows for code in _codes(row))


def _codes(row: Any) -> Iterator[str]:
    if isinstance(row, str):
        yield row.strip()
    elif isinstance(row, dict):
        codings = [row, *entries(row.get("coding")), *entries(_inner(row).get("coding"))]
        yield from (coding["code"] for coding in codings if isinstance(coding.get("code"), str))


def _inner(reference: dict[str, Any]) -> dict[str, Any]:
    """The concept in R5's CodeableReference."""
    found = reference.get("concept")
    return found if isinstance(found, dict) else {}


def unit_of(quantity: dict[str, Any]) -> str | None:
    """The unit of a Quantity, from its UCUM code, else as it is shown."""
    code, shown = words(quantity.get("code")), words(quantity.get("unit"))
    if code and "ucum" not in str(quantity.get("system")) and "unitsofmeasure" not in str(quantity.get("system")):
        code = None
    return _plain(code) if code else (_plain(shown) if shown else None)


def units_contradict(quantity: dict[str, Any]) -> bool:
    """Whether the unit that is shown and the unit that is coded are both known and differ."""
    shown, coded = words(quantity.get("unit")), unit_of(quantity)
    known = {*_UCUM.values()}
    return bool(shown and coded in known and _plain(shown) in known and _plain(shown) != coded)


def _plain(unit: str) -> str | None:
    """A UCUM unit in everyday spelling, without annotations in braces; None for a bare count."""
    bare = re.sub(r"\{[^}]*\}", "", unit)
    return _UCUM.get(unit) or _UCUM.get(bare) or (None if bare in ("", "1") else bare)


def period(resource: dict[str, Any], *names: str) -> tuple[str | None, str | None]:
    """Start and end of the first of these fields that is filled: a date, or a Period."""
    for name in names:
        value = resource.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip(), value.strip()
        if isinstance(value, dict):
            return words(value.get("start")), words(value.get("end"))
    return None, None


def day(text: str | None) -> str | None:
    """The date in a time; a time told in words stays as it is."""
    return text[:10] if text and _TIMED.match(text) else text
