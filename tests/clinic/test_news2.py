"""NEWS2 against the published chart (Royal College of Physicians, 2017)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clinic.cases import NORMAL, adult, checked, codes, make_case, vitals


def points(name: str, value: Any, **others: Any) -> int:
    """The points one changed observation gets."""
    score = checked(adult(vitals=vitals(**{name: value}, **others))).news2
    assert score is not None
    return score.points[name]


@pytest.mark.parametrize(
    ("name", "chart"),
    [
        ("respiratory_rate", {4: 3, 8: 3, 9: 1, 11: 1, 12: 0, 20: 0, 21: 2, 24: 2, 25: 3, 40: 3}),
        ("spo2", {70: 3, 91: 3, 92: 2, 93: 2, 94: 1, 95: 1, 96: 0, 100: 0, 91.4: 3, 91.5: 2}),
        ("systolic_bp", {60: 3, 90: 3, 91: 2, 100: 2, 101: 1, 110: 1, 111: 0, 219: 0, 220: 3, 250: 3}),
        ("pulse", {30: 3, 40: 3, 41: 1, 50: 1, 51: 0, 90: 0, 91: 1, 110: 1, 111: 2, 130: 2, 131: 3, 180: 3}),
        (
            "temperature",
            {33: 3, 35.0: 3, 35.1: 1, 36.0: 1, 36.1: 0, 38.0: 0, 38.1: 1, 39.0: 1, 39.1: 2, 41: 2},
        ),
        (
            "consciousness",
            {"alert": 0, "A": 0, "C": 3, "V": 3, "P": 3, "U": 3, "confused": 3, "清醒": 0, "嗜睡": 3},
        ),
        (
            "supplemental_oxygen",
            {"no": 0, "room air": 0, "yes": 2, "2 L/min": 2, "是": 2, "否": 0, "0 L/min": 0},
        ),
    ],
)
def test_chart(name: str, chart: dict[Any, int]) -> None:
    assert {value: points(name, value) for value in chart} == chart


@pytest.mark.parametrize(
    ("oxygen", "chart"),
    [
        ("no", {80: 3, 83: 3, 84: 2, 85: 2, 86: 1, 87: 1, 88: 0, 92: 0, 93: 0, 97: 0, 100: 0}),
        (
            "yes",
            {
                80: 3,
                83: 3,
                84: 2,
                85: 2,
                86: 1,
                87: 1,
                88: 0,
                92: 0,
                93: 1,
                94: 1,
                95: 2,
                96: 2,
                97: 3,
                100: 3,
            },
        ),
    ],
)
def test_scale_2(oxygen: str, chart: dict[int, int]) -> None:
    found = {value: points("spo2", value, spo2_scale="2", supplemental_oxygen=oxygen) for value in chart}
    assert found == chart


def test_scale_2_only_when_stated() -> None:
    score = checked(adult(vitals=vitals(spo2=88))).news2
    assert score is not None
    assert (score.scale, score.points["spo2"]) == (1, 3)


@pytest.mark.parametrize(
    ("changed", "total", "band", "floor"),
    [
        ({}, 0, "low", None),
        ({"pulse": 95, "respiratory_rate": 22}, 3, "low", None),
        ({"pulse": 115, "temperature": 39.2}, 4, "low", None),
        ({"respiratory_rate": 25}, 3, "low_medium", "urgent"),
        ({"consciousness": "C"}, 3, "low_medium", "urgent"),
        ({"pulse": 115, "temperature": 39.2, "spo2": 95}, 5, "medium", "urgent"),
        ({"pulse": 115, "temperature": 39.2, "spo2": 93}, 6, "medium", "urgent"),
        ({"pulse": 115, "temperature": 39.2, "spo2": 91}, 7, "high", "emergency"),
        ({"respiratory_rate": 30, "spo2": 85, "supplemental_oxygen": "yes", "systolic_bp": 80, "pulse": 140, "consciousness": "U", "temperature": 34}, 20, "high", "emergency"),
    ],
)  # fmt: skip
def test_total_band_and_floor(changed: dict[str, Any], total: int, band: str, floor: str | None) -> None:
    score = checked(adult(vitals=vitals(**changed))).news2
    assert score is not None
    assert (score.score, score.band, score.urgency) == (total, band, floor)
    assert not score.partial


def test_the_floor_reaches_the_checks() -> None:
    assert checked(adult(vitals=vitals(pulse=115, temperature=39.2, spo2=93))).urgency_floor == "urgent"


@pytest.mark.parametrize("left_out", sorted(NORMAL))
def test_missing_components_are_listed(left_out: str) -> None:
    score = checked(adult(vitals=vitals(**{left_out: None}))).news2
    assert score is not None
    assert score.missing == (left_out,)
    assert score.partial
    assert score.band is None


def test_a_partial_score_still_triggers() -> None:
    case = adult(vitals=[{"name": "respiratory_rate", "value": 30, "unit": "/min"}])
    checks = checked(case)
    assert checks.news2 is not None
    assert (checks.news2.score, checks.news2.band, checks.urgency_floor) == (3, "low_medium", "urgent")


@pytest.mark.parametrize(
    ("patient", "reason"),
    [
        ({}, "age_unknown"),
        ({"age": {"value": 15}}, "under_16"),
        ({"age": {"value": 8, "unit": "mo"}}, "under_16"),
        ({"age": {"value": 30}, "sex_at_birth": "female", "pregnancy": {"status": "pregnant"}}, "pregnant"),
    ],
)
def test_not_for_everyone(patient: dict[str, Any], reason: str) -> None:
    checks = checked(make_case(patient=patient, vitals=vitals(respiratory_rate=30)))
    assert checks.news2 is None
    assert ("news2", reason) in [(e["check"], e["reason"]) for e in checks.not_run]


def test_sixteen_is_adult() -> None:
    assert checked(make_case(patient={"age": {"value": 16}}, vitals=vitals())).news2 is not None


@pytest.mark.parametrize(
    "rows",
    [[], [{"name": "supplemental_oxygen", "value": "no"}], [{"name": "weight", "value": 70, "unit": "kg"}]],
)
def test_no_vitals(rows: list[dict[str, Any]]) -> None:
    checks = checked(adult(vitals=rows))
    assert checks.news2 is None
    assert checks.not_run[0]["message"] == "NEWS2: no vitals"


@pytest.mark.parametrize(
    ("name", "value"),
    [("consciousness", "so-so"), ("supplemental_oxygen", "maybe"), ("supplemental_oxygen", 2.0)],
)
def test_words_that_are_not_known_count_as_missing(name: str, value: Any) -> None:
    checks = checked(adult(vitals=vitals(**{name: value})))
    assert checks.news2 is not None
    assert name in checks.news2.missing
    assert codes(checks) == ["word_unread"]


def at(hour: str, **changed: Any) -> list[dict[str, Any]]:
    return [{**row, "time": f"2026-01-02T{hour}"} for row in vitals(**changed)]


def test_only_one_hour_is_combined() -> None:
    rows = at("08:00", pulse=140, temperature=40) + at("10:00")
    score = checked(adult(vitals=rows)).news2
    assert score is not None
    assert score.score == 0


def test_values_within_an_hour_are_combined() -> None:
    newest = [row for row in at("10:00") if row["name"] != "pulse"]
    rows = [row for row in at("09:00", pulse=140) if row["name"] == "pulse"] + newest
    score = checked(adult(vitals=rows)).news2
    assert score is not None
    assert (score.score, score.missing) == (3, ())


def test_an_older_value_is_missing_from_the_newest_set() -> None:
    newest = [row for row in at("10:00") if row["name"] != "pulse"]
    rows = [row for row in at("08:59", pulse=140) if row["name"] == "pulse"] + newest
    score = checked(adult(vitals=rows)).news2
    assert score is not None
    assert score.missing == ("pulse",)


def test_offsets_are_understood() -> None:
    rows = [{**row, "time": "2026-01-02T10:00+08:00"} for row in vitals(pulse=140)] + at("03:00")
    score = checked(adult(vitals=rows)).news2
    assert score is not None
    assert score.points["pulse"] == 0


def test_values_without_a_time_are_never_mixed_with_timed_ones() -> None:
    rows = [*at("10:00", pulse=None), {"name": "pulse", "value": 140, "unit": "/min"}]
    score = checked(adult(vitals=rows)).news2
    assert score is not None
    assert (score.score, score.points) == (3, {"pulse": 3})


def test_a_value_without_a_unit_is_used_by_no_rule() -> None:
    score = checked(adult(vitals=vitals(pulse=(140, None)))).news2
    assert score is not None
    assert score.missing == ("pulse",)
