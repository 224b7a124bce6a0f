"""Whom a dose is never shown for, whatever was asked: children, pregnancy or not knowing, failing kidneys."""

from __future__ import annotations

from collections.abc import Sequence

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.drugs.pregnancy import gestation
from antangel_cli.clinic.checks.units import Value, measure
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules


def dose_refusal(case: Case, rows: Sequence[Fact]) -> str | None:
    """Why doses stay withheld: `age_unknown`, `under_16`, `pregnant`, `pregnancy_unknown`, `renal`; None if shown."""
    limits = load_rules("doses")
    age = case.patient.age
    if age is None or age.years < limits["least_age"]:
        return "age_unknown" if age is None else "under_16"
    status = gestation(case, rows).status
    if status != "no":
        return "pregnant" if status == "pregnant" else "pregnancy_unknown"
    return "renal" if any(_is_renal(value, limits["renal"]) for value in measure(case).values) else None


def _is_renal(value: Value, limits: dict[str, dict[str, float]]) -> bool:
    """Whether a value is that of impaired kidneys."""
    low, high = (limits[side].get(value.quantity.id) for side in ("below", "above"))
    return (low is not None and value.value < low) or (high is not None and value.value > high)
