"""Plausibility in two bands: an extreme value is warned about, an impossible one is set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.units import UNITLESS, Measured, Quantity, Value
from antangel_cli.clinic.facts import Fact

OLDEST_YEARS = 125


def is_possible(v: Value) -> bool:
    """Whether a living or dying patient can have such a value."""
    return v.quantity.possible[0] <= v.value <= v.quantity.possible[1]


def set_aside(values: Sequence[Value]) -> tuple[dict[str, Any], ...]:
    """What is listed about each impossible value."""
    return tuple(
        {
            "path": v.path,
            "quantity": v.quantity.id,
            "value": f"{v.value:.6g}{_unit(v.quantity)}",
            "possible": list(v.quantity.possible),
        }
        for v in values
        if not is_possible(v)
    )


def warnings(case: Case, measured: Measured) -> Iterator[dict[str, Any]]:
    """Extreme values, and an age that nobody reaches."""
    for v in measured.values:
        if is_possible(v) and not v.quantity.unusual[0] <= v.value <= v.quantity.unusual[1]:
            yield {
                "code": "extreme",
                "path": v.path,
                "quantity": v.quantity.id,
                "value": f"{v.value:.6g}{_unit(v.quantity)}",
            }
    if case.patient.age and case.patient.age.years > OLDEST_YEARS:
        yield {"code": "age_impossible", "path": "patient.age"}


def usable_facts(rows: Sequence[Fact], aside: Sequence[dict[str, Any]]) -> tuple[Fact, ...]:
    """The facts without those set aside, numbered anew."""
    gone = {entry["path"] for entry in aside}
    kept = [fact for fact in rows if fact.path not in gone]
    return tuple(replace(fact, id=f"F{number}") for number, fact in enumerate(kept, 1))


def _unit(quantity: Quantity) -> str:
    return "" if quantity.unit == UNITLESS else f" {quantity.unit}"
