"""Whether a patient is pregnant, may be, or is not: unknown is not safe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from antangel_cli.clinic.case import Case, Patient
from antangel_cli.clinic.checks.statements import asserted, statements
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules

FERTILE_YEARS = (12.0, 55.0)
"""Ages at which an unrecorded pregnancy is possible."""


@dataclass(frozen=True)
class Gestation:
    """What is known of a pregnancy; `weeks` when recorded."""

    status: Literal["pregnant", "possible", "no"]
    weeks: float | None = None
    fact_ids: tuple[str, ...] = ()


def gestation(case: Case, rows: Sequence[Fact]) -> Gestation:
    """The pregnancy recorded or stated in the text; possible when neither, for whoever is not male and 12 to 55."""
    recorded = case.patient.pregnancy
    if recorded is not None and recorded.status != "unknown":
        pregnant = recorded.status == "pregnant"
        ids = tuple(fact.id for fact in rows if fact.path == "patient") if pregnant else ()
        return Gestation("pregnant" if pregnant else "no", recorded.weeks if pregnant else None, ids)
    stated = tuple(s.fact_id for s in statements(rows) if asserted(s, _stated()))
    if stated and case.patient.sex_at_birth != "male":
        return Gestation("pregnant", None, stated[:2])
    return Gestation("possible" if _may_be(case.patient) else "no")


@cache
def _stated() -> str:
    pattern: str = load_rules("drugs/words")["pregnancy"]["stated"]
    return pattern


def _may_be(patient: Patient) -> bool:
    """Whether sex and age leave a pregnancy possible; what is not known leaves it so."""
    least, most = FERTILE_YEARS
    return patient.sex_at_birth != "male" and (patient.age is None or least <= patient.age.years <= most)
