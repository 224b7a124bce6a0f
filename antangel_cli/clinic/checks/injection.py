"""Injection: text in a case that reads like an instruction to the model. Reported, never deleted."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, groupby
from typing import Any

from antangel_cli.clinic.checks.unveiling import readings
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.memo import remembered
from antangel_cli.clinic.rules import load_rules

REACH = 60
"""Characters on either side of a match in which an excuse for it is looked for."""
_APART = "\n\0\n"


@dataclass(frozen=True)
class Pattern:
    """One way of telling a model what to do, over folded text, and what before or after it makes it harmless."""

    id: str
    kind: str
    match: re.Pattern[str]
    unless_before: re.Pattern[str] | None
    unless_after: re.Pattern[str] | None

    def places(self, text: str) -> Iterator[int]:
        """Where in a text it stands and means it."""
        for found in self.match.finditer(text):
            before, after = text[max(0, found.start() - REACH) : found.start()], text[found.end() : found.end() + REACH]
            if self.unless_before and self.unless_before.search(before):
                continue
            if self.unless_after and self.unless_after.match(after):
                continue
            yield found.start()


@dataclass(frozen=True)
class Hit:
    """A pattern at a place of the case; `undone` is what had to be undone to read it, None when nothing."""

    place: str
    pattern: Pattern
    undone: str | None


@dataclass(frozen=True)
class _Passage:
    """Neighbouring sentences as one text, so that a line break hides nothing, and where each begins."""

    places: tuple[str, ...]
    text: str = field(repr=False)
    starts: tuple[int, ...]
    undone: str | None

    def place_at(self, position: int) -> str:
        return self.places[bisect_right(self.starts, position) - 1]


@cache
def patterns() -> tuple[Pattern, ...]:
    """All patterns, in file order."""
    return tuple(map(_pattern, load_rules("injection")["pattern"]))


def _pattern(row: dict[str, Any]) -> Pattern:
    match, before, after = (re.compile(row[key]) if key in row else None for key in _EXPRESSIONS)
    if match is None:
        raise ValueError(f"{row['id']} matches nothing")
    return Pattern(row["id"], row["kind"], match, before, after)


_EXPRESSIONS = ("match", "unless_before", "unless_after")


def injection_suspected(rows: Sequence[Fact], question: str | None) -> tuple[dict[str, Any], ...]:
    """Which facts, or the question, look like instructions, by which pattern, and what hid them."""
    found = [pair for hit in hits(rows, question) for pair in _named(hit)]
    return tuple({"fact_id": place, "pattern": name} for place, name in dict.fromkeys(found))


def _named(hit: Hit) -> Iterator[tuple[str, str]]:
    yield hit.place, hit.pattern.id
    if hit.undone:
        yield hit.place, hit.undone


def hits(rows: Sequence[Fact], question: str | None) -> tuple[Hit, ...]:
    """Every pattern once at every place, in the order of the facts, as it was first read."""
    passages = [*_passages(rows, question)]
    whole = _APART.join(passage.text for passage in passages)
    present = [pattern for pattern in patterns() if pattern.match.search(whole)]
    found: dict[tuple[str, str], Hit] = {}
    for passage in passages if present else ():
        for pattern in present:
            for place in dict.fromkeys(map(passage.place_at, pattern.places(passage.text))):
                found.setdefault((place, pattern.id), Hit(place, pattern, passage.undone))
    order = {place: number for number, place in enumerate([fact.id for fact in rows] + ["question"])}
    return tuple(sorted(found.values(), key=lambda hit: order[hit.place]))


def _passages(rows: Sequence[Fact], question: str | None) -> Iterator[_Passage]:
    for _, part in groupby(rows, key=lambda fact: fact.path.partition("#")[0]):
        texts = {fact.id: fact.text for fact in part}
        yield from _readings(tuple(texts), tuple(texts.values()))
    if question:
        yield from _readings(("question",), (question,))


def _readings(places: tuple[str, ...], texts: tuple[str, ...]) -> Iterator[_Passage]:
    """The passage as it stands, then as every reading of one of its sentences gives it."""
    read = [_read(text) for text in texts]
    names = [None, *dict.fromkeys(name for reading in read for name in reading if name)]
    for name in names:
        pieces = [_up_to(reading, name) for reading in read]
        starts = accumulate((len(piece) + 1 for piece in pieces[:-1]), initial=0)
        yield _Passage(places, " ".join(pieces), tuple(starts), name)


@remembered
def _read(text: str) -> dict[str | None, str]:
    return dict(readings(text))


def _up_to(reading: dict[str | None, str], name: str | None) -> str:
    """A sentence at a step, or at the last before it that changed something."""
    return reading.get(name) or reading[None]
