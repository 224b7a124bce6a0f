"""What a case states as present, now, of this patient: negation, family and the past taken out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from antangel_cli.clinic.checks.text_folding import folded
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.memo import LONGEST, remembered
from antangel_cli.clinic.rules import load_rules

CURRENT = {"complaint", "text", "finding", "note", "imaging"}
BACKGROUND = {"history", "procedure", "medication", "social"}

_PROSE = {name: re.compile(pattern) for name, pattern in load_rules("prose")["statements"].items()}
_DURATION_HISTORY = re.compile(r"(?:hours?|days?|weeks?|months?|minutes?|h|d)(?:'s?)? history of", re.I)
_UNKNOWN = re.compile(r"\(unknown\)|\(未知\)")
_SENTENCE = re.compile(r"[.!;。！;\n]+|\?(?! ?(?:no\b|none\b|无|否))")
_OR = re.compile(r"\b(?:or|nor)\b|或")
_NEXT_OR = re.compile(r",? ?(?:or|nor)\b|或")
_TURN = re.compile(r"\b(?:but|with|has|since|after|today|yesterday)\b|但")
_YEARS_AFTER = re.compile(r"[^,，]{0,20}\b(?:years? ago|in (?:19|20)\d\d)\b|[^,，]{0,8}年前")

_APART = "\n\0\n"
_LOOKS_BEYOND = re.compile(r"\(\?!|(?<!\[)\^|\$|\\[AZ]")

REACH = 300
"""Characters on either side of a match that decide whether it stands: bounded, for sentences without end."""


@dataclass(frozen=True)
class Statement:
    """One sentence of one fact, folded for matching."""

    fact_id: str
    text: str = field(repr=False)
    background: bool


def statements(rows: Sequence[Fact]) -> tuple[Statement, ...]:
    """The sentences of the facts that can state something present; absent and unknown findings are none."""
    return tuple(
        Statement(fact.id, " ".join(sentence.split()), fact.kind in BACKGROUND)
        for fact in rows
        if fact.kind in CURRENT | BACKGROUND and not fact.absent and not _UNKNOWN.search(folded(fact.text))
        for sentence in _SENTENCE.split(folded(fact.text))
        if sentence.strip()
    )


@cache
def _pattern(source: str) -> re.Pattern[str]:
    return re.compile(source)


@cache
def _looks_beyond(source: str) -> bool:
    return bool(_LOOKS_BEYOND.search(source))


class Page:
    """Sentences in one text, kept apart by what no pattern reaches across. What was looked for once is known."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._holds: dict[str, bool] = {}
        self._asserting: dict[tuple[str, bool], tuple[int, ...]] = {}

    def holds(self, pattern: str) -> bool:
        """Whether a pattern matches anywhere."""
        if pattern not in self._holds:
            self._holds[pattern] = _pattern(pattern).search(self._text) is not None
        return self._holds[pattern]

    def asserting(self, pattern: str, past: bool) -> tuple[int, ...]:
        """Which of the sentences state what a pattern describes."""
        if (pattern, past) not in self._asserting:
            sentences = enumerate(self._text.split(_APART))
            self._asserting[pattern, past] = tuple(i for i, text in sentences if _asserts(text, pattern, past))
        return self._asserting[pattern, past]


PAGES = 64
"""How many are kept: as much as a long conversation says, at some 30 KB for each with all that was looked for."""
_page = remembered(Page, PAGES)


def pages(stated: Sequence[Statement]) -> tuple[tuple[Page, tuple[Statement, ...]], ...]:
    """Sentences by the page; more of them at the end leave the pages before as they were."""
    found: list[list[Statement]] = []
    room = 0
    for statement in stated:
        room -= len(statement.text) + len(_APART)
        if room < 0:
            found.append([])
            room = LONGEST - len(statement.text)
        found[-1].append(statement)
    return tuple((_page(_APART.join(each.text for each in page)), tuple(page)) for page in found)


def may_stand_in(page: Page, pattern: str) -> bool:
    """Whether a pattern can match in any of a page's sentences; it is looked for in all of them at once.

    Never a false no: what looks ahead for an absence, or for an end, is left to each sentence.
    """
    return _looks_beyond(pattern) or page.holds(pattern)


def asserted(statement: Statement, pattern: str, past: bool = False) -> bool:
    """Whether a sentence states what `pattern` describes; with `past`, also as history."""
    return _asserts(statement.text, pattern, past)


def _asserts(text: str, pattern: str, past: bool) -> bool:
    return any(stands(text, match.start(), match.end(), past) for match in _pattern(pattern).finditer(text))


def stands(text: str, start: int, end: int, past: bool) -> bool:
    """Whether what a folded sentence says from `start` to `end` is stated: not denied, another's, or a mere if."""
    before, after = text[max(0, start - REACH) : start], text[end : end + REACH]
    if _denied_after(after) or _negated(before, after):
        return False
    if is_family(before) or _PROSE["hypothetical"].search(before):
        return False
    return past or not is_past(before, after)


def _denied_after(after: str) -> bool:
    """Whether a denial follows, at once or after the rest of a list: `A: no`, `A (-)`, `A and B are absent`."""
    rest = _PROSE["rest_of_list"].match(after)
    return any(_PROSE["denied_after"].match(after, start) for start in (0, rest.end() if rest else 0))


def _negated(before: str, after: str) -> bool:
    """Whether a negation in front still reaches: to the end for `denies`, along a list for `no`."""
    masked = _PROSE["not_negation"].sub(lambda m: "~" * len(m.group()), before)
    cues = [*_cues(masked)]
    if not cues:
        return False
    end, whole = cues[-1]
    scope = masked[end:].lstrip()
    # `never had` and `not present with` go on denying; a second verb after a denied thing starts anew.
    if any(match.start() > 0 for match in _PROSE["end_of_negation"].finditer(scope)) or _turns_aside(scope, after):
        return False
    return whole or _reaches(scope, after)


def _cues(text: str) -> Iterator[tuple[int, bool]]:
    listed = [(m.end(), True) for m in _PROSE["list_negation"].finditer(text)]
    plain = [(m.end(), False) for m in _PROSE["negation"].finditer(text)]
    yield from sorted(listed + plain)


def _turns_aside(scope: str, after: str) -> bool:
    """Whether what is denied ended at a `with` or an `after`: `no A with B`, but not C in `no A with B or C`."""
    asides = [match.end() for match in _PROSE["aside"].finditer(scope) if match.start() > 0]
    return bool(asides) and not (_OR.search(scope, asides[-1]) or _NEXT_OR.match(after))


def _reaches(scope: str, after: str) -> bool:
    """A plain `no` ends at a comma, unless its list goes on to an `or`."""
    if "," not in scope and "，" not in scope:
        return True
    return bool(_OR.search(scope.rsplit(",", 1)[-1] + _TURN.split(after)[0]))


def is_family(before: str) -> bool:
    """Whether a relative is what the sentence last spoke of."""
    ends = [match.end() for match in _PROSE["family"].finditer(before)]
    return bool(ends) and not _PROSE["end_of_family"].search(before, ends[-1])


def is_past(before: str, after: str) -> bool:
    """Whether the clause speaks of history."""
    shortened = _DURATION_HISTORY.sub("", before)
    clause = _PROSE["end_of_past"].split(shortened)[-1]
    return bool(_PROSE["past"].search(clause) or _YEARS_AFTER.match(after))
