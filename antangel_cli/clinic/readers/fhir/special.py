"""Observations that are about the patient rather than a measurement: size, pregnancy, oxygen given."""

from __future__ import annotations

from typing import Any

from antangel_cli.clinic.rules import load_rules

_ANSWERS: dict[str, str] = load_rules("fhir")["pregnancy_answers"]
_KILOGRAMS = {"kg": 1.0, "g": 0.001, "lb": 0.45359237}
_CENTIMETRES = {"cm": 1.0, "m": 100.0, "in": 2.54}
_AIR = 22.0
"""Percent of oxygen up to which a patient breathes room air."""


def size(name: str, value: float, unit: str | None) -> dict[str, Any] | None:
    """Weight in kg or height in cm, where the unit is known and the number can be one."""
    if name == "weight" and unit in _KILOGRAMS and 0 < value * _KILOGRAMS[unit] <= 700:
        return {"weight_kg": round(value * _KILOGRAMS[unit], 3)}
    if name == "height" and unit in _CENTIMETRES and 0 < value * _CENTIMETRES[unit] <= 280:
        return {"height_cm": round(value * _CENTIMETRES[unit], 1)}
    return None


def supplemental_oxygen(name: str, value: float, unit: str | None) -> str:
    """Whether oxygen is given, from its flow or its concentration (%, or a fraction up to 1)."""
    if name.endswith("flow"):
        return "yes" if value > 0 else "no"
    percent = value * 100 if unit != "%" and value <= 1 else value
    return "yes" if percent > _AIR else "no"


def pregnancy(what: str | None, answers: frozenset[str], weeks: float | None) -> dict[str, Any] | None:
    """Pregnancy from its status, or from weeks of gestation, which only a pregnant patient has."""
    if what == "weeks" and weeks is not None and 0 < weeks <= 45:
        return {"pregnancy": {"status": "pregnant", "weeks": weeks}}
    status = next((_ANSWERS[code] for code in sorted(answers) if code in _ANSWERS), None)
    return {"pregnancy": {"status": status}} if what == "status" and status else None
