"""A child's vital signs against the limits of its age."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from antangel_cli.app import app
from antangel_cli.auditing import fired
from antangel_cli.clinic.case import Age
from antangel_cli.clinic.checks import Checks
from antangel_cli.clinic.checks.news2 import acvpu
from antangel_cli.clinic.checks.paediatric import MEASURED, PARAMETERS, Banded, band_of, bands
from antangel_cli.clinic.diagnose import DiagnoseOptions, diagnose
from antangel_cli.clinic.rules import load_rules
from antangel_cli.clinic.writers import write
from tests.clinic.cases import checked, make_case, prose, vitals
from tests.clinic.scripted import model_saying

INFANT, TODDLER, PUPIL, TEEN = (2, "mo"), (20, "mo"), (7, "a"), (14, "a")

WELL: dict[tuple[int, str], dict[str, Any]] = {
    INFANT: {"respiratory_rate": 40, "systolic_bp": 75, "pulse": 140},
    TODDLER: {"respiratory_rate": 28, "systolic_bp": 95, "pulse": 115},
    PUPIL: {"respiratory_rate": 20, "systolic_bp": 100, "pulse": 90},
    TEEN: {"respiratory_rate": 16, "systolic_bp": 115, "pulse": 75},
}
"""By age (value, unit): what changes a well adult's observations into a well child's."""


def child(age: tuple[int, str], **changed: Any) -> Checks:
    """The checks of a child whose observations are well but for these."""
    rows = vitals(**{**WELL[age], **changed})
    return checked(make_case(patient={"age": {"value": age[0], "unit": age[1]}}, vitals=rows))


def found(checks: Checks) -> Banded:
    assert checks.paediatric is not None
    return checks.paediatric


@pytest.mark.parametrize("age", WELL)
def test_a_well_child_raises_nothing(age: tuple[int, str]) -> None:
    checks = child(age)
    assert found(checks).out_of_range == ()
    assert found(checks).missing == ()
    assert checks.urgency_floor is None


@pytest.mark.parametrize(
    ("age", "name", "chart"),
    [
        (INFANT, "pulse", {80: "emergency", 81: "urgent", 91: None, 159: None, 160: "urgent", 190: "emergency"}),
        (INFANT, "respiratory_rate", {15: "emergency", 19: "urgent", 20: None, 59: None, 60: "urgent", 91: "emergency"}),
        (INFANT, "systolic_bp", {45: "emergency", 50: "urgent", 51: None, 99: None, 100: "urgent", 130: "emergency"}),
        (INFANT, "temperature", {35.9: "emergency", 36.0: None, 37.9: None, 38.0: "emergency"}),
        (TODDLER, "pulse", {60: "emergency", 70: "urgent", 71: None, 149: None, 150: "urgent", 170: "emergency"}),
        (TODDLER, "respiratory_rate", {12: "emergency", 15: "urgent", 49: None, 50: "urgent", 71: "emergency"}),
        (TODDLER, "systolic_bp", {65: "emergency", 75: "urgent", 76: None, 125: "urgent", 160: "emergency"}),
        (TODDLER, "spo2", {89: "emergency", 89.4: "emergency", 89.5: "urgent", 91: "urgent", 92: None, 100: None}),
        (TODDLER, "temperature", {34.9: "emergency", 35.9: "urgent", 38.5: None, 40.0: None, 40.1: "urgent"}),
        (PUPIL, "pulse", {50: "emergency", 60: "urgent", 119: None, 120: "urgent", 151: "emergency"}),
        (PUPIL, "respiratory_rate", {10: "emergency", 14: "urgent", 26: None, 27: "urgent", 51: "emergency"}),
        (TEEN, "pulse", {40: "emergency", 49: "urgent", 50: None, 130: None, 131: "urgent", 140: "emergency"}),
        (TEEN, "respiratory_rate", {9: "emergency", 10: "urgent", 24: None, 25: "urgent", 30: "emergency"}),
        (TEEN, "systolic_bp", {75: "emergency", 90: "urgent", 91: None, 150: "urgent", 190: "emergency"}),
    ],
)  # fmt: skip
def test_limits(age: tuple[int, str], name: str, chart: dict[float, str | None]) -> None:
    seen = {value: found(child(age, **{name: value})) for value in chart}
    assert {value: banded.urgency for value, banded in seen.items()} == chart
    assert all([row.name for row in b.out_of_range] == ([name] if b.urgency else []) for b in seen.values())


@pytest.mark.parametrize(
    ("word", "level", "urgency"),
    [
        ("alert", None, None), ("A", None, None), ("清醒", None, None), ("confused", "C", "urgent"),
        ("嗜睡", "V", "urgent"), ("drowsy", "V", "urgent"), ("昏睡", "P", "emergency"),
        ("responds to pain", "P", "emergency"), ("U", "U", "emergency"), ("昏迷", "U", "emergency"),
    ],
)  # fmt: skip
def test_consciousness(word: str, level: str | None, urgency: str | None) -> None:
    banded = found(child(PUPIL, consciousness=word))
    assert banded.urgency == urgency
    assert [row.value for row in banded.out_of_range] == ([level] if level else [])


@pytest.mark.parametrize(
    ("value", "unit", "band"),
    [
        (0, "d", "0-2mo"), (12, "wk", "0-2mo"), (2.9, "mo", "0-2mo"), (3, "mo", "3-5mo"), (6, "mo", "6-11mo"),
        (11.9, "mo", "6-11mo"), (12, "mo", "1-2y"), (1, "a", "1-2y"), (35, "mo", "1-2y"), (3, "a", "3y"), (4, "a", "4y"),
        (5, "a", "5y"), (6, "a", "6-7y"), (8, "a", "8-11y"), (11.99, "a", "8-11y"), (12, "a", "12-15y"),
        (15.99, "a", "12-15y"), (16, "a", None), (200, "mo", None), (80, "a", None),
    ],
)  # fmt: skip
def test_band_of_an_age(value: float, unit: Any, band: str | None) -> None:
    chosen = band_of(Age(value=float(value), unit=unit))
    assert (chosen.id if chosen else None) == band


def test_the_table_is_sound() -> None:
    assert [band.until for band in bands()] == sorted({band.until for band in bands()})
    assert bands()[-1].until == 16 * 12
    for band in bands():
        for name in MEASURED:
            limits = band.limits[name]
            assert limits.extreme[0] <= limits.range[0] < limits.range[1] <= limits.extreme[1]
    assert set(load_rules("paediatric")["consciousness"]) == {*"CVPU", "PU", "CVPU"}


def test_fever_is_urgent_earlier_in_the_young() -> None:
    floors = [found(child(INFANT, temperature=39.2)).urgency, found(child(TODDLER, temperature=39.2)).urgency]
    assert floors == ["emergency", None]
    rows = vitals(**WELL[INFANT], temperature=39.2)
    half = checked(make_case(patient={"age": {"value": 4, "unit": "mo"}}, vitals=rows))
    assert found(half).urgency == "urgent"


@pytest.mark.parametrize(("age", "fires"), [(INFANT, False), (TODDLER, False), (PUPIL, True), (TEEN, True)])
def test_rules_for_all_ages_take_no_value_that_is_in_range_for_the_age(age: tuple[int, str], fires: bool) -> None:
    checks = child(age, respiratory_rate=38, systolic_bp=85, temperature=38.4)
    ids = {hit.rule.id for hit in checks.red_flags}
    assert ("severe_breathing" in ids) == fires
    assert "severe_breathing" in {hit.rule.id for hit in child(age, respiratory_rate=65).red_flags}


def test_without_an_age_every_value_counts_in_the_rules() -> None:
    rows = [{"name": "respiratory_rate", "value": 38, "unit": "/min"}]
    assert "severe_breathing" in {hit.rule.id for hit in checked(make_case(vitals=rows)).red_flags}
    assert "severe_breathing" in {
        hit.rule.id for hit in checked(make_case(patient={"age": {"value": 30}}, vitals=rows)).red_flags
    }


def test_a_low_saturation_of_a_child_counts_in_the_rules_whatever_the_age_range() -> None:
    assert "severe_breathing" in {hit.rule.id for hit in child(INFANT, spo2=87).red_flags}


def test_the_worst_value_sets_the_floor() -> None:
    checks = child(PUPIL, pulse=125, respiratory_rate=60)
    seen = {row.name: row.urgency for row in found(checks).out_of_range}
    assert seen == {"pulse": "urgent", "respiratory_rate": "emergency"}
    assert checks.urgency_floor == "emergency"


def test_a_value_names_its_fact_and_limits() -> None:
    case = make_case(patient={"age": {"value": 7}}, vitals=[{"name": "脉搏", "value": 128, "unit": "次/分"}])
    entry = checked(case).to_json()["paediatric"]
    assert entry == {
        "band": "6-7y",
        "out_of_range": [
            {"name": "pulse", "value": 128.0, "unit": "/min", "low": 61, "high": 119, "fact_id": "F3", "urgency": "urgent"}
        ],
        "missing": ["respiratory_rate", "spo2", "systolic_bp", "temperature", "consciousness"],
    }  # fmt: skip


def test_values_are_converted_and_read_from_text() -> None:
    fahrenheit = make_case(
        patient={"age": {"value": 6, "unit": "wk"}}, vitals=[{"name": "temp", "value": 101.0, "unit": "°F"}]
    )
    assert found(checked(fahrenheit)).urgency == "emergency"
    text = make_case(patient={"age": {"value": 2}}, narrative="Crying. HR 175 on arrival.")
    assert [(row.name, row.urgency) for row in found(checked(text)).out_of_range] == [("pulse", "emergency")]
    drowsy = make_case(patient={"age": {"value": 2}}, narrative="He is drowsy. HR 110.")
    assert [(row.value, row.urgency) for row in found(checked(drowsy)).out_of_range] == [("CVPU", "urgent")]


@pytest.mark.parametrize(
    ("said", "level", "urgency"),
    [
        ("He is drowsy.", "CVPU", "urgent"), ("Unresponsive, HR 110.", "PU", "emergency"),
        ("She is unconscious.", "PU", "emergency"), ("Floppy and unresponsive.", "PU", "emergency"),
        ("Drowsy, then responds only to pain.", "PU", "emergency"), ("AVPU: P", "PU", "emergency"),
        ("Responds to voice.", "CVPU", "urgent"), ("Drowsy, not unresponsive.", "CVPU", "urgent"),
        ("嗜睡。", "CVPU", "urgent"), ("昏睡。", "PU", "emergency"), ("患儿昏迷。", "PU", "emergency"),
        ("发热，昏迷。", "PU", "emergency"), ("呼之不应。", "PU", "emergency"), ("嗜睡，无昏迷。", "CVPU", "urgent"),
        ("Lethargic.", None, None), ("Found unresponsive, now crying.", None, None), ("Not unresponsive.", None, None),
        ("Unresponsive to paracetamol.", None, None), ("精神萎靡。", None, None), ("否认昏迷。", None, None),
        ("昏迷病史。", None, None), ("Father is unconscious.", None, None),
    ],
)  # fmt: skip
def test_consciousness_in_text(said: str, level: str | None, urgency: str | None) -> None:
    case = make_case(patient={"age": {"value": 7}}, narrative=said, vitals=vitals(**WELL[PUPIL], consciousness=None))
    banded = found(checked(case))
    assert [row.value for row in banded.out_of_range] == ([level] if level else [])
    assert banded.urgency == urgency
    assert banded.missing == (() if level else ("consciousness",))


def test_only_the_newest_values_count() -> None:
    rows = [
        {"name": "pulse", "value": 180, "unit": "/min", "time": "2026-01-01T08:00"},
        {"name": "pulse", "value": 100, "unit": "/min", "time": "2026-01-02T08:00"},
    ]
    assert found(checked(make_case(patient={"age": {"value": 5}}, vitals=rows))).out_of_range == ()


def test_an_impossible_value_is_not_compared() -> None:
    banded = found(child(PUPIL, temperature=370))
    assert banded.out_of_range == ()
    assert banded.missing == ("temperature",)


def why_not(checks: Checks) -> dict[str, str]:
    return {entry["check"]: entry["reason"] for entry in checks.not_run if "paediatric" in entry["check"]}


def test_what_is_not_checked_is_said() -> None:
    assert why_not(child(PUPIL)) == {"paediatric_score": "bands_only"}
    nothing = checked(make_case(patient={"age": {"value": 7}}))
    assert why_not(nothing) == {"paediatric": "no_vitals", "paediatric_score": "not_built"}
    ageless = checked(make_case(vitals=vitals(pulse=180)))
    assert why_not(ageless) == {"paediatric": "age_unknown"}
    assert ageless.paediatric is None
    adult = checked(make_case(patient={"age": {"value": 16}}, vitals=vitals(pulse=180)))
    assert (adult.paediatric, why_not(adult)) == (None, {})


def test_prose_alone_has_no_age() -> None:
    assert why_not(checked(prose("A child with a pulse of 180."))) == {"paediatric": "age_unknown"}


def test_levels_are_read_by_name_and_word() -> None:
    rows = [*vitals(consciousness="V"), {"name": "mood", "value": "v"}]
    case = make_case(vitals=rows)
    assert [acvpu(m) for m in case.vitals].count("V") == 1


CHILD: dict[str, Any] = {
    "patient": {"age": {"value": 20, "unit": "mo"}},
    "vitals": [{"name": "pulse", "value": 175, "unit": "/min"}, {"name": "consciousness", "value": "V"}],
}


@pytest.mark.parametrize("format", ["text", "md", "fhir"])
@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "age band 1 to 2 years: pulse 175 /min (range 71 to 149; EMERGENCY), consciousness V (URGENT)"),
        ("zh", "年龄段：1至2岁）：脉搏 175 /min (范围71至149; 急危)、意识 V (紧急)"),
    ],
)
def test_pages_and_fhir_say_it(format: str, language: str, said: str) -> None:
    case = make_case(language=language, **CHILD)
    page = write(diagnose(case, DiagnoseOptions(), model_saying()), case, format, width=400)
    assert said in page
    missing = {"en": "not recorded: respiratory rate", "zh": "未记录：呼吸频率"}[language]
    assert missing in page


def test_a_page_says_that_nothing_is_out_of_range() -> None:
    case = make_case(patient={"age": {"value": 7}}, vitals=vitals(**WELL[PUPIL]))
    page = write(diagnose(case, DiagnoseOptions(), model_saying()), case, "text", plain=True, width=200)
    assert "age band 6 to 7 years: none that is recorded is out of range" in page
    assert page.isascii()


@pytest.mark.parametrize(
    ("language", "names", "score"),
    [
        ("en", ("heart rate", "GCS"), "a paediatric early warning score such as PEWS"),
        ("zh", ("心率", "格拉斯哥昏迷评分"), "儿童早期预警评分"),
    ],
)
def test_validate_reports_a_child(tmp_path: Path, language: str, names: tuple[str, str], score: str) -> None:
    content = {
        "schema": "antangel.case/1", "id": "c", "language": language,
        "chief_complaint": "发热" if language == "zh" else "fever", **CHILD,
        "vitals": [{"name": names[0], "value": 155, "unit": "/min"}, {"name": names[1], "value": 15}, CHILD["vitals"][1]],
    }  # fmt: skip
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    result = CliRunner().invoke(app, ["validate", str(path), "--json"])
    assert result.exit_code == 0, result.output
    checks = json.loads(result.stdout)["checks"]
    assert checks["paediatric"]["band"] == "1-2y"
    assert [row["urgency"] for row in checks["paediatric"]["out_of_range"]] == ["urgent", "urgent"]
    assert checks["urgency_floor"] == "urgent"
    assert any(entry["message"].startswith(score) for entry in checks["not_run"])
    assert set(checks["paediatric"]["missing"]) < set(PARAMETERS)


def test_validate_says_it_in_words(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    content = {"schema": "antangel.case/1", "id": "c", "chief_complaint": "cough", **CHILD}
    path.write_text(json.dumps(content), encoding="utf-8")
    result = CliRunner().invoke(app, ["validate", str(path)])
    assert "age band 1 to 2 years: pulse 175 /min" in " ".join(result.output.split())


def test_the_audit_names_the_band_and_nothing_else() -> None:
    assert "paediatric:6-7y" in fired(child(PUPIL, pulse=128).to_json())
    assert not any("paediatric" in name for name in fired(child(PUPIL).to_json()))
