"""How units convert: tables of spellings, and units per volume (`mg/dL`, `nmol/L`) put together from their parts."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from antangel_cli.clinic.checks.text_folding import folded_unit
from antangel_cli.clinic.rules import load_rules

Conversion = tuple[float, float]
"""(factor, offset): value * factor + offset is in the other unit."""

SAME: Conversion = (1.0, 0.0)

_PER_VOLUME = re.compile(r"(k|d|m|u|n|p)?(mol|iu|eq|g|u)/(100ml|dl|ml|cc|ul|l)")


def conversion(unit: str, to: str, substance: dict[str, Any]) -> Conversion | None:
    """From one folded unit to another; None where the two do not measure the same.

    `substance` may have `molar_mass` (g/mol), for mass and amount, and `charge`, for equivalents.
    """
    if unit == to:
        return SAME
    concentration = _concentration(to)
    if concentration is None:
        return _by_table(unit, to)
    given = _concentration(unit)
    if given is None:
        return None
    between = _between(given[0], concentration[0], substance)
    return None if between is None else (float(f"{given[1] / concentration[1] * between:.12g}"), 0.0)


def _concentration(unit: str) -> tuple[str, float] | None:
    """What a unit per volume counts (mass, amount, equivalent, activity), and how much of it there is in a litre."""
    match = _PER_VOLUME.fullmatch(unit)
    if match is None:
        return None
    table = load_rules("units")
    prefix = table["prefix"][match[1]] if match[1] else 1.0
    return table["numerator"][match[2]], prefix / table["volume"][match[3]]


def _between(given: str, wanted: str, substance: dict[str, Any]) -> float | None:
    """How much of `wanted` one of `given` is, of this substance."""
    molar_mass, charge = substance.get("molar_mass"), substance.get("charge")
    if given == wanted:
        return 1.0
    if (given, wanted) == ("mass", "amount") and molar_mass:
        return float(1 / molar_mass)
    if (given, wanted) == ("amount", "mass") and molar_mass:
        return float(molar_mass)
    if (given, wanted) == ("equivalent", "amount") and charge:
        return float(1 / charge)
    return None


def _by_table(unit: str, to: str) -> Conversion | None:
    table = _table_of(to)
    if unit not in table:
        return None
    factor, offset = table[unit]
    scale = table[to][0]
    return float(f"{factor / scale:.12g}"), offset / scale


@cache
def _table_of(unit: str) -> dict[str, Conversion]:
    """The table that counts in `unit`, else one that has it; empty where there is none."""
    tables = [{folded_unit(name): _pair(row) for name, row in t.items()} for t in load_rules("units")["table"].values()]
    having = [table for table in tables if unit in table]
    return next((table for table in having if next(iter(table)) == unit), having[0] if having else {})


def _pair(factor: float | list[float]) -> Conversion:
    return (factor[0], factor[1]) if isinstance(factor, list) else (float(factor), 0.0)
