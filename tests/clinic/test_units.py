"""Units and plausibility: converted by a table, reported when unreadable, set aside when impossible."""

from __future__ import annotations

from typing import Any

import pytest

from antangel_cli.clinic.checks import facts_to_use
from antangel_cli.clinic.checks.text_folding import folded_name, folded_unit
from antangel_cli.clinic.checks.unit_table import conversion
from antangel_cli.clinic.checks.units import measure, quantities, quantity_named
from antangel_cli.clinic.facts import facts
from tests.clinic.cases import adult, checked, codes, make_case, vitals


def lab(name: str, value: Any, unit: str | None) -> list[dict[str, Any]]:
    return [{"name": name, "value": value, "unit": unit}]


@pytest.mark.parametrize(
    ("name", "value", "unit", "quantity", "canonical"),
    [
        ("temperature", 98.6, "°F", "temperature", 37.0),
        ("体温", 38.5, "℃", "temperature", 38.5),
        ("体温", "３８．５", "摄氏度", "temperature", 38.5),
        ("脉搏", 112, "次/分", "pulse", 112),
        ("心率", 112, "次/分钟", "pulse", 112),
        ("呼吸", 28, "次／分", "respiratory_rate", 28),
        ("收缩压", 16, "kPa", "systolic_bp", 120.01),
        ("收缩压", 120, "毫米汞柱", "systolic_bp", 120),
        ("Glucose", 180, "mg/dL", "glucose", 9.99),
        ("血糖", 28.4, "毫摩尔/升", "glucose", 28.4),
        ("creatinine", 1.5, "mg/dl", "creatinine", 132.63),
        ("肌酐", 132, "微摩尔/升", "creatinine", 132),
        ("Hb", 9.8, "g/dL", "hemoglobin", 98),
        ("血红蛋白", 98, "克/升", "hemoglobin", 98),
        ("WBC", 12.1, "x10^9/L", "white_cells", 12.1),
        ("WBC", 12.1, "10*9/L", "white_cells", 12.1),
        ("WBC", 12100, "/µL", "white_cells", 12.1),
        ("white cell count", 12.1, "×10⁹/L", "white_cells", 12.1),
        ("troponin I", 0.85, "ng/mL", "troponin_i", 850),
        ("D-dimer", 4800, "ng/mL FEU", "d_dimer", 4.8),
        ("bilirubin", 2.0, "mg/dL", "bilirubin", 34.2),
        ("lactate", 36, "mg/dL", "lactate", 3.996),
        ("potassium", 5.1, "mEq/L", "potassium", 5.1),
        ("pH", 7.1, None, "blood_ph", 7.1),
    ],
)
def test_conversion(name: str, value: Any, unit: str | None, quantity: str, canonical: float) -> None:
    values = measure(make_case(labs=lab(name, value, unit))).values
    assert [v.quantity.id for v in values] == [quantity]
    assert values[0].value == pytest.approx(canonical, rel=2e-3)


def test_conversions_keep_the_original() -> None:
    checks = checked(make_case(labs=lab("creatinine", 1.5, "mg/dL")))
    (conversion,) = checks.to_json()["unit_conversions"]
    assert conversion == {
        "path": "labs[0]",
        "original": "1.5 mg/dL",
        "converted": "132.6 µmol/L",
        "fact_id": "F2",
    }


def test_same_unit_in_another_spelling_is_no_conversion() -> None:
    assert checked(make_case(labs=lab("creatinine", 90, "μmol/L"))).unit_conversions == ()


@pytest.mark.parametrize(
    ("value", "unit", "code"),
    [
        ("6,8", "mmol/L", "decimal_comma"),
        ("high", "mmol/L", "not_a_number"),
        ("<0.5", "mmol/L", "not_a_number"),
        (6.8, None, "unit_missing"),
        (6.8, "", "unit_missing"),
        (6.8, "stone", "unit_unknown"),
        (6.8, "g/L", "unit_unknown"),
    ],
)
def test_what_cannot_be_read_is_reported_and_unused(value: Any, unit: str | None, code: str) -> None:
    case = make_case(labs=lab("potassium", value, unit))
    checks = checked(case)
    assert codes(checks) == [code]
    assert measure(case).values == ()
    assert not checks.red_flags
    assert any(str(value) in fact.text for fact in facts(case))


def test_pressure_pair() -> None:
    values = {v.quantity.id: v.value for v in measure(make_case(vitals=lab("BP", "92/58", "mmHg"))).values}
    assert values == {"systolic_bp": 92, "diastolic_bp": 58}


def test_pressure_pair_unread() -> None:
    assert codes(checked(make_case(vitals=lab("血压", "偏低", "mmHg")))) == ["pressure_unread"]


def test_names_the_table_does_not_know_are_left_alone() -> None:
    assert codes(checked(make_case(labs=lab("serum porcelain", 3, None)))) == []


def test_extreme_but_survivable_is_a_warning() -> None:
    case = make_case(labs=lab("potassium", 8.5, "mmol/L"), vitals=lab("pulse", 0, "/min"))
    checks = checked(case)
    assert codes(checks) == ["extreme", "extreme"]
    assert not checks.set_aside
    assert not checks.degraded


def test_impossible_is_set_aside_and_not_told_to_the_model() -> None:
    case = adult(vitals=vitals(temperature=370), labs=lab("potassium", 45, "mmol/L"))
    checks = checked(case)
    assert [entry["path"] for entry in checks.set_aside] == ["labs[0]", "vitals[6]"] or [
        entry["path"] for entry in checks.set_aside
    ] == ["vitals[6]", "labs[0]"]
    assert checks.degraded == ("implausible_set_aside",)
    assert checks.news2 is not None
    assert "temperature" in checks.news2.missing
    told = facts_to_use(case)
    assert [fact.id for fact in told] == [f"F{n}" for n in range(1, len(told) + 1)]
    assert not any("370" in fact.text or "45" in fact.text for fact in told)


def test_impossible_can_be_accepted() -> None:
    case = adult(labs=lab("potassium", 45, "mmol/L"))
    checks = checked(case, accept=True)
    assert not checks.degraded
    assert checks.to_json()["set_aside"] == []
    assert [entry["path"] for entry in checks.to_json()["implausible_accepted"]] == ["labs[0]"]
    assert any("45" in fact.text for fact in facts_to_use(case, True))


def test_contradictions() -> None:
    case = make_case(
        patient={"sex_at_birth": "male", "age": {"value": 40}, "pregnancy": {"status": "pregnant"}},
        vitals=[{"name": "BP", "value": "80/120", "unit": "mmHg"}],
    )
    assert codes(checked(case)) == ["pressures_swapped", "pregnant_male"]


def test_impossible_age() -> None:
    checks = checked(make_case(patient={"age": {"value": 400}}, vitals=vitals(pulse=140)))
    assert "age_impossible" in codes(checks)
    assert checks.news2 is None


@pytest.mark.parametrize("time", ["03/04", "yesterday", "2026-01-02"])
def test_unclear_times_are_reported(time: str) -> None:
    row = {"name": "pulse", "value": 80, "unit": "/min", "time": time}
    assert codes(checked(make_case(vitals=[row]))) == ["time_unclear"]


def test_table_is_sound() -> None:
    for quantity in quantities().values():
        low, high = quantity.possible
        assert low <= quantity.unusual[0] < quantity.unusual[1] <= high
        unit = folded_unit(quantity.unit)
        assert quantity.unit == "1" or conversion(unit, unit, quantity.row) == (1.0, 0.0)
        assert quantity_named(quantity.id) is quantity


def test_every_name_means_one_quantity() -> None:
    named = [(folded_name(name), key) for key, known in quantities().items() for name in known.row["names"]]
    meant: dict[str, set[str]] = {}
    for name, key in named:
        meant.setdefault(name, set()).add(key)
    assert {name: keys for name, keys in meant.items() if len(keys) > 1} == {}
    vitals = {"temperature", "pulse", "respiratory_rate", "systolic_bp", "diastolic_bp", "spo2", "gcs"}
    assert len(quantities().keys() - vitals) >= 100


CONVERSIONS = [
    # What 1 mg/dL or another unit is, from molar masses of the periodic table, not from our own.
    ("glucose", "mg/dL", 18.016, 1.0),
    ("calcium", "mg/dL", 4.0078, 1.0),
    ("calcium", "mEq/L", 2.0, 1.0),
    ("magnesium", "mg/dL", 2.4305, 1.0),
    ("creatinine", "mg/dL", 1.1312, 100.0),
    ("urea_nitrogen", "mg/dL", 2.8014, 1.0),
    ("uric_acid", "mg/dL", 16.811, 1000.0),
    ("bilirubin", "mg/dL", 58.466, 1000.0),
    ("lactate", "mg/dL", 9.008, 1.0),
    ("hemoglobin", "g/dL", 14.0, 140.0),
    ("white_cells", "10*3/uL", 7.5, 7.5),
    ("white_cells", "{cells}/uL", 7500.0, 7.5),
    ("paco2", "kPa", 5.332895, 40.0),
    ("paco2", "mm[Hg]", 40.0, 40.0),
    ("temperature", "[degF]", 98.6, 37.0),
    ("temperature", "Cel", 37.0, 37.0),
    ("pulse", "{beats}/min", 72.0, 72.0),
    ("tsh", "u[IU]/mL", 2.5, 2.5),
    ("hba1c", "%", 7.0, 53.01),
    ("sodium", "毫摩尔/升", 140.0, 140.0),
]


@pytest.mark.parametrize(("name", "unit", "value", "expected"), CONVERSIONS)
def test_units_convert_to_what_chemistry_says(name: str, unit: str, value: float, expected: float) -> None:
    found = measure(make_case(labs=[{"name": name, "value": value, "unit": unit}]))
    assert [v.quantity.id for v in found.values] == [name]
    assert found.values[0].value == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "unit", "code"),
    [
        ("d_dimer", "ng/mL", "unit_ambiguous"),
        ("glucose", "mEq/L", "unit_unknown"),
        ("sodium", "mg/dL", "unit_unknown"),
        ("alt", "ng/mL", "unit_unknown"),
        ("paco2", "mmol/L", "unit_unknown"),
        ("hemoglobin", "fl", "unit_unknown"),
        ("glucose", None, "unit_missing"),
    ],
)
def test_a_unit_that_does_not_say_enough_is_reported(name: str, unit: str | None, code: str) -> None:
    found = measure(make_case(labs=[{"name": name, "value": 5, "unit": unit}]))
    assert found.values == ()
    assert [warning["code"] for warning in found.warnings] == [code]


def test_a_share_of_white_cells_is_not_their_count() -> None:
    found = measure(make_case(labs=[{"name": "neutrophils", "value": 60, "unit": "%"}]))
    assert [v.quantity.id for v in found.values] == ["neutrophils_percent"]
