"""Vitals in free text, read by a strict table of notations and shown as read from text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from antangel_cli.clinic.checks.text_folding import folded
from antangel_cli.clinic.checks.units import Measured, Value, quantities
from antangel_cli.clinic.facts import Fact

_GAP = r"\s*(?:is|was|of|:|=|为|是)?\s*"
_NUMBER = r"(\d{1,3}(?:\.\d+)?)(?![\d.,/-]*\d)"

NOTATIONS: dict[str, re.Pattern[str]] = {
    "temperature": re.compile(rf"(?:\b(?:temp(?:erature)?|t)\b|体温){_GAP}{_NUMBER}\s*°\s*c"),
    "pulse": re.compile(rf"(?:\b(?:pulse(?: rate)?|heart rate|hr)\b|脉搏|心率){_GAP}{_NUMBER}(?!\s*(?:°|%|mmhg))"),
    "respiratory_rate": re.compile(
        rf"(?:\b(?:resp(?:iratory)? rate|rr)\b|呼吸(?:频率)?){_GAP}{_NUMBER}(?!\s*(?:°|%|mmhg))"
    ),
    "spo2": re.compile(rf"(?:\b(?:spo2|sao2|sats?|oxygen saturation)\b|血氧(?:饱和度)?){_GAP}{_NUMBER}\s*%"),
}
"""How prose writes each vital; pulse and breathing are per minute by convention, the others need a unit."""

PRESSURE = re.compile(rf"(?:\b(?:bp|blood pressure)\b|血压){_GAP}(\d{{2,3}})\s*/\s*(\d{{2,3}})(?!\d)(?!\s*kpa)")
"""Blood pressure as `BP 90/60`: a pair of this size can only be mmHg."""

_PROSE = {"complaint", "text", "note"}


def vitals_in_text(rows: Sequence[Fact], measured: Measured) -> Measured:
    """Add the vitals that prose states and no field does; each is reported as read from text."""
    known = {value.quantity.id for value in measured.values}
    found = [v for fact in rows if fact.kind in _PROSE for v in _read(fact) if v.quantity.id not in known]
    warnings = tuple(_report(value) for value in found)
    return Measured((*measured.values, *found), measured.conversions, (*measured.warnings, *warnings))


def _read(fact: Fact) -> Iterator[Value]:
    text = " ".join(folded(fact.text).split())
    for name, pattern in NOTATIONS.items():
        for match in pattern.finditer(text):
            yield Value(quantities()[name], float(match[1]), fact.path, from_text=True)
    for match in PRESSURE.finditer(text):
        yield Value(quantities()["systolic_bp"], float(match[1]), fact.path, from_text=True)
        yield Value(quantities()["diastolic_bp"], float(match[2]), fact.path, from_text=True)


def _report(value: Value) -> dict[str, Any]:
    return {
        "code": "read_from_text",
        "path": value.path,
        "quantity": value.quantity.id,
        "value": f"{value.value:g} {value.quantity.unit}",
    }
