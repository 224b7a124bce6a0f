"""A table of patients is never read as one patient, and prose is never taken for a table."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from antangel_cli.case_lines import read_line
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.readers import read_case
from antangel_cli.clinic.readers.tables import LEAST_COLUMNS
from antangel_cli.lines import Line
from nano.corpus import ask_example, diagnose_example
from nano.world import load_world
from tests.clinic.cases import EXAMPLES

FIXTURES = Path(__file__).parent
DOCUMENT = FIXTURES.parents[1] / "docs" / "inputs.md"

HEADERS = (
    ["id", "age", "sex", "complaint"],
    ["Patient ID", "Age (years)", "Sex", "Chief complaint"],
    ["No.", "Age", "Gender", "HPI"],
    ["编号", "年龄", "性别", "主诉"],
    ["case_no", "presenting", "background", "plan"],
    ["Fall", "Alter", "Geschlecht", "Beschwerde"],
)
ROWS = (
    ["1", "58", "male", "Crushing chest pain, sweating; BP 90/60"],
    ["2", "31", "female", "Fever, cough\nand a rash"],
    ["3", "4", "male", "Barking cough"],
)


def table(header: list[str], delimiter: str, ends: str = "\n", rows: int = 3) -> str:
    """A table as spreadsheets write it."""
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator=ends).writerows([header, *ROWS[:rows]])
    return written.getvalue()


def is_refused(text: str, name: str | None = None) -> bool:
    """Whether it is refused as a table."""
    error = None
    try:
        read_case(text.encode(), name)
    except InputError as caught:
        error = caught
    told = ("is a table", "antangel batch", "--input-format text")
    assert error is None or all(word in str(error) for word in told)
    return error is not None


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[0])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_table_is_refused(header: list[str], delimiter: str, ends: str) -> None:
    text = table(header, delimiter, ends)
    assert is_refused(text)
    assert is_refused(f"\ufeff\n{text}")
    with pytest.raises(InputError) as caught:
        read_case(text.encode(), None)
    assert "chest" not in str(caught.value)
    assert read_case(text.encode(), None, "text").narrative


@pytest.mark.parametrize("header", HEADERS[:4], ids=lambda header: header[0])
def test_one_row_beneath_known_names_is_a_table(header: list[str]) -> None:
    assert is_refused(table(header, ",", rows=1))


@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_words_between_tabs_or_bars_are_a_table(delimiter: str) -> None:
    rows = (["Wer", "was", "wann"], ["A", "Husten", "gestern"], ["B", "Fieber", "heute"])
    assert is_refused("\n".join(map(delimiter.join, rows)))


def test_commas_outside_of_quotes_do_not_hide_a_table() -> None:
    assert is_refused("id,age,sex,complaint\np1,58,M,chest pain, sweating\np2,31,F,fever, cough, rash\np3,4,M,cough\n")


def test_the_documented_program_makes_lines_of_a_table() -> None:
    program = DOCUMENT.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    text = table(["id", "age", "sex", "complaint"], ",")
    made = subprocess.run([sys.executable, "-c", program], input=text, text=True, capture_output=True, check=True)
    seen: set[str] = set()
    cases = [read_line(Line(i, line.encode()), "auto", seen) for i, line in enumerate(made.stdout.splitlines(), 1)]
    assert [case.id for case in cases] == ["row-1", "row-2", "row-3"]
    assert [case.narrative for case in cases] == [row[3] for row in ROWS]
    assert [case.patient.age and case.patient.age.value for case in cases] == [58, 31, 4]


@pytest.mark.parametrize("name", ["patients.csv", "PATIENTS.TSV", "a.tab"])
def test_a_file_named_as_a_table_is_refused(name: str) -> None:
    assert is_refused("chest pain for two hours", name)
    assert read_case(b"chest pain", name, "text").narrative == "chest pain"


@pytest.mark.parametrize(
    "text",
    [
        "Fever, cough, chills\nHeadache, nausea, vomiting\nPain, rash, itch",
        "Symptoms: fever, cough, chills\nSigns: crackles, tachypnoea, hypoxia\nHistory: asthma, gout, falls",
        "58-year-old man, smoker, diabetic\nPulse 112, BP 90/60, SpO2 91%\nTroponin 80, CK 300, lactate 3",
        "Aspirin 75 mg, metformin, ramipril\nallergies, none, known",
        "age, sex, complaint",
        "Fever, cough, history\nNausea, rash, vomiting\nChills, sweats, thirst",
        "Morning, noon, night\n120, 130, 140",
        "Sugar: morning, noon, night\n120, 130, 140\n110, 150, 160",
        "Male, 58, chest pain\nFemale, 31, fever\n",
        "Sodium\t140\tmmol/L\nPotassium\t5.9\tmmol/L\nCRP\t200\tmg/L",
        "胸痛,出汗,恶心\n无发热,无咳嗽,无腹痛\n既往高血压,糖尿病,吸烟",
        "chest pain",
        'He said "it hurts, here',
        "a,b,c\n" + "x" * 200_000,
    ],
)
def test_prose_and_lists_are_read(text: str) -> None:
    assert not is_refused(text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.glob("*.toml")))
def test_the_texts_of_the_other_tests_are_no_tables(name: str) -> None:
    texts = [*_strings(tomllib.loads((FIXTURES / name).read_text(encoding="utf-8")))]
    assert not any(is_refused(text) for text in [*texts, "\n".join(texts)] if text.lstrip()[:1] not in ("", "{", "["))


def test_the_texts_of_the_demonstration_models_corpus_are_no_tables() -> None:
    world, several = load_world(), 0
    for seed in range(150):
        for zh in (False, True):
            example = diagnose_example(world, seed, zh)
            assert example.case is not None
            stated = [fact.text for fact in facts(example.case)]
            texts = ["\n".join(stated), example.user, example.reply, ask_example(world, seed, zh).reply, *stated]
            several += sum(line.count(",") >= LEAST_COLUMNS - 1 for text in texts for line in text.splitlines())
            assert not any(is_refused(text) for text in texts)
    assert several > 500


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda p: p.stem)
def test_the_examples_as_text_are_no_tables(path: Path) -> None:
    assert not is_refused("\n".join(fact.text for fact in facts(read_case(path.read_bytes(), path.name))))
