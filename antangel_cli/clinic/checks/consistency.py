"""Contradictions between the fields of a case: reported, never resolved (`rules/consistency.toml`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from antangel_cli.clinic.case import Age, Case, Measurement
from antangel_cli.clinic.checks.news2 import acvpu, moment
from antangel_cli.clinic.checks.stated import contradictions_in_words
from antangel_cli.clinic.checks.text_folding import folded
from antangel_cli.clinic.checks.units import Measured, Value
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules

Found = Iterator[dict[str, Any]]

_RULES = load_rules("consistency")
_FLAGS = {word: level for level, words in _RULES["flags"].items() for word in words}

SAME_VALUE = 0.005
"""Values that differ by less, as a share of the larger, are one value in two units."""
CLOCKS_APART = timedelta(days=1)
"""How far two clocks may differ where a time names no offset."""
_UNIT_DAYS = {"a": 365.25, "mo": 30.44, "wk": 7.0, "d": 1.0}


def contradictions(case: Case, rows: Sequence[Fact], measured: Measured, now: datetime | None = None) -> Found:
    """Every contradiction, as warnings that name fields and never words; `now` is the clock's time unless given."""
    for compare in _OF_VALUES:
        yield from compare(case, measured.values)
    for rule in _OF_FIELDS:
        yield from rule(case)
    yield from _times_in_future(case, now or datetime.now(UTC))
    yield from contradictions_in_words(case, rows)


def _measurements(case: Case) -> Iterator[tuple[str, Measurement]]:
    for part in ("vitals", "labs"):
        yield from ((f"{part}[{i}]", m) for i, m in enumerate(getattr(case, part)))


def _ranges(case: Case) -> Found:
    """A reference range upside down, or a flag that does not go with it; a missing flag is no contradiction."""
    for path, m in _measurements(case):
        if m.ref_low is not None and m.ref_high is not None and m.ref_low > m.ref_high:
            yield {"code": "range_reversed", "path": path}
        elif _flag_contradicts(m):
            yield {"code": "flag_contradicts", "path": path}


def _flag_contradicts(m: Measurement) -> bool:
    value, flag = _number(m.value), _FLAGS.get(folded(m.flag or "").strip())
    if value is None:
        return False
    low = -math.inf if m.ref_low is None else m.ref_low
    high = math.inf if m.ref_high is None else m.ref_high
    if flag == "high":
        return value < (low if m.ref_high is None else high)
    if flag == "low":
        return value > (high if m.ref_low is None else low)
    return flag == "normal" and not low <= value <= high


def _number(value: float | str) -> float | None:
    try:
        number = float(folded(value)) if isinstance(value, str) else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _pregnancy(case: Case) -> Found:
    pregnancy, age = case.patient.pregnancy, case.patient.age
    if pregnancy is None or pregnancy.status not in ("pregnant", "postpartum"):
        return
    if case.patient.sex_at_birth == "male":
        yield {"code": "pregnant_male", "path": "patient.pregnancy"}
    least, most = _RULES["pregnancy"]["ages"]
    if age is not None and not least <= age.years <= most:
        yield {"code": "pregnancy_age", "path": "patient.pregnancy"}


def _growth(case: Case) -> Found:
    """Weight and height that are hardly possible at the age."""
    age = case.patient.age
    if age is None:
        return
    limits = next(row for row in _RULES["growth"] if age.years * 12 < row["until"])
    for name in ("weight_kg", "height_cm"):
        value = getattr(case.patient, name)
        if value is not None and not limits[name][0] <= value <= limits[name][1]:
            yield {"code": "growth_for_age", "path": f"patient.{name}"}


def _before_birth(case: Case) -> Found:
    """Times that lie further before the newest one than the patient is old."""
    taken = [(path, at) for path, time in _times(case) if (at := _instant(time)) is not None]
    if case.patient.age is None or not taken:
        return
    born = max(at for _, at in taken) - _longest(case.patient.age)
    yield from ({"code": "time_before_birth", "path": path} for path, at in taken if at < born)


def _longest(age: Age) -> timedelta:
    """The most an age in whole units can be."""
    return min(timedelta(days=(age.value + 1) * _UNIT_DAYS[age.unit]), timedelta(days=365 * 200)) + CLOCKS_APART


def _times_in_future(case: Case, now: datetime) -> Found:
    for path, time in _times(case):
        at = _instant(time)
        if at is not None and at > now + CLOCKS_APART:
            yield {"code": "time_in_future", "path": path}


def _times(case: Case) -> Iterator[tuple[str, str | None]]:
    yield from ((path, m.time) for path, m in _measurements(case))
    for part in ("imaging", "notes"):
        yield from ((f"{part}[{i}]", report.time) for i, report in enumerate(getattr(case, part)))


def _instant(time: str | None) -> datetime | None:
    """A time, or the beginning of a day."""
    return moment(time) or moment(f"{time}T00:00")


def _pressures(case: Case, values: Sequence[Value]) -> Found:
    """A systolic pressure not above the diastolic one of the same reading."""
    systolic, diastolic = ([v for v in values if v.quantity.id == name] for name in ("systolic_bp", "diastolic_bp"))
    only = systolic[0] if len(systolic) == len(diastolic) == 1 else None
    readings = {key: v for v in reversed(systolic) for key in _reading(v)}
    for lower in diastolic:
        upper = next((readings[key] for key in _reading(lower) if key in readings), only)
        if upper and 0 < upper.value <= lower.value:
            yield {"code": "pressures_swapped", "path": lower.path, "other": upper.path}


def _reading(value: Value) -> Iterator[str | datetime]:
    """What two pressures of one reading share: the entry, or the time."""
    if not value.from_text:
        yield value.path
    at = moment(value.time)
    if at is not None:
        yield at


def _consciousness(case: Case, values: Sequence[Value]) -> Found:
    """A level of consciousness that a Glasgow coma score of the same time, or none of both, rules out."""
    scores: dict[datetime | None, list[Value]] = {}
    for v in sorted((v for v in values if v.quantity.id == "gcs"), key=lambda v: v.value):
        scores.setdefault(moment(v.time), []).append(v)
    for i, m in enumerate(case.vitals):
        low, high = _RULES["gcs"].get(acvpu(m), (-math.inf, math.inf))
        same_time = scores.get(moment(m.time), [])
        wrong = next((score for score in (*same_time[:1], *same_time[-1:]) if not low <= score.value <= high), None)
        if wrong:
            yield {"code": "consciousness_contradicts", "path": f"vitals[{i}]", "other": wrong.path}


def _differing(case: Case, values: Sequence[Value]) -> Found:
    """A value of a vital sign that is another one than the first of that moment."""
    first: dict[tuple[str, datetime], Value] = {}
    for v in values:
        at = moment(v.time)
        if at is None or not v.path.startswith("vitals"):
            continue
        told = first.setdefault((v.quantity.id, at), v)
        if abs(v.value - told.value) > SAME_VALUE * max(abs(v.value), abs(told.value)):
            yield {"code": "values_differ", "path": v.path, "other": told.path}


_OF_FIELDS: tuple[Callable[[Case], Found], ...] = (_ranges, _pregnancy, _growth, _before_birth)
_OF_VALUES: tuple[Callable[[Case, Sequence[Value]], Found], ...] = (_pressures, _consciousness, _differing)
