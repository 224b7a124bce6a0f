"""Identifiers in free text: each pattern finds its own and leaves clinical numbers alone."""

from __future__ import annotations

import json

import pytest

from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.privacy import REMOVED, identifiers_in, without_identifiers, without_words
from antangel_cli.clinic.readers import read_case
from antangel_cli.clinic.rules import load_rules
from tests.clinic.cases import EXAMPLES, checked, prose

FOUND = [
    ("email", "write to a.b+c@example.co.uk today", "a.b+c@example.co.uk"),
    ("chinese_id", "身份证11010519491231002X，", "11010519491231002X"),
    ("chinese_id", "11010519491231002x", "11010519491231002x"),
    ("chinese_id", "110105194912310011", "110105194912310011"),
    ("ssn", "SSN 123-45-6789.", "123-45-6789"),
    ("nhs_number", "NHS 943 476 5919", "943 476 5919"),
    ("nhs_number", "NHS number: 9434765919", "9434765919"),
    ("phone", "电话13812345678", "13812345678"),
    ("phone", "手机１３８１２３４５６７８", "１３８１２３４５６７８"),
    ("phone", "call (617) 555-0123", "(617) 555-0123"),
    ("phone", "call 617-555-0123", "617-555-0123"),
    ("phone", "+44 20 7946 0958", "+44 20 7946 0958"),
    ("phone", "座机 010-62345678", "010-62345678"),
    ("record_number", "MRN: A-1234567, seen", "A-1234567"),
    ("record_number", "Patient ID 004521", "004521"),
    ("record_number", "住院号：00123456", "00123456"),
    ("record_number", "病历号A00123", "A00123"),
    ("birth_date", "DOB 03/04/1961", "03/04/1961"),
    ("birth_date", "born on 4 March 1961", "4 March 1961"),
    ("birth_date", "出生日期：1961年3月4日", "1961年3月4日"),
    ("name", "Name: Jane van Doe", "Jane"),
    ("name", "seen with Mrs. Jane Doe today", "Jane Doe"),
    ("name", "姓名：欧阳小明，男", "欧阳小明"),
    ("address", "Address: 12 High Street, Leeds; lives alone", "12 High Street, Leeds"),
    ("address", "住址：朝阳区某路12号。", "朝阳区某路12号"),
]

CLEAN = [
    "BP 120/80, HR 72, temp 36.8, glucose 110-140 mg/dL",
    "WBC 12.3, platelets 150000, CK 12345678 U/L",
    "on 2026-11-24 at 10:30 potassium was 5.6",
    "11010519491231002 is no card number, nor is 110105194912310021",
    "943 476 5918",
    "born at 39 weeks; date of admission 2026-01-02",
    "no known drug name; medication name unclear",
    "chart review; record shows nothing; patient identifies as well",
    "住院3天，门诊随访2周，病历记录完整",
    "血压120/80，心率72次/分，白细胞12.3×10⁹/L",
    "give 13 units then 15 units; PMID 20375004",
    "miss a dose; Ms is an abbreviation",
]


@pytest.mark.parametrize(("kind", "text", "identifier"), FOUND)
def test_found(kind: str, text: str, identifier: str) -> None:
    assert [(found.kind, text[found.start : found.end]) for found in identifiers_in(text)] == [(kind, identifier)]


def test_every_kind_has_an_example() -> None:
    assert {kind for kind, *_ in FOUND} == {row["kind"] for row in load_rules("privacy")["patterns"]}


@pytest.mark.parametrize("text", CLEAN)
def test_clinical_text_is_left_alone(text: str) -> None:
    assert identifiers_in(text) == ()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda p: p.stem)
def test_the_examples_have_none(path: object) -> None:
    case = read_case(json.dumps(json.loads(path.read_bytes())).encode(), None)  # type: ignore[attr-defined]
    assert not [found for fact in facts(case) for found in identifiers_in(fact.text)]


def test_removed() -> None:
    text, kinds = without_identifiers("MRN: 1234567 and MRN: 7654321, tel: 555 123 4567.")
    assert text == f"MRN: {REMOVED} and MRN: {REMOVED}, tel: {REMOVED}."
    assert kinds == {"record_number": 2, "phone": 1}


def test_overlapping_identifiers_are_removed_once() -> None:
    text, _ = without_identifiers("Address: 12 High Street, call 617-555-0123 now")
    assert text == f"Address: {REMOVED}"


def test_words_of_the_record_are_removed_whole() -> None:
    assert without_words("Ann saw Annabel, ANN", ["Ann"]) == (f"{REMOVED} saw Annabel, ANN", 1)
    assert without_words("王小明发热", ["王小明"]) == (f"{REMOVED}发热", 1)
    assert without_words("a b", ["a"]) == ("a b", 0)


@pytest.mark.parametrize(
    "text", ["1" * 50_000, "a@" * 20_000, "+1 " * 20_000, "Name: " + "A " * 20_000, "Mr " * 20_000]
)
def test_long_text_takes_no_time(text: str) -> None:
    identifiers_in(text)


def test_free_text_that_may_identify_is_said_with_its_place_and_kind() -> None:
    checks = checked(prose("Cough for a week. Call 13812345678 or write to li@example.org."))
    found = [(w["code"], w.get("kind"), w.get("fact_id")) for w in checks.input_warnings]
    assert {kind for code, kind, _ in found if code == "identifier_in_text"} == {"phone", "email"}
    assert all(fact_id == "F2" for _, _, fact_id in found)
    assert "13812345678" not in str(checks.input_warnings)
