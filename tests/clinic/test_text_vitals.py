"""Vitals in prose: a strict table of notations, and whose and when they are."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from antangel_cli.clinic.checks import text_context, text_notations, text_states
from antangel_cli.clinic.checks.text_vitals import vitals_in_text
from antangel_cli.clinic.checks.units import measure
from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.rules import load_rules
from tests.clinic.cases import adult, checked, codes, make_case, prose, vitals

CASES = tomllib.loads((Path(__file__).parent / "text_vitals.toml").read_text(encoding="utf-8"))
READ = [pair for language in CASES.values() for pair in language["read"]]
NOTHING = [text for language in CASES.values() for text in language["nothing"]]


def read(text: str) -> dict[str, float]:
    """The quantities and values that a plain text states."""
    case = prose(text)
    values = vitals_in_text(case, facts(case), measure(case)).values
    return {value.quantity.id: round(value.value, 3) for value in values}


@pytest.mark.parametrize(("text", "expected"), READ, ids=[text for text, _ in READ])
def test_notations(text: str, expected: dict[str, float]) -> None:
    assert read(text) == expected


@pytest.mark.parametrize("text", NOTHING)
def test_what_is_no_reading_of_this_patient_now(text: str) -> None:
    assert read(text) == {}


@pytest.mark.parametrize(
    "sentence", ["HR 120", "temp 38.5 °C", "alert and oriented", "on 2 L nasal cannula", "心率120次/分"]
)
def test_one_sentence_does_not_change_the_next(sentence: str) -> None:
    stop = "。" if sentence[0] > "z" else ". "
    assert read(f"Last week he fell{stop}{sentence}") == read(sentence)


def test_what_is_read_is_reported_with_its_fact() -> None:
    checks = checked(prose("Cough. SpO2 91% on RA, alert and oriented, GCS 15."))
    reported = {
        w["quantity"]: (w["value"], w["fact_id"]) for w in checks.input_warnings if w["code"] == "read_from_text"
    }
    assert reported == {
        "spo2": ("91 %", "F2"),
        "gcs": ("15", "F2"),
        "supplemental_oxygen": ("room air", "F2"),
        "consciousness": ("alert", "F2"),
    }


def test_news2_is_scored_from_text_alone() -> None:
    text = "67-year-old man. BP 88/60, HR 124, RR 26, temp 38.9 °C, SpO2 91% on 2 L, drowsy."
    score = checked(prose(text)).news2
    assert score is not None
    assert score.points == {
        "respiratory_rate": 3, "spo2": 3, "supplemental_oxygen": 2, "systolic_bp": 3, "pulse": 2, "consciousness": 3, "temperature": 1,
    }  # fmt: skip
    assert not score.partial


def test_news2_is_scored_from_chinese_text_alone() -> None:
    checks = checked(
        prose("男，67岁。血压88/60mmHg，心率124次/分，呼吸26次/分，体温38.9℃，指脉氧91%，未吸氧，神志清。")
    )
    assert checks.news2 is not None
    assert (checks.news2.score, checks.news2.missing, checks.urgency_floor) == (12, (), "emergency")


def test_a_field_wins_over_text() -> None:
    checks = checked(adult(narrative="HR 150, on 2 L nasal cannula, drowsy.", vitals=vitals()))
    assert codes(checks) == []
    assert checks.news2 is not None
    assert checks.news2.score == 0


@pytest.mark.parametrize(
    "text",
    [
        "SpO2 85% on room air. Now on 2 L nasal cannula",
        "Alert and oriented. AVPU: V",
        "指脉氧85%，未吸氧。现吸氧2L/min",
    ],
)
def test_states_that_contradict_each_other_are_not_read(text: str) -> None:
    assert not read(text).keys() & {"supplemental_oxygen", "consciousness"}


def test_the_vitals_of_a_note_are_of_its_time() -> None:
    notes = [{"text": "HR 140, BP 80/50.", "time": "2026-01-01T08:00"}, {"text": "HR 70.", "time": "2026-01-02T08:00"}]
    score = checked(adult(notes=notes)).news2
    assert score is not None
    assert score.points == {"pulse": 0}


def test_vitals_of_history_and_family_entries_are_not_read() -> None:
    case = make_case(history=[{"text": "HR 140"}], family=[{"text": "BP 200/110"}], social=[{"text": "sats 80%"}])
    assert vitals_in_text(case, facts(case), measure(case)).values == ()


def test_a_red_flag_rule_uses_what_is_read() -> None:
    text = "30-year-old woman. {} Fever and rigors."
    fired = [
        {hit.rule.id for hit in checked(prose(text.format(vital))).red_flags} for vital in ("BP 78/40.", "BP 120/80.")
    ]
    assert fired[0] > fired[1]


@pytest.mark.parametrize(
    "piece",
    [
        "hr 120, ",
        "bp ",
        "e4v5",
        "9",
        "alert, ",
        "(",
        "spo2 (on ",
        "心率",
        "t 38.",
        " ",
        "last week ",
        "mother's ",
        "gcs 1",
        "2 l ",
        "denies ",
    ],
)
def test_time_grows_with_the_text_alone(piece: str) -> None:
    def took(size: int) -> float:
        text = piece * (size // len(piece))
        start = time.process_time()
        for reading in text_notations.readings(text):
            text_context.is_current(text, reading.start, reading.end)
        for patterns in text_states._PATTERNS.values():
            any(text_states._states(text, pattern) for pattern in patterns)
        return time.process_time() - start

    small = min(took(16_000) for _ in range(3))
    assert min(took(160_000) for _ in range(2)) < max(40 * small, 0.5)


def test_the_table_is_sound() -> None:
    rows: list[dict[str, Any]] = load_rules("text_vitals")["notation"]
    assert {row["quantity"] for row in rows} <= measure_names()
    for notation in text_notations.notations():
        low, high = notation.window
        assert notation.quantity.possible[0] <= low < high <= notation.quantity.possible[1]


def measure_names() -> set[str]:
    """The ids of the quantities that rules count in."""
    return set(text_notations.quantities())
