"""validate: each fact with its place and conversion, several files, and the lines of a batch in other formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from antangel_cli.case_lines import BadLineError, read_line
from antangel_cli.lines import Line
from tests.cli.test_diagnose import run
from tests.clinic.fhir_examples.resources import NAME, bundle, encounter, observation, patient, quantity
from tests.clinic.test_phenopacket import packet


def _line(document: object, number: int = 3) -> Line:
    return Line(number, json.dumps(document).encode())


@pytest.fixture
def export(tmp_path: Path) -> str:
    """A FHIR Bundle with a temperature in Fahrenheit."""
    place = tmp_path / "export.json"
    hot = observation("8310-5", "Body temperature", quantity(102.2, "degF", "[degF]"), "vital-signs")
    place.write_text(json.dumps(bundle(patient(), encounter(), hot)), encoding="utf-8")
    return str(place)


def test_a_table_of_facts_with_place_and_conversion(export: str) -> None:
    result = run("validate", export)
    row = next(line for line in result.stdout.splitlines() if "temperature" in line)
    assert row.split("  ")[-1].strip() == "Bundle.entry[2].resource"
    assert "= 39 °C" in row
    assert "identifying fields were dropped: " in result.stdout
    assert NAME not in result.stdout + result.stderr


def test_json_carries_the_source(export: str) -> None:
    record = json.loads(run("validate", export, "--json").stdout)
    assert {fact["source"] for fact in record["facts"]} == {f"Bundle.entry[{i}].resource" for i in range(3)}


def test_redact_takes_what_is_refused_without(tmp_path: Path) -> None:
    place = tmp_path / "case.json"
    place.write_text(
        json.dumps({"schema": "antangel.case/1", "id": "a", "patient": {"mrn": NAME}, "narrative": "cough"})
    )
    assert run("validate", str(place)).exit_code == 3
    result = run("validate", str(place), "--redact")
    assert result.exit_code == 0
    assert "mrn 1" in result.stdout
    assert NAME not in result.stdout + result.stderr


def test_lines_may_be_of_other_formats() -> None:
    seen: set[str] = set()
    assert read_line(_line(bundle(patient(), encounter(), id="MRN7"), 3), "auto", seen).id == "line-3"
    assert read_line(_line(packet(id="MRN7"), 4), "auto", seen).id == "line-4"
    wrapped = read_line(_line({"id": "mine", "case": bundle(patient(), encounter())}, 5), "auto", seen)
    assert (wrapped.id, wrapped.setting) == ("mine", "ed")


def test_lines_can_be_redacted() -> None:
    line = _line({"schema": "antangel.case/1", "id": "a", "mrn": NAME, "narrative": "MRN: 1234567"})
    with pytest.raises(BadLineError):
        read_line(line, "auto", set())
    assert read_line(line, "auto", set(), redact=True).narrative == "MRN: [removed]"
