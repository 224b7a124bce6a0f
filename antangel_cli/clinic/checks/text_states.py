"""What NEWS2 needs and no number says: whether oxygen is given, and whether the patient is alert, read from prose."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from antangel_cli.clinic.checks.statements import stands
from antangel_cli.clinic.checks.text_context import is_current
from antangel_cli.clinic.checks.text_notations import plain
from antangel_cli.clinic.checks.units import Quantity, Value
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.memo import remembered
from antangel_cli.clinic.rules import load_rules

_TABLE = load_rules("text_vitals")
_REACH = 40
PROSE = frozenset({"complaint", "text", "note"})
"""The kinds of facts in which vitals and states are read."""

STATES = {"supplemental_oxygen": ("room air", "oxygen given"), "consciousness": ("not alert", "alert")}
"""How a state is reported, for 0 and for 1."""

_PATTERNS = {
    "supplemental_oxygen": tuple(re.compile(_TABLE["supplemental_oxygen"][key]) for key in ("no", "yes")),
    "consciousness": tuple(re.compile(_TABLE["consciousness"][key]) for key in ("altered", "alert")),
}
_DEEP = re.compile(_TABLE["consciousness"]["deep"])
_NOT_BEFORE, _NOT_AFTER = (re.compile(_TABLE["consciousness"][key]) for key in ("not_before", "not_after"))


def states(prose: Sequence[Fact]) -> Iterator[Value]:
    """Each state that the text gives in one way only; what it gives in both ways is not read."""
    for name, patterns in _PATTERNS.items():
        quantity = Quantity(name, "1", (0.0, 1.0), (0.0, 1.0), {})
        places = [[fact.path for fact in prose if _states(plain(fact.text), pattern)] for pattern in patterns]
        if bool(places[0]) != bool(places[1]):
            yield Value(quantity, float(bool(places[1])), (places[0] + places[1])[0], from_text=True)


def deeply_altered(text: str) -> bool:
    """Whether a text that states altered consciousness states the level P or U of ACVPU, or one of both."""
    text = plain(text)
    return any(_DEEP.search(match.group()) for match in _standing(text, _PATTERNS["consciousness"][0]))


@remembered
def _states(text: str, pattern: re.Pattern[str]) -> bool:
    return any(True for _ in _standing(text, pattern))


def _standing(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    return (match for match in pattern.finditer(text) if _holds(text, match.start(), match.end()))


def _holds(text: str, start: int, end: int) -> bool:
    if _NOT_BEFORE.search(text[max(0, start - _REACH) : end]) or _NOT_AFTER.match(text[end : end + _REACH]):
        return False
    return stands(text, start, end, False) and is_current(text, start, end)
