"""NEWS2, the National Early Warning Score 2 (Royal College of Physicians, 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from antangel_cli.clinic.case import Case, Measurement
from antangel_cli.clinic.checks.drugs.pregnancy import gestation
from antangel_cli.clinic.checks.text_folding import folded, folded_name
from antangel_cli.clinic.checks.units import Value
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules

ADULT_YEARS = 16
WINDOW = timedelta(hours=1)
"""Values taken further apart than this are not one set of observations."""

PARAMETERS = (
    "respiratory_rate",
    "spo2",
    "supplemental_oxygen",
    "systolic_bp",
    "pulse",
    "consciousness",
    "temperature",
)

Steps = tuple[tuple[float, int], ...]
"""(highest value, points) in rising order; the last one is open."""

_TOP = float("inf")
STEPS: dict[str, Steps] = {
    "respiratory_rate": ((8, 3), (11, 1), (20, 0), (24, 2), (_TOP, 3)),
    "spo2": ((91, 3), (93, 2), (95, 1), (_TOP, 0)),
    "systolic_bp": ((90, 3), (100, 2), (110, 1), (219, 0), (_TOP, 3)),
    "pulse": ((40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (_TOP, 3)),
    "temperature": ((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (_TOP, 2)),
}
SPO2_SCALE_2: Steps = ((83, 3), (85, 2), (87, 1), (92, 0), (_TOP, 0))
SPO2_SCALE_2_OXYGEN: Steps = ((83, 3), (85, 2), (87, 1), (92, 0), (94, 1), (96, 2), (_TOP, 3))

_WORDS = load_rules("news2_words")
_NAMES: dict[str, str] = {name: parameter for parameter, names in _WORDS["names"].items() for name in names}
_AIR, _OXYGEN = (frozenset(_WORDS["oxygen"][key]) for key in ("air", "oxygen"))
_LEVELS: dict[str, str] = {word: level for level, words in _WORDS["consciousness"].items() for word in words}


@dataclass(frozen=True)
class Observation:
    """One component as it was recorded: a number, or a word already read."""

    parameter: str
    value: float | bool
    path: str
    time: str | None


@dataclass(frozen=True)
class Score:
    """A score, or the least it can be: `missing` names what was not recorded."""

    score: int
    points: dict[str, int]
    missing: tuple[str, ...]
    scale: int

    @property
    def worst(self) -> int:
        """The most points any one parameter got."""
        return max(self.points.values(), default=0)

    @property
    def partial(self) -> bool:
        """Whether the true score may be higher."""
        return bool(self.missing)

    @property
    def urgency(self) -> str | None:
        """The urgency the score alone demands."""
        if self.score >= 7:
            return "emergency"
        return "urgent" if self.score >= 5 or self.worst >= 3 else None

    @property
    def band(self) -> str | None:
        """high, medium, low_medium or low; None where what is missing could still raise a low score."""
        if self.score >= 7:
            return "high"
        if self.score >= 5:
            return "medium"
        if self.worst >= 3:
            return "low_medium"
        return None if self.partial else "low"

    def to_json(self) -> dict[str, Any]:
        """As results carry it."""
        return {
            "score": self.score,
            "band": self.band,
            "missing": list(self.missing),
            "partial": self.partial,
            "points": self.points,
            "spo2_scale": self.scale,
        }


def news2(case: Case, rows: Sequence[Fact], values: Sequence[Value]) -> Score | str:
    """The score of the newest set of observations, or the reason why there is none."""
    refusal = _not_applicable(case, rows)
    if refusal:
        return refusal
    recorded = observations(case, values)
    if not any(o.parameter not in ("supplemental_oxygen", "spo2_scale") for o in recorded):
        return "no_vitals"
    sets = [chosen for chosen in newest_sets(recorded) if chosen]
    return max((score_set(chosen) for chosen in sets), key=lambda s: (s.score, s.worst, -len(s.missing)))


def _not_applicable(case: Case, rows: Sequence[Fact]) -> str | None:
    age = case.patient.age
    if age is None:
        return "age_unknown"
    if age.years > 125:
        return "age_impossible"
    if age.years < ADULT_YEARS:
        return "under_16"
    return "pregnant" if gestation(case, rows).status == "pregnant" else None


def observations(case: Case, values: Sequence[Value]) -> tuple[Observation, ...]:
    """Every component that was recorded: the numbers first, then the words."""
    return tuple(_observed(case, values))


def _observed(case: Case, values: Sequence[Value]) -> Iterator[Observation]:
    for v in values:
        if v.quantity.id in PARAMETERS:
            yield Observation(v.quantity.id, v.value, v.path, v.time)
    for i, m in enumerate(case.vitals):
        word = _word(m)
        if word is not None:
            yield Observation(word[0], word[1], f"vitals[{i}]", m.time)


def _word(m: Measurement) -> tuple[str, float | bool] | None:
    """A component that is no measured number: on oxygen, conscious, SpO2 scale."""
    parameter = _NAMES.get(folded_name(m.name))
    text = _folded_value(m)
    if parameter == "supplemental_oxygen":
        oxygen = on_oxygen(text, m.unit)
        return None if oxygen is None else (parameter, oxygen)
    if parameter == "consciousness":
        return (parameter, _LEVELS[text] == "A") if text in _LEVELS else None
    if parameter == "spo2_scale" and text in ("1", "2"):
        return parameter, float(text)
    return None


def _folded_value(m: Measurement) -> str:
    return folded(f"{m.value:g}" if isinstance(m.value, float) else m.value).strip()


def acvpu(m: Measurement) -> str | None:
    """The level of consciousness that a measurement states, `A C V P` or `U`; None where it states none."""
    return _LEVELS.get(_folded_value(m)) if _NAMES.get(folded_name(m.name)) == "consciousness" else None


def on_oxygen(text: str, unit: str | None) -> bool | None:
    """Whether oxygen is given: `no`, `room air`, `yes`, or so many litres; None when it is not clear."""
    digits = text.split()[0].rstrip("l") if text else ""
    flow = float(digits) if digits.replace(".", "", 1).isdecimal() else None
    if flow is not None and (unit or "l" in text):
        return flow > 0
    return True if text in _OXYGEN else False if text in _AIR else None


def unread_words(case: Case) -> Iterator[str]:
    """Paths of components whose word or number is not known, so that they count as missing."""
    for i, m in enumerate(case.vitals):
        if folded_name(m.name) in _NAMES and _word(m) is None:
            yield f"vitals[{i}]"


def newest_sets(recorded: Sequence[Observation]) -> Iterator[tuple[Observation, ...]]:
    """The observations within an hour of the newest, and those without a clear time: never mixed."""
    scale = tuple(o for o in recorded if o.parameter == "spo2_scale")
    taken = [(moment(o.time), o) for o in recorded if o.parameter != "spo2_scale"]
    timed = [(at, o) for at, o in taken if at is not None]
    if timed:
        newest = max(at for at, _ in timed)
        ordered = sorted(timed, key=lambda pair: pair[0])
        yield (*scale, *(o for at, o in ordered if newest - at <= WINDOW))
    untimed = [o for at, o in taken if at is None]
    if untimed:
        yield (*scale, *untimed)


def moment(time: str | None) -> datetime | None:
    """A time that states day and hour, None for anything less clear. Without an offset it counts as UTC."""
    if time is None or len(time) < 13:
        return None
    try:
        at = datetime.fromisoformat(time)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def score_set(observations: Iterable[Observation]) -> Score:
    """Score one set; of several values of one parameter the last counts."""
    recorded = {o.parameter: o.value for o in observations}
    scale = 2 if recorded.get("spo2_scale") == 2 else 1
    points = {
        name: _points(name, recorded[name], scale, bool(recorded.get("supplemental_oxygen")))
        for name in PARAMETERS
        if name in recorded
    }
    missing = tuple(name for name in PARAMETERS if name not in recorded)
    return Score(sum(points.values()), points, missing, scale)


def _points(name: str, value: float | bool, scale: int, oxygen: bool) -> int:
    if name == "supplemental_oxygen":
        return 2 if value else 0
    if name == "consciousness":
        return 0 if value else 3
    steps = STEPS[name]
    if name == "spo2" and scale == 2:
        steps = SPO2_SCALE_2_OXYGEN if oxygen else SPO2_SCALE_2
    return next(points for highest, points in steps if as_charted(name, value) <= highest)


def as_charted(name: str, value: float) -> float:
    """A value as a chart is read, halves up: SpO2 91.5 is 92, a temperature of 38.05 is 38.1."""
    scale = 10.0 if name == "temperature" else 1.0
    return math.floor(value * scale + 0.5 + 1e-9) / scale
