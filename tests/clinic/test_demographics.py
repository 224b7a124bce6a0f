"""Who a plain text is about: one unambiguous mention of the patient, or nothing."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from antangel_cli.clinic.case import Age, Patient, Pregnancy
from antangel_cli.clinic.checks import wording
from antangel_cli.clinic.checks.text_states import STATES
from antangel_cli.clinic.facts import facts, patient_words
from antangel_cli.clinic.readers import read_case
from antangel_cli.clinic.readers.demographics import demographics
from antangel_cli.clinic.rules import load_rules
from tests.cli.test_diagnose import run
from tests.clinic.cases import checked, make_case, prose

CASES = tomllib.loads((Path(__file__).parent / "demographics.toml").read_text(encoding="utf-8"))
READ = [row for language in CASES.values() for row in language["read"]]
NOTHING = [text for language in CASES.values() for text in language["nothing"]]


@pytest.mark.parametrize(("text", "value", "unit", "sex", "weight", "weeks"), READ, ids=[row[0] for row in READ])
def test_one_mention_of_the_patient(text: str, value: float, unit: str, sex: str, weight: float, weeks: float) -> None:
    expected: dict[str, Any] = {"age": {"value": value, "unit": unit}}
    if sex:
        expected["sex_at_birth"] = sex
    if weight:
        expected["weight_kg"] = weight
    if weeks:
        expected["pregnancy"] = {"status": "pregnant", "weeks": weeks}
    assert demographics(text) == expected


@pytest.mark.parametrize("text", NOTHING)
def test_no_mention_or_a_doubtful_one(text: str) -> None:
    assert not demographics(text).keys() & {"age", "sex_at_birth"}


def test_what_is_read_is_a_fact_with_its_source_and_reported() -> None:
    case = prose("67-year-old man with chest pain.")
    fact = facts(case)[0]
    assert (fact.kind, fact.text, fact.source) == ("patient", "67 years, male", "narrative")
    reported = [w["message"] for w in checked(case).input_warnings if w["code"] == "read_from_text"]
    assert reported == ["read from text: age 67 years", "read from text: sex male"]


def test_in_chinese() -> None:
    case = prose("患者，女，28岁，孕32周，头痛。")
    assert facts(case)[0].text == "28岁，女，妊娠 32 周"


def test_what_was_read_is_named_in_the_language_of_the_case() -> None:
    case = prose("患者，女，67岁，孕32周，体温38.5℃，心率120次/分，血压88/60mmHg，未吸氧，神志清楚，GCS 15分。")
    said = {w["quantity"]: w["message"] for w in checked(case).input_warnings if w["code"] == "read_from_text"}
    assert said["age"] == "由文字读取：年龄 67岁"
    assert said["pulse"] == "由文字读取：脉搏 120 /min"
    assert said["supplemental_oxygen"] == "由文字读取：吸氧情况 未吸氧"
    assert said["consciousness"] == "由文字读取：意识 清醒"


def test_all_that_is_read_has_words() -> None:
    notations = {row["quantity"] for row in load_rules("text_vitals")["notation"]}
    read = notations | {*STATES, "gcs", "systolic_bp", "diastolic_bp"}
    shown = {value for values in STATES.values() for value in values}
    told = Patient(
        age=Age(value=30), sex_at_birth="female", pregnancy=Pregnancy(status="pregnant"), weight_kg=60, height_cm=160,
        region="north",
    )  # fmt: skip
    assert {*wording.READ} == read | shown | {name for name, _ in patient_words(told, zh=True)}
    assert all(chinese != english for english, chinese in wording.READ.values())


def test_validate_shows_where_it_was_read(tmp_path: Path) -> None:
    place = tmp_path / "case.txt"
    place.write_text("67-year-old man with fever. BP 88/60, HR 124, SpO2 91% on RA.", encoding="utf-8")
    shown = run("validate", str(place)).stdout
    assert next(line for line in shown.splitlines() if "67 years, male" in line).split()[-1] == "narrative"
    assert "read from text: age 67 years" in shown
    assert "NEWS2 at least 8 (high); not recorded: respiratory rate, consciousness, temperature" in shown


def test_it_outlives_redaction() -> None:
    case = read_case(b"67-year-old man, MRN 12345678, chest pain.", None, "text", redact=True)
    assert case.patient.age is not None
    assert facts(case)[0].source == "narrative"


def test_a_structured_case_is_left_alone() -> None:
    case = make_case(narrative="67-year-old man with chest pain.")
    assert case.patient.age is None
    assert ("news2", "age_unknown") in reasons(case)


VITALS = " HR 150, RR 40, SpO2 91%."


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ("3 yo girl.", "under_16"),
        ("15-year-old boy.", "under_16"),
        ("6个月女婴，发热。", "under_16"),
        ("Ill for 3 days.", "age_unknown"),
        ("A 58-year-old woman, her 3-year-old son is well.", "age_unknown"),
        ("28-year-old woman, 32 weeks pregnant.", "pregnant"),
        ("患者，女，28岁，孕32周。", "pregnant"),
    ],
)
def test_news2_is_not_run(who: str, reason: str) -> None:
    case = prose(who + VITALS)
    assert checked(case).news2 is None
    assert ("news2", reason) in reasons(case)


@pytest.mark.parametrize("who", ["16-year-old boy.", "67M with cough.", "男，56岁。"])
def test_news2_is_run(who: str) -> None:
    assert checked(prose(who + VITALS)).news2 is not None


def reasons(case: Any) -> list[tuple[str, str]]:
    """Each check that was not run, and why."""
    return [(entry["check"], entry["reason"]) for entry in checked(case).not_run]


@pytest.mark.parametrize(
    "piece",
    [
        "67-year-old ",
        "aged ",
        "9",
        "a ",
        "岁",
        "3岁2个月",
        "女,",
        "weight 7",
        "pregnant (at now ",
        "her ",
        "when a b ",
        "mother is a ",
        "seventy-",
        "seventy-five-year-old ",
        "a b 67-year-old ",
        "六十",
        "我家",
        "brought by mother ",
    ],
)
def test_time_grows_with_the_text_alone(piece: str) -> None:
    def took(size: int) -> float:
        text = piece * (size // len(piece))
        start = time.process_time()
        demographics(text)
        return time.process_time() - start

    small = min(took(16_000) for _ in range(3))
    assert min(took(160_000) for _ in range(2)) < max(40 * small, 0.5)
