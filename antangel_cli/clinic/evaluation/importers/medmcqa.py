"""MedMCQA, JSON lines: `id`, `question`, `opa` to `opd`, `cop` (1 to 4), `choice_type` (single, multi).

Form opened in medmcqa/medmcqa, README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from antangel_cli.clinic.evaluation.importers.entries import case_of, choice, objects, text, unlike

_OPTIONS = ("opa", "opb", "opc", "opd")
_FROM_ONE = "cop counts from 1 in the published files; add one where a copy counts from 0."


def read_medmcqa(lines: Iterable[str], beside: Callable[[str], str]) -> Iterator[dict[str, Any] | None]:
    """A case for each question with one right option. Raises InputError where `cop` is not 1 to 4."""
    del beside
    for number, entry in objects(lines):
        right = entry.get("cop")
        if type(right) is not int or not 1 <= right <= len(_OPTIONS):
            raise unlike(number, _FROM_ONE)
        options = [text(entry.get(key), number) for key in _OPTIONS]
        question = text(entry.get("question"), number)
        asked = choice(options, False)
        gold = {"diagnosis": options[right - 1]}
        single = entry.get("choice_type", "single") == "single"
        yield case_of(entry.get("id"), number, question, gold, question=asked) if single else None
