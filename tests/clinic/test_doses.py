"""Doses: withheld unless asked for, marked when shown, and never shown for whom they are most dangerous."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from antangel_cli.clinic.dose import WITHHELD, mark_doses, withhold_doses
from antangel_cli.clinic.dose_refusal import dose_refusal
from antangel_cli.clinic.facts import facts
from tests.clinic.cases import make_case

MAN: dict[str, Any] = {"age": {"value": 50}, "sex_at_birth": "male"}
WOMAN: dict[str, Any] = {"age": {"value": 30}, "sex_at_birth": "female"}

CASES = tomllib.loads((Path(__file__).parent / "doses.toml").read_text(encoding="utf-8"))
DOSES = [pair for language in CASES.values() for pair in language["dose"]]
NO_DOSES = [text for language in CASES.values() for text in language["none"]]


@pytest.mark.parametrize(
    ("patient", "labs", "reason"),
    [
        (MAN, [], None),
        ({**MAN, "age": None}, [], "age_unknown"),
        ({**MAN, "age": {"value": 15}}, [], "under_16"),
        ({**MAN, "age": {"value": 16}}, [], None),
        (WOMAN, [], "pregnancy_unknown"),
        ({**WOMAN, "pregnancy": {"status": "pregnant"}}, [], "pregnant"),
        ({**WOMAN, "pregnancy": {"status": "not_pregnant"}}, [], None),
        ({**WOMAN, "age": {"value": 60}}, [], None),
        (MAN, [("creatinine", 2.0, "mg/dL")], "renal"),
        (MAN, [("creatinine", 80, "µmol/L")], None),
        (MAN, [("egfr", 45, "mL/min/1.73m²")], "renal"),
        (MAN, [("egfr", 90, "mL/min/1.73m²")], None),
    ],
)
def test_whom_doses_are_never_shown_for(
    patient: dict[str, Any], labs: list[tuple[str, float, str]], reason: str | None
) -> None:
    rows = [{"name": name, "value": value, "unit": unit} for name, value, unit in labs]
    case = make_case(patient={k: v for k, v in patient.items() if v is not None}, labs=rows)
    assert dose_refusal(case, facts(case)) == reason


@pytest.mark.parametrize(
    ("text", "chinese", "marked"),
    [
        ("Aspirin 300 mg now.", False, "Aspirin 300 mg [unchecked dose] now."),
        ("阿司匹林300毫克。", True, "阿司匹林300毫克 [剂量未核对]。"),
        ("Glucose 11 mmol/L.", False, "Glucose 11 mmol/L."),
    ],
)
def test_a_shown_dose_is_marked(text: str, chinese: bool, marked: str) -> None:
    assert mark_doses(text, chinese) == marked


@pytest.mark.parametrize(("text", "rest"), DOSES, ids=[text for text, _ in DOSES])
def test_the_whole_dose_is_withheld(text: str, rest: str) -> None:
    assert withhold_doses(text, False).replace(WITHHELD["en"], "[]") == rest
    assert withhold_doses(text, True).replace(WITHHELD["zh"], "[]") == rest


@pytest.mark.parametrize("text", NO_DOSES)
def test_what_is_no_dose_stays(text: str) -> None:
    assert withhold_doses(text, False) == text


@pytest.mark.parametrize("text", [text for text, _ in DOSES])
def test_a_dose_stays_one_in_a_sentence(text: str) -> None:
    for around in ("Give {}.", "({})", "{}, then review", "给予{}。"):
        assert WITHHELD["en"] in withhold_doses(around.format(text), False)


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1,",
        "1 x ",
        "one ",
        "half a ",
        "一",
        "1/",
        "5 mg ",
        "5 mg/",
        "500 ",
        "1-",
        "半片,每日",
        "q8h",
        "urine output ",
        "million ",
    ],
)
def test_time_grows_with_the_text_alone(piece: str) -> None:
    def took(size: int) -> float:
        text = piece * (size // len(piece))
        start = time.process_time()
        withhold_doses(text, False)
        return time.process_time() - start

    small = min(took(16_000) for _ in range(3))
    assert min(took(160_000) for _ in range(2)) < max(40 * small, 0.5)
