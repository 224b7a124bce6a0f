"""Whether a reading in prose is of this patient, now: not of another time, a limit, or another person."""

from __future__ import annotations

import re

from antangel_cli.clinic.checks.statements import REACH, is_family, is_past
from antangel_cli.clinic.rules import load_rules

_CONTEXT = {name: re.compile(pattern) for name, pattern in load_rules("text_vitals")["context"].items()}

_NEAR = 80
"""Characters before a reading in which a person's word is beside it."""


def is_current(text: str, start: int, end: int) -> bool:
    """Whether what stands from `start` to `end` of a sentence, folded, is said of the patient as they are now."""
    before, after = text[max(0, start - REACH) : start], text[end : end + REACH]
    clause = _CONTEXT["clause"].split(before)[-1]
    if (
        _CONTEXT["past"].search(clause)
        or _CONTEXT["limit"].search(clause)
        or _CONTEXT["relative"].search(before[-_NEAR:])
    ):
        return False
    if is_family(before) or is_past(before, after) or _CONTEXT["after"].match(_CONTEXT["clause"].split(after)[0]):
        return False
    return not _is_of_another_time(text[:REACH], before)


def _is_of_another_time(opening: str, before: str) -> bool:
    """Whether the sentence opens with another time (`last week, ...`) and no word has come back from it."""
    return bool(_CONTEXT["leading"].match(opening)) and not _CONTEXT["reset"].search(before)
