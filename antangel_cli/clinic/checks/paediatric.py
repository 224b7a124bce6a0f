"""Vital signs of a child against the band of its age (`rules/paediatric.toml`); no score is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from antangel_cli.clinic.case import Age, Case
from antangel_cli.clinic.checks.news2 import ADULT_YEARS, Observation, acvpu, as_charted, newest_sets, observations
from antangel_cli.clinic.checks.text_states import PROSE, deeply_altered
from antangel_cli.clinic.checks.units import Value, quantities
from antangel_cli.clinic.checks.urgency import highest
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules

MEASURED = ("respiratory_rate", "spo2", "systolic_bp", "pulse", "temperature")
PARAMETERS = (*MEASURED, "consciousness")
BY_AGE = frozenset({"respiratory_rate", "systolic_bp", "pulse"})
"""What is normal in a child and not in an adult."""
NOT_ALERT, DEEPLY_ALTERED = "CVPU", "PU"
"""What free text says of a patient who is not alert: one of these levels."""


@dataclass(frozen=True)
class Limits:
    """From lowest to highest, in the quantity's unit: outside `range` is urgent, outside `extreme` an emergency."""

    range: tuple[float, float]
    extreme: tuple[float, float]

    def urgency(self, value: float) -> str | None:
        """How urgent a value is, as charts are read; None within the range."""
        if not self.extreme[0] <= value <= self.extreme[1]:
            return "emergency"
        return None if self.range[0] <= value <= self.range[1] else "urgent"


@dataclass(frozen=True)
class Band:
    """The limits at an age below `until` months."""

    id: str
    until: float
    limits: dict[str, Limits]


@dataclass(frozen=True)
class OutOfRange:
    """A value outside its band, and how urgent that is; a level of consciousness has no unit and no limits."""

    name: str
    value: float | str = field(repr=False)
    unit: str | None
    low: float | None
    high: float | None
    fact_id: str
    urgency: str


@dataclass(frozen=True)
class Banded:
    """What a child's newest vital signs are beside its band; `missing` names what was not recorded."""

    band: str
    out_of_range: tuple[OutOfRange, ...]
    missing: tuple[str, ...]

    @property
    def urgency(self) -> str | None:
        """The urgency of the worst of them."""
        return highest(found.urgency for found in self.out_of_range)

    def to_json(self) -> dict[str, Any]:
        """As results carry it."""
        rows = [dict(vars(found)) for found in self.out_of_range]
        return {"band": self.band, "out_of_range": rows, "missing": list(self.missing)}


@cache
def bands() -> tuple[Band, ...]:
    """The bands from the youngest."""
    return tuple(
        Band(row["id"], row["until"], {name: _limits(row[name]) for name in MEASURED})
        for row in load_rules("paediatric")["band"]
    )


def _limits(row: dict[str, list[float]]) -> Limits:
    return Limits((row["range"][0], row["range"][1]), (row["extreme"][0], row["extreme"][1]))


def band_of(age: Age) -> Band | None:
    """The band of an age, None from 16 years."""
    if age.years >= ADULT_YEARS:
        return None
    return next(band for band in bands() if age.years * 12 < band.until)


def paediatric(case: Case, rows: Sequence[Fact], values: Sequence[Value]) -> Banded | str | None:
    """The vital signs of a child beside its band, or the reason why not; None when it is no child."""
    if case.patient.age is None:
        return "age_unknown"
    band = band_of(case.patient.age)
    if band is None:
        return None
    recorded = [o for o in observations(case, values) if o.parameter in PARAMETERS]
    if not recorded:
        return "no_vitals"
    newest = [o for chosen in newest_sets(recorded) for o in chosen]
    found = tuple(_out_of_range(case, band, newest, rows))
    missing = tuple(name for name in PARAMETERS if name not in {o.parameter for o in newest})
    return Banded(band.id, found, missing)


def abnormal_for_age(case: Case, values: Sequence[Value]) -> tuple[Value, ...]:
    """The values that rules for all ages may use: without those of a child that only an adult should not have."""
    band = band_of(case.patient.age) if case.patient.age else None
    if band is None:
        return tuple(values)
    return tuple(v for v in values if v.quantity.id not in BY_AGE or _urgency(band, v.quantity.id, v.value))


def _urgency(band: Band, name: str, value: float) -> str | None:
    return band.limits[name].urgency(as_charted(name, value))


def _out_of_range(case: Case, band: Band, newest: Sequence[Observation], rows: Sequence[Fact]) -> Iterator[OutOfRange]:
    ids = {fact.path: fact.id for fact in rows}
    for o in newest:
        fact_id = ids.get(o.path, o.path)
        if o.parameter == "consciousness":
            if not o.value:
                yield _not_alert(_level(case, o, rows), fact_id)
            continue
        urgency = _urgency(band, o.parameter, o.value)
        if urgency:
            unit, limits = quantities()[o.parameter].unit, band.limits[o.parameter].range
            yield OutOfRange(o.parameter, o.value, unit, *limits, fact_id, urgency)


def _level(case: Case, o: Observation, rows: Sequence[Fact]) -> str:
    """The level that is recorded; where only text says it, the gravest levels that any of it names."""
    recorded = next((acvpu(m) for i, m in enumerate(case.vitals) if f"vitals[{i}]" == o.path), None)
    if recorded:
        return recorded
    return DEEPLY_ALTERED if any(fact.kind in PROSE and deeply_altered(fact.text) for fact in rows) else NOT_ALERT


def _not_alert(level: str, fact_id: str) -> OutOfRange:
    urgency = load_rules("paediatric")["consciousness"][level]
    return OutOfRange("consciousness", level, None, None, None, fact_id, urgency)
