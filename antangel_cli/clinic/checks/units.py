"""Units: known measurements in the unit the rules count in; the rest is reported, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from antangel_cli.clinic.case import Case, Measurement
from antangel_cli.clinic.checks.text_folding import folded, folded_name, folded_unit
from antangel_cli.clinic.checks.unit_table import SAME, conversion
from antangel_cli.clinic.rules import load_rules, rule_files

UNITLESS = "1"

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_PRESSURE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*/\s*(\d{1,3}(?:\.\d+)?)")
_PRESSURE_NAMES = {"bp", "bloodpressure", "nibp", "血压"}


@dataclass(frozen=True)
class Quantity:
    """Something measured: its id, the unit the rules count in, its two bands, and the row of its table."""

    id: str
    unit: str
    unusual: tuple[float, float]
    possible: tuple[float, float]
    row: dict[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Value:
    """One measured value in its quantity's unit, with where it stands and when it was taken."""

    quantity: Quantity
    value: float = field(repr=False)
    path: str
    time: str | None = field(default=None, repr=False)
    from_text: bool = False


@dataclass(frozen=True)
class Measured:
    """All values that rules may use, the conversions made, and what could not be used."""

    values: tuple[Value, ...] = field(repr=False)
    conversions: tuple[dict[str, Any], ...] = field(repr=False)
    warnings: tuple[dict[str, Any], ...] = field(repr=False)


@cache
def quantities() -> dict[str, Quantity]:
    """The table of quantities, by id, out of `rules/quantities/`."""
    files = (load_rules(name)["quantity"] for name in rule_files("quantities"))
    return {
        name: Quantity(name, row["unit"], tuple(row["unusual"]), tuple(row["possible"]), row)
        for rows in files
        for name, row in rows.items()
    }


@cache
def _by_name() -> dict[str, Quantity]:
    return {folded_name(name): known for key, known in quantities().items() for name in (key, *known.row["names"])}


def quantity_named(name: str) -> Quantity | None:
    """The quantity a measurement's name stands for, None when the table has none."""
    return _by_name().get(folded_name(name))


def measure(case: Case) -> Measured:
    """Read every vital and laboratory value whose name the table knows."""
    outcomes = [outcome for path, m in _measurements(case) for outcome in _read(path, m)]
    return Measured(
        tuple(o for o in outcomes if isinstance(o, Value)),
        tuple(o for o in outcomes if isinstance(o, dict) and o.get("code") == "converted"),
        tuple(o for o in outcomes if isinstance(o, dict) and o.get("code") != "converted"),
    )


def _measurements(case: Case) -> Iterator[tuple[str, Measurement]]:
    for part in ("vitals", "labs"):
        yield from ((f"{part}[{i}]", m) for i, m in enumerate(getattr(case, part)))


def _read(path: str, m: Measurement) -> Iterator[Value | dict[str, Any]]:
    if folded_name(m.name) in _PRESSURE_NAMES:
        yield from _read_pressure(path, m)
        return
    quantity = quantity_named(m.name)
    if quantity is not None:
        yield from _convert(path, m, quantity, m.value)


def _read_pressure(path: str, m: Measurement) -> Iterator[Value | dict[str, Any]]:
    pair = _PRESSURE.fullmatch(folded(str(m.value)).strip())
    if pair is None:
        yield {"code": "pressure_unread", "path": path}
        return
    for name, digits in zip(("systolic_bp", "diastolic_bp"), pair.groups(), strict=True):
        yield from _convert(path, m, quantities()[name], digits)


def _convert(path: str, m: Measurement, quantity: Quantity, raw: float | str) -> Iterator[Value | dict[str, Any]]:
    number = _number(raw)
    if isinstance(number, str):
        yield {"code": number, "path": path}
        return
    unit = folded_unit(m.unit or "")
    if unit == "%" and "percent" in quantity.row:
        quantity = quantities()[quantity.row["percent"]]
    if unit in map(folded_unit, quantity.row.get("ambiguous", ())):
        yield {"code": "unit_ambiguous", "path": path}
        return
    known = SAME if quantity.unit == UNITLESS else conversion(unit, folded_unit(quantity.unit), quantity.row)
    if known is None:
        yield {"code": "unit_unknown" if m.unit else "unit_missing", "path": path}
        return
    value = number * known[0] + known[1]
    if known != SAME:
        value = float(f"{value:.6g}")
        yield {
            "code": "converted",
            "path": path,
            "original": f"{raw} {m.unit}",
            "converted": f"{value:.4g} {quantity.unit}",
        }
    yield Value(quantity, value, path, m.time)


def _number(raw: float | str) -> float | str:
    """The number a value states, else the code of why it states none."""
    if isinstance(raw, float | int):
        return float(raw)
    text = folded(raw).strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    return "decimal_comma" if _DECIMAL_COMMA.fullmatch(text) else "not_a_number"
