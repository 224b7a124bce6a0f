"""Who a plain text is about: age, sex, weight and pregnancy, where one mention of the patient says it beyond doubt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from antangel_cli.clinic.checks.text_folding import folded
from antangel_cli.clinic.memo import remembered
from antangel_cli.clinic.readers.numerals import in_digits
from antangel_cli.clinic.rules import load_rules

_OLDEST_YEARS = 120
_GROWN_YEARS = 12
"""Below it, whom a parent brings is the patient, and not the parent."""
_REACH = 60
"""Characters on either side of a mention that say whose it is."""

_MONTHS = {"a": 12.0, "mo": 1.0, "wk": 7 / 30.44, "d": 1 / 30.44}


@dataclass(frozen=True)
class Mention:
    """An age somewhere in the text, and the sex beside it; `doubtful` where it may be another person's.

    `own_child`: of the child of the one who writes.
    """

    value: float = field(repr=False)
    unit: str
    sex: str | None
    doubtful: bool
    own_child: bool = False


def demographics(text: str) -> dict[str, Any]:
    """The fields of `patient` that plain text states; empty where two mentions differ or one may be a relative's."""
    parts = _rules()["sentence"].split(folded(text))
    sentences = [in_digits(" ".join(part.split())) for part in parts if part.strip()]
    mentions = [mention for sentence in sentences for mention in _mentions(sentence)]
    if any(mention.own_child for mention in mentions) and any(map(_rules()["first_person"].search, sentences)):
        mentions = []
    who = _one_patient(
        mentions, {_sex(m["person"] or m["chinese"]) for s in sentences for m in _rules()["sex"].finditer(s)}
    )
    if any(_rules()["not_at_birth"].search(sentence) for sentence in sentences):
        who.pop("sex_at_birth", None)
    return who | _weight(sentences) | (_pregnancy(sentences) if _may_carry(who) else {})


@cache
def _notations() -> tuple[tuple[re.Pattern[str], dict[str, Any]], ...]:
    return tuple((re.compile(row["pattern"]), row) for row in load_rules("demographics")["age"])


@cache
def _rules() -> dict[str, re.Pattern[str]]:
    return {name: re.compile(pattern) for name, pattern in load_rules("demographics")["patterns"].items()}


def _one_patient(mentions: list[Mention], fields: set[str | None]) -> dict[str, Any]:
    """Age and sex where every mention says the same; `fields` are the sexes that stand as `sex: male`."""
    if not mentions or any(mention.doubtful for mention in mentions):
        return {}
    ages = {(mention.value, mention.unit) for mention in mentions}
    sexes = {sex for sex in (*(mention.sex for mention in mentions), *fields) if sex}
    if len(ages) > 1 or len(sexes) > 1:
        return {}
    value, unit = ages.pop()
    return {"age": {"value": value, "unit": unit}} | ({"sex_at_birth": sexes.pop()} if sexes else {})


@remembered
def _mentions(sentence: str) -> tuple[Mention, ...]:
    return tuple(_each_mention(sentence))


def _each_mention(sentence: str) -> Iterator[Mention]:
    end = 0
    for match, row in _ages(sentence):
        before = sentence[max(0, match.start("value") - _REACH) : match.start("value")]
        after = sentence[match.end() : match.end() + _REACH]
        if (
            match.start() < end
            or _rules()["another_time"].search(before)
            or _rules()["another_time_after"].match(after)
        ):
            continue
        end = match.end()
        yield _mention(match, row, before, after)


def _ages(sentence: str) -> list[tuple[re.Match[str], dict[str, Any]]]:
    """Every notation of an age, in order; where two overlap the longer first."""
    found = [(match, row) for pattern, row in _notations() for match in pattern.finditer(sentence)]
    return sorted(found, key=lambda pair: (pair[0].start(), -pair[0].end()))


def _mention(match: re.Match[str], row: dict[str, Any], before: str, after: str) -> Mention:
    found = match.groupdict()
    value, unit = float(found["value"]), row["unit"]
    if found.get("months"):
        value, unit = value * 12 + float(found["months"]), "mo"
    months = value * _MONTHS[unit]
    guardian = _rules()["guardian"].search(before) if months < _GROWN_YEARS * 12 else None
    own = bool(guardian and guardian["own"])
    person = found.get("person") or (_own_child(before, after) if own else None) or _person(before, after)
    if person is None and (row.get("alone") or (guardian and _is_subject(after))):
        person = ""
    doubtful = person is None or months > _OLDEST_YEARS * 12 or _is_doubtful(before, after, guardian)
    return Mention(value, unit, _sex(person), doubtful, own)


def _person(before: str, after: str) -> str | None:
    """The word for the person beside an age; empty where only the sentence says that it is one."""
    rules = _rules()
    beside = rules["person_after"].match(after) or rules["person_before"].search(before)
    if beside:
        return beside["person"] or beside["chinese"]
    if not rules["subject_before"].search(before):
        return None
    occupation = rules["occupation"].match(after)
    if occupation:
        return occupation["person"] or occupation["chinese"]
    return "" if rules["subject_after"].match(after) else None


def _is_subject(after: str) -> bool:
    """Whether a sentence goes on about a child whose age it gives after whom it came with."""
    return any(_rules()[name].match(after) for name in ("subject_after", "guardian_after"))


def _own_child(before: str, after: str) -> str | None:
    """`son` of `my 3-year-old son`."""
    beside = _rules()["own_child"].match(after)
    told = _rules()["own_child_before"].search(before)
    return beside["person"] if beside else {"儿子": "son", "女儿": "daughter"}[told["chinese"]] if told else None


def _sex(person: str | None) -> str | None:
    rules = _rules()
    if person and rules["female"].fullmatch(person):
        return "female"
    return "male" if person and rules["male"].fullmatch(person) else None


def _is_doubtful(before: str, after: str, guardian: re.Match[str] | None) -> bool:
    """Whether an age is not one certain number, or is, or may be, a relative's; the `guardian` is none."""
    rules = _rules()
    if rules["not_certain"].search(before) or rules["not_certain_after"].match(after):
        return True
    if not guardian and rules["relative_before"].search(before):
        return True
    own = guardian and guardian["own"] and rules["own_child"].match(after)
    return not own and bool(rules["relative_after"].match(after))


def _weight(sentences: list[str]) -> dict[str, Any]:
    """The weight in kilograms, where one is stated."""
    rules = _rules()
    found = {
        float(match[1])
        for sentence in sentences
        for match in rules["weight"].finditer(sentence)
        if not rules["weight_not_before"].search(sentence[max(0, match.start() - _REACH) : match.start()])
    }
    weight = found.pop() if len(found) == 1 else 0.0
    return {"weight_kg": weight} if 0.3 <= weight <= 400 else {}


def _may_carry(who: dict[str, Any]) -> bool:
    age = who.get("age")
    years = age["value"] * _MONTHS[age["unit"]] / 12 if age else None
    return who.get("sex_at_birth") != "male" and (years is None or 10 <= years <= 60)


def _pregnancy(sentences: list[str]) -> dict[str, Any]:
    """A pregnancy now, with its weeks; not one that ended, nor the gestation a child was born at."""
    rules = _rules()
    weeks = {
        float(next(filter(None, match.groups())))
        for sentence in sentences
        if not rules["pregnancy_over"].search(sentence)
        for match in rules["pregnancy"].finditer(sentence)
        if not rules["relative_before"].search(sentence[max(0, match.start() - _REACH) : match.start()])
    }
    if len(weeks) != 1 or not 3 <= (stated := weeks.pop()) <= 43:
        return {}
    return {"pregnancy": {"status": "pregnant", "weeks": stated}, "sex_at_birth": "female"}
