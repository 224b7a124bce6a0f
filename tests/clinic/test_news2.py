"""NEWS2 against the published chart (Royal College of Physicians, 2017): `news2_vectors.toml` names what was opened."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.clinic.cases import NORMAL, adult, checked, codes, make_case, vitals

VECTORS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "news2_vectors.toml").read_text(encoding="utf-8"))


def points(name: str, value: Any, **others: Any) -> int:
    """The points one changed observation gets."""
    score = checked(adult(vitals=vitals(**{name: value}, **others))).news2
    assert score is not None
    return score.points[name]


def ends(bands: dict[str, list[list[float]]]) -> dict[float, int]:
    """The values at both ends of each band, with their points."""
    return {value: int(given) for given, pairs in bands.items() for pair in pairs for value in pair}


@pytest.mark.parametrize("name", sorted(VECTORS["points"]))
def test_both_sides_of_every_boundary(name: str) -> None:
    chart = ends(VECTORS["points"][name])
    assert {value: points(name, value) for value in chart} == chart


@pytest.mark.parametrize("oxygen", ["yes", "no"])
def test_scale_2(oxygen: str) -> None:
    chart = ends(VECTORS["scale_2"][oxygen])
    assert {v: points("spo2", v, spo2_scale="2", supplemental_oxygen=oxygen) for v in chart} == chart


@pytest.mark.parametrize("name", sorted(VECTORS["words"]))
def test_words(name: str) -> None:
    chart = {word: int(given) for given, words in VECTORS["words"][name].items() for word in words}
    assert {word: points(name, word) for word in chart} == chart


@pytest.mark.parametrize(
    ("table", "step"), [*((rows, 0.1 if name == "temperature" else 1) for name, rows in VECTORS["points"].items()), *((rows, 1) for rows in VECTORS["scale_2"].values())]
)  # fmt: skip
def test_the_vectors_leave_no_gap(table: dict[str, list[list[float]]], step: float) -> None:
    bands = sorted(pair for pairs in table.values() for pair in pairs)
    assert [pytest.approx(low - step) for low, _ in bands[1:]] == [high for _, high in bands[:-1]]


@pytest.mark.parametrize(("value", "expected"), [(91.4, 3), (91.5, 2)])
def test_a_fraction_is_read_as_on_a_chart(value: float, expected: int) -> None:
    assert points("spo2", value) == expected


def test_scale_2_only_when_stated() -> None:
    score = checked(adult(vitals=vitals(spo2=88))).news2
    assert score is not None
    assert (score.scale, score.points["spo2"]) == (1, 3)


@pytest.mark.parametrize("row", VECTORS["total"])
def test_total_band_and_floor(row: dict[str, Any]) -> None:
    score = checked(adult(vitals=vitals(**row["changed"]))).news2
    assert score is not None
    assert (score.score, score.band, score.urgency or "") == (row["score"], row["band"], row["urgency"])
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


@pytest.mark.parametrize("row", VECTORS["partial"])
def test_a_partial_score_is_the_least_it_can_be_and_still_triggers(row: dict[str, Any]) -> None:
    left_out = dict.fromkeys(NORMAL.keys() - row["given"].keys())
    checks = checked(adult(vitals=vitals(**row["given"], **left_out)))
    assert checks.news2 is not None
    assert (checks.news2.score, checks.news2.band or "") == (row["score"], row["band"])
    assert (checks.urgency_floor or "") == row["urgency"]
    assert set(checks.news2.missing) == set(left_out)


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


def test_not_where_the_text_says_that_she_is_pregnant() -> None:
    woman = {"age": {"value": 30}, "sex_at_birth": "female"}
    reasons = [
        checked(make_case(patient=woman, narrative=text, vitals=vitals())).not_run[0]["reason"]
        for text in ("She is pregnant.", "Cough.")
    ]
    assert (reasons[0] == "pregnant", reasons[1] == "pregnant") == (True, False)


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
