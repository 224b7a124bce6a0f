"""Contradictions inside a case: each rule fires, and keeps still on what is nearly one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from antangel_cli.app import app
from antangel_cli.clinic.checks.consistency import contradictions
from antangel_cli.clinic.checks.units import measure
from antangel_cli.clinic.checks.wording import WARNINGS
from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.rules import load_rules
from tests.clinic.cases import checked, make_case

CODES = {
    "range_reversed", "flag_contradicts", "pressures_swapped", "pregnant_male", "pregnancy_age", "pregnancy_told_male",
    "growth_for_age", "time_before_birth", "time_in_future", "consciousness_contradicts", "values_differ",
    "present_and_absent", "negated_twice", "allergies_contradict", "medication_contradicts", "age_differs",
    "sex_differs",
}  # fmt: skip


def found(**about: Any) -> list[dict[str, Any]]:
    """The contradictions that the checks report."""
    return [w for w in checked(make_case(**about)).input_warnings if w["code"] in CODES]


def paths(code: str, **about: Any) -> list[tuple[str, ...]]:
    """The places that a rule reports, nothing else being reported."""
    seen = found(**about)
    assert {w["code"] for w in seen} <= {code}
    return [(w["path"], w["other"]) if "other" in w else (w["path"],) for w in seen]


def lab(**about: Any) -> list[dict[str, Any]]:
    return [{"name": "potassium", "value": 4.0, "unit": "mmol/L", **about}]


@pytest.mark.parametrize(
    ("row", "fires"),
    [
        ({"flag": "H", "ref_low": 3.5, "ref_high": 5.0}, True),
        ({"flag": "↑", "ref_low": 3.5, "ref_high": 5.0}, True),
        ({"flag": "偏高", "ref_high": 5.0}, True),
        ({"flag": "HH", "ref_low": 4.5}, True),
        ({"flag": "L", "ref_low": 3.5}, True),
        ({"flag": "降低", "ref_high": 3.0}, True),
        ({"flag": "N", "ref_low": 4.5, "ref_high": 5.5}, True),
        ({"flag": "正常", "ref_high": 3.5}, True),
        ({"value": "4.0", "flag": "H", "ref_high": 5.0}, True),
        ({"flag": "H", "ref_low": 3.0, "ref_high": 3.8}, False),
        ({"flag": "H", "ref_high": 4.0}, False),
        ({"flag": "H", "ref_low": 3.5}, False),
        ({"flag": "L", "ref_low": 4.2}, False),
        ({"flag": "N", "ref_low": 3.5, "ref_high": 5.0}, False),
        ({"flag": "A", "ref_low": 3.5, "ref_high": 5.0}, False),
        ({"flag": "H"}, False),
        ({"ref_low": 4.5, "ref_high": 5.5}, False),
        ({"value": "<4", "flag": "H", "ref_high": 5.0}, False),
    ],
)
def test_a_flag_against_its_range(row: dict[str, Any], fires: bool) -> None:
    assert paths("flag_contradicts", labs=lab(**row)) == ([("labs[0]",)] if fires else [])


def test_a_range_upside_down() -> None:
    assert paths("range_reversed", labs=lab(ref_low=5.0, ref_high=3.5, flag="H")) == [("labs[0]",)]
    assert paths("range_reversed", vitals=lab(ref_low=5.0, ref_high=5.0)) == []


def pressure(systolic: float, diastolic: float, *times: str | None) -> list[dict[str, Any]]:
    names = zip(("systolic_bp", "diastolic_bp"), (systolic, diastolic), times or (None, None), strict=True)
    return [{"name": name, "value": value, "unit": "mmHg", "time": time} for name, value, time in names]


AT, LATER = "2026-01-02T08:00", "2026-01-02T09:30"


def test_pressures_of_one_reading() -> None:
    assert paths("pressures_swapped", vitals=pressure(80, 120)) == [("vitals[1]", "vitals[0]")]
    assert paths("pressures_swapped", vitals=pressure(90, 90)) == [("vitals[1]", "vitals[0]")]
    assert paths("pressures_swapped", vitals=pressure(91, 90)) == []
    assert paths("pressures_swapped", vitals=pressure(0, 0)) == []
    pair = {"name": "血压", "value": "80/120", "unit": "mmHg"}
    assert paths("pressures_swapped", vitals=[pair, {**pair, "value": "120/80"}]) == [("vitals[0]", "vitals[0]")]


def test_pressures_of_several_readings_are_told_apart() -> None:
    rows = [*pressure(120, 80, AT, AT), *pressure(70, 75, LATER, LATER)]
    assert paths("pressures_swapped", vitals=rows) == [("vitals[3]", "vitals[2]")]
    apart = [*pressure(120, 80, AT, AT), *pressure(140, 125, LATER, LATER)]
    assert paths("pressures_swapped", vitals=apart) == []


def patient(age: float | None = 40, unit: str = "a", **about: Any) -> dict[str, Any]:
    return {**({"age": {"value": age, "unit": unit}} if age is not None else {}), **about}


@pytest.mark.parametrize(
    ("who", "code"),
    [
        (patient(sex_at_birth="male", pregnancy={"status": "pregnant"}), "pregnant_male"),
        (patient(sex_at_birth="male", pregnancy={"status": "postpartum"}), "pregnant_male"),
        (patient(sex_at_birth="male", pregnancy={"status": "not_pregnant"}), None),
        (patient(sex_at_birth="intersex", pregnancy={"status": "pregnant"}), None),
        (patient(7.9, sex_at_birth="female", pregnancy={"status": "pregnant"}), "pregnancy_age"),
        (patient(8, sex_at_birth="female", pregnancy={"status": "pregnant"}), None),
        (patient(60, sex_at_birth="female", pregnancy={"status": "pregnant"}), None),
        (patient(61, sex_at_birth="female", pregnancy={"status": "pregnant"}), "pregnancy_age"),
        (patient(61, sex_at_birth="female", pregnancy={"status": "not_pregnant"}), None),
        (patient(None, sex_at_birth="female", pregnancy={"status": "pregnant"}), None),
    ],
)
def test_who_is_recorded_as_pregnant(who: dict[str, Any], code: str | None) -> None:
    assert [w["code"] for w in found(patient=who)] == ([code] if code else [])


@pytest.mark.parametrize(
    ("text", "fires"),
    [
        ("He is pregnant.", True), ("Pregnancy test positive.", True), ("Positive pregnancy test today.", True),
        ("现怀孕12周。", True), ("尿妊娠试验阳性。", True),
        ("Not pregnant.", False), ("Pregnancy test negative.", False), ("His wife is pregnant.", False),
        ("妻子现怀孕12周。", False), ("妊娠试验阴性。", False), ("Born at 32 weeks gestation.", False),
        ("Beta hCG is raised.", False),
    ],
)  # fmt: skip
def test_a_pregnancy_in_the_text_of_a_male(text: str, fires: bool) -> None:
    reported = paths("pregnancy_told_male", patient=patient(sex_at_birth="male"), narrative=text)
    assert reported == ([("narrative#0",)] if fires else [])
    assert paths("pregnancy_told_male", patient=patient(30, sex_at_birth="female"), narrative=text) == []
    elderly = paths("pregnancy_age", patient=patient(75, sex_at_birth="female"), narrative=text)
    assert elderly == ([("narrative#0",)] if fires else [])


@pytest.mark.parametrize(
    ("name", "value", "fires"),
    [
        ("urine pregnancy test", "positive", True), ("尿妊娠试验", "阳性", True), ("pregnancy test", "+", True),
        ("pregnancy test", "negative", False), ("尿妊娠试验", "阴性", False), ("hepatitis B test", "positive", False),
    ],
)  # fmt: skip
def test_a_positive_test_of_a_male(name: str, value: str, fires: bool) -> None:
    rows = [{"name": name, "value": value}]
    assert paths("pregnancy_told_male", patient=patient(sex_at_birth="male"), labs=rows) == [("labs[0]",)] * fires
    assert paths("pregnancy_told_male", patient=patient(sex_at_birth="female"), labs=rows) == []


@pytest.mark.parametrize(
    ("who", "places"),
    [
        (patient(3, "d", weight_kg=3.4, height_cm=50.0), []),
        (patient(3, "d", weight_kg=34.0), ["patient.weight_kg"]),
        (patient(18, "mo", weight_kg=11.0, height_cm=80.0), []),
        (patient(18, "mo", weight_kg=70.0, height_cm=175.0), ["patient.weight_kg", "patient.height_cm"]),
        (patient(7, weight_kg=11.0), []),
        (patient(7, weight_kg=10.9), ["patient.weight_kg"]),
        (patient(14, weight_kg=50.0, height_cm=160.0), []),
        (patient(40, weight_kg=7.0), ["patient.weight_kg"]),
        (patient(40, weight_kg=170.0, height_cm=65.0), ["patient.height_cm"]),
        (patient(40, height_cm=1.75), ["patient.height_cm"]),
        (patient(40, weight_kg=160.0, height_cm=148.0), []),
        (patient(None, weight_kg=3.0), []),
    ],
)
def test_growth_for_age(who: dict[str, Any], places: list[str]) -> None:
    seen = found(patient=who)
    assert [w["path"] for w in seen] == places
    assert all(w["code"] == "growth_for_age" and w["fact_id"] == "F1" for w in seen)


def test_growth_table_is_sound() -> None:
    table = load_rules("consistency")["growth"]
    assert [row["until"] for row in table] == sorted({row["until"] for row in table})
    for before, after in pairwise(table):
        for name in ("weight_kg", "height_cm"):
            assert before[name][1] <= after[name][1]
            assert after[name][0] < before[name][1]


def timed(*times: str) -> list[dict[str, Any]]:
    return [{"name": "sodium", "value": 140, "unit": "mmol/L", "time": time} for time in times]


@pytest.mark.parametrize(
    ("age", "times", "fires"),
    [
        ((5, "d"), ("2026-01-20T08:00", "2026-01-01T08:00"), True),
        ((5, "d"), ("2026-01-20T08:00", "2026-01-15T08:00"), False),
        ((2, "a"), ("2026-01-20", "2022-12-01"), True),
        ((2, "a"), ("2026-01-20", "2023-03-01"), False),
        ((80, "a"), ("2026-01-20T08:00", "1950-01-01T08:00"), False),
        ((5, "d"), ("2025-01-01T08:00",), False),
        ((50_000, "a"), ("2026-01-20T08:00", "1930-01-01T08:00"), False),
    ],
)
def test_a_time_before_birth(age: tuple[float, str], times: tuple[str, ...], fires: bool) -> None:
    reported = [w["path"] for w in found(patient=patient(*age), labs=timed(*times)) if w["code"] == "time_before_birth"]
    assert reported == ["labs[1]"] * fires


@pytest.mark.parametrize(
    ("ahead", "fires"), [(timedelta(days=2), True), (timedelta(hours=20), False), (timedelta(days=-1), False)]
)
def test_a_time_in_the_future(ahead: timedelta, fires: bool) -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    time = (now + ahead).isoformat()
    report = {"text": "Clear lungs.", "time": time}
    case = make_case(labs=timed(time), imaging=[report], notes=[report])
    seen = [w["path"] for w in contradictions(case, facts(case), measure(case), now) if w["code"] == "time_in_future"]
    assert seen == ["labs[0]", "imaging[0]", "notes[0]"] * fires


def test_the_clock_is_asked_for_the_time() -> None:
    soon = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    assert paths("time_in_future", labs=timed(soon)) == [("labs[0]",)]
    assert paths("time_in_future", labs=timed(datetime.now(UTC).isoformat())) == []


@pytest.mark.parametrize(
    ("level", "score", "fires"),
    [
        ("alert", 8, True), ("A", 9, False), ("清醒", 5, True), ("alert", 15, False), ("confused", 15, True),
        ("confused", 14, False), ("V", 15, True), ("嗜睡", 15, True), ("V", 13, False), ("P", 15, True), ("P", 8, False),
        ("U", 15, True), ("昏迷", 14, True), ("U", 3, False), ("U", 9, True), ("so-so", 3, False),
    ],
)  # fmt: skip
def test_consciousness_against_the_coma_score(level: str, score: int, fires: bool) -> None:
    rows: list[dict[str, Any]] = [{"name": "GCS", "value": score}, {"name": "意识", "value": level}]
    assert paths("consciousness_contradicts", vitals=rows) == [("vitals[1]", "vitals[0]")] * fires
    apart = [{**rows[0], "time": AT}, {**rows[1], "time": LATER}]
    assert paths("consciousness_contradicts", vitals=apart) == []
    together = [{**row, "time": AT} for row in rows]
    assert paths("consciousness_contradicts", vitals=together) == [("vitals[1]", "vitals[0]")] * fires


def test_the_lowest_and_the_highest_coma_score_of_a_time_count() -> None:
    scores = [{"name": "GCS", "value": value, "time": AT} for value in (10, 3, 15, 11)]
    for level, path in (("A", "vitals[1]"), ("V", "vitals[1]"), ("P", "vitals[2]")):
        rows = [*scores, {"name": "consciousness", "value": level, "time": AT}]
        seen = [w["other"] for w in found(vitals=rows) if w["code"] == "consciousness_contradicts"]
        assert seen == [path]


def test_the_coma_table_covers_the_levels() -> None:
    assert set(load_rules("consistency")["gcs"]) == set(load_rules("news2_words")["consciousness"])


@pytest.mark.parametrize(
    ("first", "second", "fires"),
    [
        ((72, "/min", AT), (90, "/min", AT), True),
        ((72, "/min", AT), (90, "/min", LATER), False),
        ((72, "/min", AT), (72, "bpm", AT), False),
        ((72, "/min", None), (90, "/min", None), False),
        ((72, "/min", AT + "Z"), (90, "/min", "2026-01-02T16:00+08:00"), True),
    ],
)
def test_two_values_at_one_time(first: tuple[Any, ...], second: tuple[Any, ...], fires: bool) -> None:
    rows = [
        {"name": name, "value": value, "unit": unit, "time": time}
        for name, (value, unit, time) in (("pulse", first), ("心率", second))
    ]
    assert paths("values_differ", vitals=rows) == [("vitals[1]", "vitals[0]")] * fires


def test_one_temperature_in_two_units_is_one_value() -> None:
    rows = [{"name": "temp", "value": v, "unit": u, "time": AT} for v, u in ((38.0, "°C"), (100.4, "°F"))]
    assert paths("values_differ", vitals=rows) == []


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (("fever", "present"), ("Fever.", "absent"), "present_and_absent"),
        (("fever", "present"), ("发烧", "absent"), "present_and_absent"),
        (("气促", "absent"), ("呼吸困难", "present"), "present_and_absent"),
        (("shortness of breath", "present"), ("no dyspnoea", "present"), "present_and_absent"),
        (("反跳痛", "present"), ("无反跳痛", "present"), "present_and_absent"),
        (("calf swelling", "present"), ("CALF-SWELLING", "absent"), "present_and_absent"),
        (("ｆｅｖｅｒ", "present"), ("fever", "absent"), "present_and_absent"),
        (("fever", "present"), ("fever", "present"), None),
        (("fever", "present"), ("fever", "unknown"), None),
        (("fever", "absent"), ("fever", "unknown"), None),
        (("fever", "absent"), ("no fever", "present"), None),
        (("chest pain", "present"), ("abdominal pain", "absent"), None),
        (("无力", "present"), ("力", "absent"), None),
        (("no cough", "absent"), ("rash", "present"), "negated_twice"),
        (("否认咳嗽", "absent"), ("皮疹", "present"), "negated_twice"),
        (("无痛性血尿", "absent"), ("皮疹", "present"), None),
        (("nodules", "absent"), ("rash", "present"), None),
        (("Absent radius", "absent"), ("rash", "present"), None),
        (("denies fever", "present"), ("febrile", "present"), "present_and_absent"),
    ],
)
@pytest.mark.parametrize("part", ["findings", "history"])
def test_present_and_absent(part: str, first: tuple[str, str], second: tuple[str, str], code: str | None) -> None:
    rows = [{"text": text, "status": status} for text, status in (first, second)]
    seen = found(**{part: rows})
    assert [w["code"] for w in seen] == ([code] if code else [])
    if code == "present_and_absent":
        assert (seen[0]["path"], seen[0]["other"]) == (f"{part}[1]", f"{part}[0]")
        assert seen[0]["fact_id"] != seen[0]["other_fact_id"]


def test_a_past_finding_may_be_gone_and_relatives_differ() -> None:
    both = [{"text": "fever", "status": "present"}, {"text": "fever", "status": "absent"}]
    assert found(findings=both[1:], history=both[:1]) == []
    assert found(family=both) == []


@pytest.mark.parametrize(
    ("about", "reported"),
    [
        ({"allergies": [{"substance": "penicillin"}], "no_known_allergies": True}, [("allergies[0]",)]),
        ({"allergies": [{"substance": "花生"}], "no_known_allergies": True}, [("allergies[0]",)]),
        ({"narrative": "Allergic to penicillin.", "no_known_allergies": True}, [("narrative#0",)]),
        ({"narrative": "对青霉素过敏。", "no_known_allergies": True}, [("narrative#0",)]),
        ({"allergies": [{"substance": "penicillin"}], "narrative": "NKDA."}, [("allergies[0]", "narrative#0")]),
        ({"allergies": [{"substance": "青霉素"}], "narrative": "否认药物过敏史。"}, [("allergies[0]", "narrative#0")]),
        ({"allergies": [{"substance": "peanut"}], "narrative": "NKDA."}, []),
        ({"allergies": [{"substance": "none"}], "no_known_allergies": True}, []),
        ({"allergies": [{"substance": "无"}], "no_known_allergies": True}, []),
        ({"allergies": [{"substance": "penicillin"}], "no_known_allergies": False}, []),
        ({"allergies": [{"substance": "penicillin"}]}, []),
        ({"family": [{"text": "Mother allergic to penicillin"}], "no_known_allergies": True}, []),
        ({"narrative": "No known drug allergies.", "no_known_allergies": True}, []),
    ],
)
def test_allergies_beside_none(about: dict[str, Any], reported: list[tuple[str, ...]]) -> None:
    assert paths("allergies_contradict", **about) == reported


@pytest.mark.parametrize(
    ("active", "stopped", "fires"),
    [
        ({"text": "metformin"}, {"text": "Metformin"}, True),
        ({"text": "metformin 500 mg"}, {"text": "二甲双胍"}, True),
        ({"text": "Glucophage", "dose": "500 mg"}, {"text": "metformin", "dose": "500mg"}, True),
        ({"text": "herbal tea"}, {"text": "Herbal Tea"}, True),
        ({"text": "metformin", "dose": "500 mg"}, {"text": "metformin", "dose": "1000 mg"}, False),
        ({"text": "metformin 500 mg"}, {"text": "metformin 850 mg"}, False),
        ({"text": "hydrocortisone", "route": "topical"}, {"text": "hydrocortisone", "route": "oral"}, False),
        ({"text": "metformin"}, {"text": "gliclazide"}, False),
    ],
)
def test_a_drug_stopped_and_active(active: dict[str, Any], stopped: dict[str, Any], fires: bool) -> None:
    rows = [active, {**stopped, "status": "stopped"}]
    assert paths("medication_contradicts", medications=rows) == [("medications[1]", "medications[0]")] * fires
    assert paths("medication_contradicts", medications=[active, {**stopped, "status": "unknown"}]) == []


@pytest.mark.parametrize(
    ("text", "who", "code"),
    [
        ("A 58-year-old man with chest pain.", patient(40, sex_at_birth="male"), "age_differs"),
        ("58 y/o with chest pain.", patient(40), "age_differs"),
        ("患者，58岁，胸痛。", patient(40), "age_differs"),
        ("8-month-old with cough.", patient(2, "mo"), "age_differs"),
        ("8月龄，咳嗽。", patient(2, "mo"), "age_differs"),
        ("A 58-year-old man with chest pain.", patient(58, sex_at_birth="male"), None),
        ("A 58-year-old man with chest pain.", patient(59.5, sex_at_birth="male"), None),
        ("Her 80-year-old mother brought her in.", patient(40), None),
        ("Cough. A 58-year-old man sits beside her.", patient(40, sex_at_birth="female"), None),
        ("患者20岁时行阑尾切除。", patient(40), None),
        ("8-month-old with cough.", patient(9, "mo"), None),
        ("2 years 3 months old, with cough.", patient(2), None),
        ("2 years 3 months old, with cough.", patient(3, "mo"), "age_differs"),
        ("Woman with a 2-year-old scar.", patient(40), None),
        ("A 40-year-old woman with cough.", patient(40, sex_at_birth="male"), "sex_differs"),
        ("患者男，40岁，咳嗽。", patient(40, sex_at_birth="female"), "sex_differs"),
        ("40岁女性，咳嗽。", patient(40, sex_at_birth="male"), "sex_differs"),
        ("A 40-year-old woman with cough.", patient(40, sex_at_birth="female"), None),
        ("A 40-year-old woman with cough.", patient(40), None),
        ("40岁女性，咳嗽。", patient(40, sex_at_birth="intersex"), None),
        ("A 58-year-old man.", patient(None), None),
    ],
)
@pytest.mark.parametrize("part", ["narrative", "chief_complaint"])
def test_age_and_sex_in_the_text(part: str, text: str, who: dict[str, Any], code: str | None) -> None:
    seen = found(patient=who, **{"chief_complaint": "cough", part: text})
    assert [(w["code"], w["path"]) for w in seen] == ([(code, f"{part}#0")] if code else [])


CONTRADICTORY: dict[str, Any] = {
    "patient": {"age": {"value": 20, "unit": "mo"}, "sex_at_birth": "male", "weight_kg": 70.0},
    "allergies": [{"substance": "青霉素"}],
    "no_known_allergies": True,
    "vitals": [{"name": "BP", "value": "70/95", "unit": "mmHg"}, {"name": "pulse", "value": 110, "unit": "/min"}],
    "labs": [{"name": "sodium", "value": 140, "unit": "mmol/L", "ref_low": 135, "ref_high": 145, "flag": "L"}],
}
TOLD = {
    "en": {"chief_complaint": "secret words", "findings": [{"text": "fever"}, {"text": "no fever"}]},
    "zh": {"chief_complaint": "机密言语", "findings": [{"text": "发热"}, {"text": "无发热"}]},
}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_validate_reports_places_and_never_words(tmp_path: Path, language: str) -> None:
    content = {"schema": "antangel.case/1", "id": "c", "language": language, **CONTRADICTORY, **TOLD[language]}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    result = CliRunner().invoke(app, ["validate", str(path), "--json"])
    assert result.exit_code == 0, result.output
    warned = [w for w in json.loads(result.stdout)["checks"]["input_warnings"] if w["code"] in CODES]
    assert {w["code"]: w["path"] for w in warned} == {
        "pressures_swapped": "vitals[0]",
        "flag_contradicts": "labs[0]",
        "growth_for_age": "patient.weight_kg",
        "present_and_absent": "findings[1]",
        "allergies_contradict": "allergies[0]",
    }
    assert all(w["fact_id"].startswith("F") for w in warned)
    assert all(w["message"].isascii() == (language == "en") for w in warned)
    said = json.dumps(warned, ensure_ascii=False)
    assert not any(word in said for word in ("secret", "fever", "机密", "发热", "青霉素", "140"))


def test_every_code_has_words() -> None:
    assert set(WARNINGS) >= CODES


def test_the_data_is_not_changed() -> None:
    case = make_case(**CONTRADICTORY)
    before = case.model_dump_json()
    checked(case)
    assert case.model_dump_json() == before


def test_the_weeks_of_a_small_child_are_its_own() -> None:
    told: dict[str, Any] = {"narrative": "Ex 30 weeks gestation, now well."}
    assert paths("pregnancy_told_male", patient=patient(2, sex_at_birth="male"), **told) == []
    assert paths("pregnancy_told_male", patient=patient(30, sex_at_birth="male"), **told) == [("narrative#0",)]
