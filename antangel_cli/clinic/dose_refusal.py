"""Whom a dose is never shown for, whatever was asked: children, pregnancy or not knowing, failing kidneys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.drugs.pregnancy import gestation
from antangel_cli.clinic.checks.units import Value, measure
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules

_DOSES = {
    "age_unknown": ("doses are not shown: the age is not known", "不显示剂量：年龄未知"),
    "under_16": ("doses are not shown under 16 years", "不显示剂量：不足16岁"),
    "pregnant": ("doses are not shown in pregnancy", "不显示剂量：妊娠"),
    "pregnancy_unknown": ("doses are not shown: pregnancy is not ruled out", "不显示剂量：未排除妊娠"),
    "renal": ("doses are not shown: a value of impaired kidneys", "不显示剂量：肾功能指标异常"),
}


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


def refusal_remark(reason: str, chinese: bool) -> dict[str, Any]:
    """Why doses that were asked for are not shown, as `checks.answer_remarks` carries it."""
    return {"check": "doses_refused", "reason": reason, "message": _DOSES[reason][chinese]}
