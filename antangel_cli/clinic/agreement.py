"""How far the samples of one case agree: a better signal than the confidence a model states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from antangel_cli.clinic.post_checks import normalized_name
from antangel_cli.clinic.result import Diagnosis, Differential

TOP = 3
"""A run speaks for the diagnoses it ranks this high."""


def agreement(samples: int, shown: Differential, answers: Sequence[Differential]) -> dict[str, Any]:
    """Of the runs that came to an answer, the share that has each listed diagnosis in its top three.

    `answers` are those of all such runs, the shown one among them; `others` stand in at least half of the runs' top
    three and not in the shown answer.
    """
    others = [d for d in _distinct(answers) if not any(_same(d, listed) for listed in shown.differential)]
    return {
        "samples": samples,
        "completed": len(answers),
        "diagnoses": [_entry(d, answers) for d in shown.differential],
        "others": [_entry(d, answers) for d in others if 2 * _runs(d, answers) >= len(answers)],
    }


def _entry(diagnosis: Diagnosis, answers: Sequence[Differential]) -> dict[str, Any]:
    runs = _runs(diagnosis, answers)
    return {"name": diagnosis.name, "share": round(runs / len(answers), 3), "runs": runs}


def _runs(diagnosis: Diagnosis, answers: Sequence[Differential]) -> int:
    return sum(any(_same(diagnosis, d) for d in answer.differential[:TOP]) for answer in answers)


def _distinct(answers: Sequence[Differential]) -> list[Diagnosis]:
    """Every diagnosis of a top three once, in the order of the runs."""
    found: list[Diagnosis] = []
    for answer in answers:
        found += [d for d in answer.differential[:TOP] if not any(_same(d, known) for known in found)]
    return found


def _same(a: Diagnosis, b: Diagnosis) -> bool:
    """By the first code where both have one, else by name."""
    if a.codes and b.codes and a.codes[0] == b.codes[0]:
        return True
    return normalized_name(a.name) == normalized_name(b.name)
