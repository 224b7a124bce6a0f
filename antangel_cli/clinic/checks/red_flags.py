"""Red flags: rules from `rules/red_flags/`, and the site's own, run over what a case states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.statements import Page, Statement, may_stand_in, pages, statements
from antangel_cli.clinic.checks.units import Value, quantities
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules, rule_files
from antangel_cli.clinic.rules.site import COMPARISON, site_rules, use_site_rules

Stated = tuple[Page, tuple[Statement, ...]]


@dataclass(frozen=True)
class Condition:
    """One thing a rule needs: words of either language, or a value; `past` lets the history count too."""

    words: tuple[str, ...] = field(repr=False)
    measured: tuple[tuple[str, str, float], ...]
    past: bool


@dataclass(frozen=True)
class Rule:
    """A red flag: when it fires, for whom, how urgent it is, and what must then be on the list."""

    id: str
    family: str
    urgency: str
    concern: dict[str, str]
    cant_miss: str | None
    when: tuple[Condition, ...]
    ages: tuple[float, float]
    sex: str | None
    pregnancy: tuple[str, ...]


@dataclass(frozen=True)
class Fired:
    """A rule that fired, and the facts it rests on."""

    rule: Rule
    fact_ids: tuple[str, ...]

    def to_json(self, chinese: bool) -> dict[str, Any]:
        """As results carry it."""
        return {
            "rule": self.rule.id,
            "family": self.rule.family,
            "urgency": self.rule.urgency,
            "concern": self.rule.concern["zh" if chinese else "en"],
            "fact_ids": list(self.fact_ids),
        }


def rules() -> tuple[Rule, ...]:
    """All red-flag rules, in file order; a site's come last and only add."""
    site = site_rules()
    return own_rules() + (tuple(_rule("site", row) for row in site.rows) if site else ())


@cache
def own_rules() -> tuple[Rule, ...]:
    """The rules of this tool. The family of a rule is the name of its file."""
    return tuple(
        _rule(name.removeprefix("red_flags/"), row)
        for name in rule_files("red_flags")
        for row in load_rules(name)["rule"]
    )


def add_site_rules(path: str | None) -> None:
    """Use a site's rule file with every check from here on; None for none. Raises InputError for a wrong one."""
    use_site_rules(path, frozenset(rule.id for rule in own_rules()), frozenset(quantities()))


def _rule(family: str, row: dict[str, Any]) -> Rule:
    return Rule(
        id=row["id"],
        family=family,
        urgency=row["urgency"],
        concern=row["concern"],
        cant_miss=row.get("cant_miss"),
        when=tuple(_condition(part) for part in row["when"]),
        ages=(row.get("min_age", 0.0), row.get("max_age", 1000.0)),
        sex=row.get("sex"),
        pregnancy=tuple(row.get("pregnancy", ())),
    )


def _condition(part: dict[str, Any]) -> Condition:
    comparisons = tuple(_comparison(text) for text in part.get("measured", ()))
    words = tuple(part[language] for language in ("en", "zh") if language in part)
    return Condition(words, comparisons, part.get("past", False))


def _comparison(text: str) -> tuple[str, str, float]:
    match = COMPARISON.fullmatch(text)
    if match is None:
        raise ValueError(f"no comparison: {text}")
    return match[1], match[2], float(match[3])


def red_flags(case: Case, rows: Sequence[Fact], values: Sequence[Value]) -> tuple[Fired, ...]:
    """The rules that fire for a case, with the facts they rest on."""
    stated = pages(statements(rows))
    ids = {fact.path: fact.id for fact in rows}
    fired = (_fire(rule, stated, values, ids) for rule in rules() if _concerns(rule, case))
    return tuple(hit for hit in fired if hit is not None)


def red_flags_in_text(text: str) -> tuple[Fired, ...]:
    """The rules that fire for free text of which nothing else is known: a question, a chat message."""
    stated = pages(statements((Fact("text", "text", text, "text"),)))
    known = (rule for rule in rules() if rule.sex is None and not rule.pregnancy and rule.ages == (0.0, 1000.0))
    return tuple(hit for hit in (_fire(rule, stated, (), {}) for rule in known) if hit is not None)


def _concerns(rule: Rule, case: Case) -> bool:
    """Whether a rule is about such a patient: an age band and a pregnancy must be known, a sex need not."""
    age, patient = case.patient.age, case.patient
    if rule.ages != (0.0, 1000.0) and (age is None or not rule.ages[0] <= age.years <= rule.ages[1]):
        return False
    if rule.sex and patient.sex_at_birth in ("female", "male") and patient.sex_at_birth != rule.sex:
        return False
    return not rule.pregnancy or bool(patient.pregnancy and patient.pregnancy.status in rule.pregnancy)


def _fire(rule: Rule, stated: Sequence[Stated], values: Sequence[Value], ids: dict[str, str]) -> Fired | None:
    cited: list[str] = []
    for condition in rule.when:
        found = list(_evidence(condition, stated, values, ids))
        if not found:
            return None
        cited += found[:2]
    return Fired(rule, tuple(dict.fromkeys(cited)))


def _evidence(
    condition: Condition, stated: Sequence[Stated], values: Sequence[Value], ids: dict[str, str]
) -> Iterator[str]:
    for page, sentences in stated:
        words = [pattern for pattern in condition.words if may_stand_in(page, pattern)]
        for i in sorted({i for pattern in words for i in page.asserting(pattern, condition.past)}):
            if condition.past or not sentences[i].background:
                yield sentences[i].fact_id
    for value in values:
        if any(_holds(value, *comparison) for comparison in condition.measured):
            yield ids.get(value.path, value.path)


def _holds(value: Value, quantity: str, sign: str, limit: float) -> bool:
    if value.quantity.id != quantity:
        return False
    number = value.value
    return {"<": number < limit, "<=": number <= limit, ">": number > limit, ">=": number >= limit}[sign]
