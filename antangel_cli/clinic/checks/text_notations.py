"""The notations of vital signs in prose: a name, what may stand between, a number, its unit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from antangel_cli.clinic.checks.text_folding import folded, folded_unit
from antangel_cli.clinic.checks.unit_table import conversion
from antangel_cli.clinic.checks.units import Quantity, quantities
from antangel_cli.clinic.rules import load_rules

TABLE = load_rules("text_vitals")
_SHARED = TABLE["shared"]
_NUMBER = r"(?<!\d)(\d{1,3}(?:\.\d{1,2})?)(?![.,]?\d)" + _SHARED["range"]
_BEFORE = 24
"""Characters before a name that may change what it names."""

_PARTS = re.compile(TABLE["gcs"]["parts"])
_LIST = re.compile(TABLE["context"]["list"])


@dataclass(frozen=True)
class Reading:
    """One value that a text states, in its quantity's unit, from `start` to `end`."""

    start: int
    end: int
    quantity: Quantity
    value: float = field(repr=False)


@dataclass(frozen=True)
class Notation:
    """One way to write a quantity. A unit's pattern is a group of `pattern`, in the order of `units`."""

    quantity: Quantity
    pattern: re.Pattern[str]
    units: tuple[str, ...]
    window: tuple[float, float]
    not_before: re.Pattern[str] | None


def plain(text: str) -> str:
    """Text as the patterns expect it: folded, with single spaces."""
    return " ".join(folded(text).split())


def readings(text: str) -> tuple[Reading, ...]:
    """Every value in plain text, in order; of two that overlap the first and longest. Whose and when is not asked."""
    found = sorted([*_single(text), *_pressures(text), *_coma(text)], key=lambda r: (r.start, -r.end))
    return tuple(_apart(found))


def _apart(found: Sequence[Reading]) -> Iterator[Reading]:
    span = (-1, -1)
    for reading in found:
        if reading.start >= span[1] or (reading.start, reading.end) == span:
            span = (reading.start, reading.end)
            yield reading


def runs(text: str, found: Sequence[Reading]) -> Iterator[tuple[Reading, ...]]:
    """Readings that stand in one list, as `hr 120, bp 90/60`: what is said of one is said of all."""
    run: list[Reading] = []
    for reading in found:
        if run and not _LIST.fullmatch(text, run[-1].end, max(reading.start, run[-1].end)):
            yield tuple(run)
            run = []
        run.append(reading)
    if run:
        yield tuple(run)


@cache
def notations() -> tuple[Notation, ...]:
    """The table of notations, compiled."""
    return tuple(_notation(row) for row in TABLE["notation"])


def _notation(row: dict[str, Any]) -> Notation:
    units = "|".join(f"({pattern})" for pattern in row["units"].values())
    bare = rf"|(?![a-z]){_SHARED['not_after']}" if row.get("unit_optional") else ""
    pattern = re.compile(rf"{_names(row)}{_SHARED['gap']}{_NUMBER}(?: ?(?:{units}){_SHARED['range']}{bare})")
    low, high = row["window"]
    return Notation(quantities()[row["quantity"]], pattern, tuple(row["units"]), (low, high), _before(row))


def _names(row: dict[str, Any]) -> str:
    chinese = f"|{row['zh']}" if "zh" in row else ""
    return rf"(?:(?<![a-z])(?:{row['en']})(?![a-z]){chinese})"


def _before(row: dict[str, Any]) -> re.Pattern[str] | None:
    return re.compile(row["not_before"]) if "not_before" in row else None


def _names_another(text: str, start: int, not_before: re.Pattern[str] | None) -> bool:
    return bool(not_before and not_before.search(text[max(0, start - _BEFORE) : start]))


def _single(text: str) -> Iterator[Reading]:
    for notation in notations():
        for match in notation.pattern.finditer(text):
            value = _converted(notation, match)
            inside = notation.window[0] <= value <= notation.window[1]
            if inside and not _names_another(text, match.start(), notation.not_before):
                yield Reading(match.start(), match.end(), notation.quantity, value)


def _converted(notation: Notation, match: re.Match[str]) -> float:
    """The number in the quantity's unit."""
    unit = next((u for u, found in zip(notation.units, match.groups()[1:], strict=True) if found), notation.units[0])
    known = conversion(folded_unit(unit), folded_unit(notation.quantity.unit), notation.quantity.row)
    if known is None:
        raise ValueError(f"no conversion of {unit}")
    return float(f"{float(match[1]) * known[0] + known[1]:.6g}")


@cache
def _pressure() -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    row = TABLE["pressure"]
    return re.compile(rf"{_names(row)}{_SHARED['gap']}(?<!\d){row['pair']}{_SHARED['range']}"), _before(row)


def _pressures(text: str) -> Iterator[Reading]:
    pattern, not_before = _pressure()
    row = TABLE["pressure"]
    for match in pattern.finditer(text):
        high, low = float(match[1]), float(match[2])
        possible = _within(high, row["systolic"]) and _within(low, row["diastolic"]) and low < high
        if possible and not _names_another(text, match.start(), not_before):
            yield Reading(match.start(), match.end(), quantities()["systolic_bp"], high)
            yield Reading(match.start(), match.end(), quantities()["diastolic_bp"], low)


def _within(number: float, window: Sequence[float]) -> bool:
    return window[0] <= number <= window[1]


@cache
def _total() -> re.Pattern[str]:
    row = TABLE["gcs"]
    return re.compile(rf"(?:{row['total']}){_SHARED['gap']}(?<!\d){row['number']}{_SHARED['range']}")


def _coma(text: str) -> Iterator[Reading]:
    """Glasgow Coma Scale, as a total or its three parts; none where they do not add up."""
    totals = [(m.start(), m.end(), float(m[1])) for m in _total().finditer(text)]
    parts = [(m.start(), m.end(), float(sum(map(int, m.groups())))) for m in _PARTS.finditer(text)]
    if totals and parts and {value for *_, value in totals} != {value for *_, value in parts}:
        return
    for start, end, value in totals or parts:
        yield Reading(start, end, quantities()["gcs"], value)
