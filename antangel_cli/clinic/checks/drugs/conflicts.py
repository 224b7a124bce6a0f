"""Possible conflicts of drugs with allergies and pregnancy: what the patient takes, and what an answer names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.drugs.against import (
    Conflict,
    Patient,
    allergy_conflicts,
    drugs_named,
    pregnancy_conflicts,
)
from antangel_cli.clinic.facts import Fact

UNRECORDED = ("not_recorded", "unknown")
"""Grounds that only say what nobody asked: of use where a drug is proposed, not where it is taken already."""

Conflicts = tuple[tuple[Conflict, ...], tuple[Conflict, ...]]
"""Those with allergies, and those with pregnancy."""


def medication_conflicts(case: Case, rows: Sequence[Fact]) -> Conflicts:
    """What the patient takes now, against what the case says of allergies and pregnancy."""
    prose = [(f"medications[{i}]", m.text) for i, m in enumerate(case.medications) if m.status == "active"]
    allergy, pregnancy = _conflicts(prose, Patient.of(case, rows))
    return tuple(_known(allergy)), tuple(_known(pregnancy))


def answer_conflicts(answer: dict[str, Any], case: Case, rows: Sequence[Fact]) -> Conflicts:
    """Every drug that the answer's prose names, and for pregnancy every way of imaging with radiation."""
    return _conflicts([*prose_of(answer, "result")], Patient.of(case, rows))


def reply_conflicts(question: str, reply: str, case: Case, rows: Sequence[Fact]) -> Conflicts:
    """Every drug that a reply in free text names, and those of the question that a known ground speaks against.

    A reply may say yes to a drug that it does not name.
    """
    patient = Patient.of(case, rows)
    asked = (
        [c for c in _known(part) if c["context"] != "avoided"] for part in _conflicts([("question", question)], patient)
    )
    allergy, pregnancy = (
        (*mine, *answered) for mine, answered in zip(asked, _conflicts([("reply", reply)], patient), strict=True)
    )
    return allergy, pregnancy


def prose_of(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Each text of an answer with its place: `result.next_steps[0].action`."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from prose_of(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from prose_of(item, f"{place}[{i}]")


def _conflicts(prose: Sequence[tuple[str, str]], patient: Patient) -> Conflicts:
    named = drugs_named(prose)
    return allergy_conflicts(named, patient), pregnancy_conflicts(named, prose, patient)


def _known(found: Sequence[Conflict]) -> Iterator[Conflict]:
    return (conflict for conflict in found if conflict["basis"] not in UNRECORDED)
