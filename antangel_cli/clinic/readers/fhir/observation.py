"""Observation and its components: vitals, laboratory values, and answers as findings or social history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.narrative import narrative
from antangel_cli.clinic.readers.fhir.notes import notes_of
from antangel_cli.clinic.readers.fhir.special import pregnancy, size, supplemental_oxygen
from antangel_cli.clinic.readers.fhir.values import (
    Concept,
    codes_of,
    concept,
    entries,
    number,
    period,
    unit_of,
    units_contradict,
    words,
)  # fmt: skip
from antangel_cli.clinic.readers.parts import Found, Part, Remark
from antangel_cli.clinic.rules import load_rules, rule_files

_TABLE = load_rules("fhir")
_SOCIAL = frozenset(_TABLE["social"]["codes"])
_FLAGS = {"H": "H", "HU": "HH", "HH": "HH", "L": "L", "LU": "LL", "LL": "LL", "N": "N", "A": "A", "AA": "A"}


@dataclass(frozen=True)
class Piece:
    """An observation, or one component of it: what was observed, its content, place and time."""

    named: Concept = field(repr=False)
    content: dict[str, Any] = field(repr=False)
    path: str
    time: str | None
    categories: frozenset[str]

    @property
    def key(self) -> str:
        """What counts as the same quantity: its codes, else its name."""
        return ",".join(sorted(self.named.codes)) or self.named.text.lower()

    def known(self, table: str) -> str | None:
        """What a table of codes calls it."""
        return next((_TABLE[table][code] for code in sorted(self.named.codes) if code in _TABLE[table]), None)

    @property
    def analyte(self) -> str | None:
        """The name under which the rules know a laboratory quantity of this LOINC code."""
        return next((_analytes()[code] for code in sorted(self.named.codes) if code in _analytes()), None)


@cache
def _analytes() -> dict[str, str]:
    rows = [row for name in rule_files("quantities") for row in load_rules(name)["quantity"].values()]
    return {code: row["names"][0] for row in rows for code in row.get("loinc", ())}


def read_observation(resource: Resource, record: Record) -> Iterator[Found]:
    """Everything one Observation states."""
    if resource.content.get("status") in ("cancelled", "registered"):
        yield Remark("not_taken", resource.kind)
        return
    found = [part for piece in _pieces(resource) for part in _read(piece, resource.kind)]
    text, hidden = ("", False) if found or resource.content.get("hasMember") else _told(resource)
    if hidden:
        yield Remark("narrative_hidden", resource.kind)
    if text:
        yield Part("findings", {"text": text}, resource.path)
    elif not found and not resource.content.get("hasMember"):
        yield Remark("without_content", resource.kind)
    yield from found
    yield from _noted(resource, record, [part for part in found if isinstance(part, Part)])


def _noted(resource: Resource, record: Record, valued: list[Part]) -> Iterator[Found]:
    """The note beside a value: of the time of the value, and kept when it is; named where the name says nothing."""
    note, remarks = notes_of(resource, record) if valued else ("", [])
    yield from remarks
    if not note:
        return
    first = valued[0]
    named = concept(resource.content.get("code")) if first.section in ("vitals", "labs") else None
    section = "social" if first.section == "social" else "notes"
    content = {"text": note, "name": named.text if named else None} if section == "notes" else {"text": note}
    yield Part(section, content, resource.path, f"note|{first.key}", first.time)


def _told(resource: Resource) -> tuple[str, bool]:
    """What an Observation without a value says in words: its narrative, else its notes; and whether some was hidden."""
    text, hidden = narrative(resource)
    named = concept(resource.content.get("code"))
    notes = "; ".join(filter(None, (words(row.get("text")) for row in entries(resource.content.get("note")))))
    said = f"{named.text}: {notes}" if named and notes else notes
    return text or said, hidden


def _pieces(resource: Resource) -> Iterator[Piece]:
    start, end = period(resource.content, "effectiveDateTime", "effectiveInstant", "effectivePeriod", "issued")
    categories = codes_of(resource.content.get("category"))
    if codes_of(resource.content.get("code")) & _SOCIAL:
        categories |= {"social-history"}
    rows = [(resource.path, resource.content)]
    rows += [
        (f"{resource.path}.component[{i}]", row) for i, row in enumerate(entries(resource.content.get("component")))
    ]
    whole = concept(resource.content.get("code"))
    for path, content in rows:
        named = concept(content.get("code")) or (Concept(whole.text) if whole else None)
        if named:
            yield Piece(named, content, path, end or start, categories)


def _read(piece: Piece, kind: str) -> Iterator[Found]:
    quantity = piece.content.get("valueQuantity")
    if isinstance(quantity, dict) and number(quantity.get("value")) is not None:
        yield from _measured(piece, quantity, kind)
        return
    status = next((_TABLE["answers"][c] for c in sorted(_answer_codes(piece)) if c in _TABLE["answers"]), None)
    text = _said(piece.content)
    if piece.known("pregnancy") and (found := pregnancy(piece.known("pregnancy"), _answer_codes(piece), None)):
        yield Part("patient", found, piece.path, piece.key, piece.time)
    elif text is not None and (piece.known("vitals") or "laboratory" in piece.categories or piece.analyte):
        yield _measurement(piece, text, None)
    elif "social-history" in piece.categories and text:
        yield _stated("social", piece, f"{piece.named.text}: {text}")
    elif status or isinstance(piece.content.get("valueBoolean"), bool):
        stands = status or ("present" if piece.content["valueBoolean"] else "absent")
        yield _stated("findings", piece, piece.named.text, status=stands)
    elif text:
        yield _stated("findings", piece, f"{piece.named.text}: {text}")


def _measured(piece: Piece, quantity: dict[str, Any], kind: str) -> Iterator[Found]:
    value, unit = float(quantity["value"]), unit_of(quantity)
    if units_contradict(quantity):
        yield Remark("units_contradict", kind)
        unit = None
    comparator = words(quantity.get("comparator"))
    name = piece.known("vitals") or ""
    own = None if comparator else size(name, value, unit)
    weeks = pregnancy(piece.known("pregnancy"), frozenset(), value) if piece.known("pregnancy") else None
    if own or weeks:
        yield Part("patient", own or weeks or {}, piece.path, piece.key, piece.time)
    elif name.startswith("inhaled oxygen"):
        oxygen = supplemental_oxygen(name, value, unit)
        yield Part(
            "vitals",
            {"name": "supplemental_oxygen", "value": oxygen, "time": piece.time},
            piece.path,
            "oxygen",
            piece.time,
        )
    elif "social-history" in piece.categories and not name:
        amount = f"{comparator or ''}{value:g} {words(quantity.get('unit')) or unit or ''}".strip()
        yield _stated("social", piece, f"{piece.named.text}: {amount}")
    else:
        yield _measurement(piece, f"{comparator}{value:g}" if comparator else value, unit)


def _stated(section: str, piece: Piece, text: str, **more: Any) -> Part:
    """An answer in words."""
    return Part(section, {"text": text, **more, "code": piece.named.code}, piece.path, piece.key, piece.time)


def _measurement(piece: Piece, value: float | str, unit: str | None) -> Part:
    """A vital sign or laboratory value, with its range where exactly one in the same unit is given."""
    vital = piece.known("vitals")
    section = "vitals" if vital or "vital-signs" in piece.categories else "labs"
    low, high = _range(piece.content, unit)
    content = {
        "name": vital or piece.analyte or piece.named.text, "value": value, "unit": unit, "time": piece.time,
        "ref_low": low, "ref_high": high, "flag": _flag(piece.content), "code": piece.named.code,
    }  # fmt: skip
    return Part(section, content, piece.path, vital or piece.key, piece.time)


def _flag(content: dict[str, Any]) -> str | None:
    codes = codes_of(content.get("interpretation"))
    return next((flag for code, flag in _FLAGS.items() if code in codes), None)


def _range(content: dict[str, Any], unit: str | None) -> tuple[float | None, float | None]:
    rows = entries(content.get("referenceRange"))
    if len(rows) != 1:
        return None, None
    ends = [rows[0].get(name) for name in ("low", "high")]
    low, high = (number(e.get("value")) if isinstance(e, dict) and unit_of(e) in (unit, None) else None for e in ends)
    return low, high


def _answer_codes(piece: Piece) -> frozenset[str]:
    return codes_of(piece.content.get("valueCodeableConcept"))


def _said(content: dict[str, Any]) -> str | None:
    """A value that is no quantity, in words."""
    found = concept(content.get("valueCodeableConcept"))
    if found:
        return found.text
    if isinstance(content.get("valueInteger"), int) and not isinstance(content["valueInteger"], bool):
        return str(content["valueInteger"])
    plain = next(
        (words(content.get(f"value{t}")) for t in ("String", "DateTime", "Time") if content.get(f"value{t}")), None
    )
    return (
        plain
        or _pair(content.get("valueRange"), "low", "high", "-")
        or _pair(content.get("valueRatio"), "numerator", "denominator", ":")
    )


def _pair(value: Any, first: str, second: str, between: str) -> str | None:
    """A Range or Ratio in words: `3-5 mg`, `1:128`."""
    named = [value.get(name) for name in (first, second)] if isinstance(value, dict) else []
    ends = [end for end in named if isinstance(end, dict)]
    numbers = [number(end.get("value")) for end in ends]
    if len(numbers) != 2 or None in numbers:
        return None
    unit = unit_of(ends[1])
    return f"{numbers[0]:g}{between}{numbers[1]:g}" + (f" {unit}" if unit else "")
