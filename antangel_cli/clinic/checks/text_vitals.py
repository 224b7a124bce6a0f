"""Vitals in free text, read by a strict table of notations (`rules/text_vitals.toml`) and shown as read from text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.news2 import observations
from antangel_cli.clinic.checks.text_context import is_current
from antangel_cli.clinic.checks.text_notations import Reading, plain, readings, runs
from antangel_cli.clinic.checks.text_states import PROSE, STATES, states
from antangel_cli.clinic.checks.units import Measured, Value
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.memo import remembered


def vitals_in_text(case: Case, rows: Sequence[Fact], measured: Measured) -> Measured:
    """Add the vitals that prose states and no field does; each is reported as read from text."""
    known = {value.quantity.id for value in measured.values} | {o.parameter for o in observations(case, ())}
    prose = [fact for fact in rows if fact.kind in PROSE]
    read = [*(value for fact in prose for value in _read(fact, _time(case, fact))), *states(prose)]
    found = [value for value in read if value.quantity.id not in known]
    warnings = tuple(_report(value) for value in found)
    return Measured((*measured.values, *found), measured.conversions, (*measured.warnings, *warnings))


def _read(fact: Fact, time: str | None) -> Iterator[Value]:
    return (_value(reading, fact, time) for reading in _current(plain(fact.text)))


@remembered
def _current(text: str) -> tuple[Reading, ...]:
    standing = (run for run in runs(text, readings(text)) if is_current(text, run[0].start, run[-1].end))
    return tuple(reading for run in standing for reading in run)


def _value(reading: Reading, fact: Fact, time: str | None) -> Value:
    return Value(reading.quantity, reading.value, fact.path, time, from_text=True)


def _time(case: Case, fact: Fact) -> str | None:
    """When a note was written: an old note's vitals are never of the newest set."""
    return next((n.time for i, n in enumerate(case.notes) if fact.path.startswith(f"notes[{i}].")), None)


def _report(value: Value) -> dict[str, Any]:
    words = STATES.get(value.quantity.id)
    shown = words[bool(value.value)] if words else f"{value.value:.4g} {value.quantity.unit}"
    return {
        "code": "read_from_text",
        "path": value.path,
        "quantity": value.quantity.id,
        "value": shown.removesuffix(" 1"),
    }
