"""Every red-flag rule on sentences of its own: it fires, and stays silent on near misses and on what is denied,
past or a relative's. The sentences are data, `red_flag_cases.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.red_flags import Rule, red_flags, rules
from antangel_cli.clinic.checks.units import measure
from antangel_cli.clinic.facts import facts
from tests.clinic.cases import make_case

ROWS: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).parent / "red_flag_cases.toml").read_text(encoding="utf-8")
)
PATIENTS: dict[str, dict[str, Any]] = {
    "man": {"age": {"value": 70}, "sex_at_birth": "male"},
    "woman": {"age": {"value": 28}, "sex_at_birth": "female"},
    "pregnant": {"age": {"value": 28}, "sex_at_birth": "female", "pregnancy": {"status": "pregnant", "weeks": 34}},
    "postpartum": {"age": {"value": 28}, "sex_at_birth": "female", "pregnancy": {"status": "postpartum"}},
    "newborn": {"age": {"value": 5, "unit": "d"}},
    "infant": {"age": {"value": 6, "unit": "wk"}},
    "toddler": {"age": {"value": 2}},
}
DENIED = {True: ("Denies {}.", "No {}."), False: ("否认{}。", "无{}。")}
PAST = {True: "History of {}, 12 years ago.", False: "既往{}。"}
RELATIVE = {True: "His father had {}.", False: "父亲曾有{}。"}


@cache
def fired(who: str, text: str, measured: str = "") -> frozenset[str]:
    """The rules that fire for a patient of whom only this is known."""
    return frozenset(hit.rule.id for hit in _hits(_case(who, text, measured)))


def _hits(case: Case) -> Iterator[Any]:
    yield from red_flags(case, facts(case), measure(case).values)


def _case(who: str, text: str, measured: str) -> Case:
    name, value, unit = measured.split() if measured else ("", "", "")
    labs = [{"name": name, "value": float(value), "unit": unit}] if measured else []
    language = "en" if text.isascii() else "zh"
    return make_case(language=language, patient=PATIENTS[who], chief_complaint=None, narrative=text, labs=labs)


def _phrases(text: str) -> list[str]:
    """The parts of a sentence, so that each can be denied by itself."""
    joined = text.strip(" .。").replace("。", "，").replace(". ", ", ").replace("、", "，")
    return [part.strip() for part in joined.replace("，", ",").split(",") if part.strip()]


def _by_itself(rule: Rule, who: str, text: str) -> str | None:
    """The part on which a rule with one condition fires; None for a rule that needs several sentences."""
    return next((part for part in _phrases(text) if rule.id in fired(who, part)), None)


def test_every_rule_has_its_sentences() -> None:
    assert {rule.id for rule in rules()} == set(ROWS)
    assert len(rules()) >= 80
    for rule in rules():
        row = ROWS[rule.id]
        kinds = ("fires", "silent") if any(condition.words for condition in rule.when) else ("silent",)
        assert all({text.isascii() for text in row[kind]} == {True, False} for kind in kinds), rule.id
        assert "fires" in row or "measured" in row, rule.id


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_fires(rule: Rule) -> None:
    row = ROWS[rule.id]
    assert all(rule.id in fired(row["who"], text) for text in row.get("fires", ()))
    assert all(rule.id in fired(row["who"], "Tired.", value) for value in row.get("measured", ()))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_no_emergency_fires_on_near_misses(rule: Rule) -> None:
    row = ROWS[rule.id]
    graver = {other.id for other in rules() if other.urgency == "emergency"} | {rule.id}
    for text in row["silent"]:
        assert not fired(row["who"], text) & graver, text
    assert not any(fired(row["who"], "Tired.", value) & graver for value in row.get("within", ()))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_silent_when_each_part_is_denied(rule: Rule) -> None:
    row = ROWS[rule.id]
    for text in row.get("fires", ()):
        for form in DENIED[text.isascii()]:
            denied = " ".join(form.format(_lower(part)) for part in _phrases(text))
            assert rule.id not in fired(row["who"], denied), denied


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
@pytest.mark.parametrize("forms", [PAST, RELATIVE], ids=["past", "relative"])
def test_silent_for_the_past_and_for_relatives(rule: Rule, forms: dict[bool, str]) -> None:
    row = ROWS[rule.id]
    for text in row.get("fires", ()):
        part = _by_itself(rule, row["who"], text)
        if part is not None and not (forms is PAST and any(condition.past for condition in rule.when)):
            said = forms[text.isascii()].format(_lower(part))
            assert rule.id not in fired(row["who"], said), said


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_silent_in_family_history_and_in_absent_findings(rule: Rule) -> None:
    row = ROWS[rule.id]
    texts = [{"text": text} for text in row.get("fires", ())]
    case = make_case(
        patient=PATIENTS[row["who"]], family=texts, findings=[{**text, "status": "absent"} for text in texts]
    )
    assert rule.id not in {hit.rule.id for hit in _hits(case)}


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
