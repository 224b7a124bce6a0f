"""Cases for tests, made from a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks import Checks, facts_to_use, run_checks
from antangel_cli.clinic.readers import read_case

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

NORMAL: dict[str, tuple[float | str, str | None]] = {
    "respiratory_rate": (16, "/min"),
    "spo2": (98, "%"),
    "supplemental_oxygen": ("no", None),
    "systolic_bp": (124, "mmHg"),
    "pulse": (72, "/min"),
    "consciousness": ("alert", None),
    "temperature": (36.8, "°C"),
}
"""A set of observations that scores nothing."""


def make_case(**about: Any) -> Case:
    """A valid case with these fields."""
    content = {"schema": "antangel.case/1", "id": "t", "chief_complaint": "cough", **about}
    return read_case(json.dumps(content).encode(), None, "case")


def prose(text: str) -> Case:
    """A case of plain text."""
    return read_case(text.encode(), None, "text")


def vitals(**changed: Any) -> list[dict[str, Any]]:
    """The normal observations with some changed; None leaves one out. A tuple gives value and unit."""
    rows = {name: pair for name, pair in NORMAL.items() if name not in changed}
    for name, value in changed.items():
        if value is not None:
            unit = NORMAL.get(name, (None, None))[1]
            rows[name] = value if isinstance(value, tuple) else (value, unit)
    return [{"name": name, "value": value, "unit": unit} for name, (value, unit) in rows.items()]


def adult(**about: Any) -> Case:
    """A woman of 40 who is not pregnant."""
    patient = {"age": {"value": 40}, "sex_at_birth": "female", "pregnancy": {"status": "not_pregnant"}}
    return make_case(patient=patient, **about)


def checked(case: Case, accept: bool = False) -> Checks:
    """What the checks find in a case."""
    return run_checks(case, facts_to_use(case, accept), accept)


def codes(checks: Checks) -> list[str]:
    """The codes of the input warnings."""
    return [warning["code"] for warning in checks.input_warnings]
