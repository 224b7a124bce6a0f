"""`antangel eval`: cases with gold in, figures out; what the model is told, exit codes, and comparing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from antangel_cli import load
from antangel_cli.app import app
from antangel_cli.clinic.evaluation.importers import IMPORTERS
from tests.cli.cases import CHEST_PAIN, case_line
from tests.cli.scripted import Scripted
from tests.clinic.evaluation.test_importers import SAMPLES, beside

RUN = CliRunner()
GOLD = {"diagnosis": "Acute coronary syndrome", "cant_miss": ["Pulmonary embolism", "Sepsis"], "urgency": "emergency"}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted()
    monkeypatch.setattr(load, "open_model", lambda *_: scripted)
    return scripted


def run(*arguments: str) -> Result:
    return RUN.invoke(app, ["eval", *arguments])


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    path = tmp_path / "cases.jsonl"
    lines = [case_line("a", gold=GOLD), case_line("b", gold={"diagnosis": "Gout"}), case_line("c")]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def report(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_figures_are_given_over_the_cases_that_have_them(model: Scripted, cases: Path) -> None:
    found = report(run(str(cases), "--json"))
    assert (found["cases_scored"], found["without_gold"]) == (3, 1)
    assert found["measures"]["top1"] == {"value": 0.5, "low": 0.0, "high": 1.0, "cases": 2}
    assert found["measures"]["cant_miss_recall"]["value"] == 0.5
    assert found["measures"]["whole_answers"] == {"value": 1.0, "low": 1.0, "high": 1.0, "cases": 3}
    assert found["groups"]["sex"]["male"]["n"] == 3


def test_gold_is_told_to_no_model(model: Scripted, cases: Path) -> None:
    marked = {"diagnosis": "Zebrosis", "cant_miss": ["Zebritis"], "rubrics": ["Zebra"], "urgency": "emergency"}
    cases.write_text(case_line("a", gold=marked), encoding="utf-8")
    report(run(str(cases), "--json", "--stability"))
    assert len(model.tasks) == 4
    for task in model.tasks:
        assert "zebr" not in "".join(turn.content for turn in task.turns).lower()
        assert "zebr" not in json.dumps(task.schema).lower()


def test_twins_are_answered_and_not_scored(model: Scripted, cases: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    found = report(run(str(cases), "--json", "--stability", "--results", str(results)))
    assert found["cases_scored"] == 3
    assert {found["measures"][f"{kind}_stability"]["value"] for kind in ("injection", "sex", "age")} == {1.0}
    assert [json.loads(line)["id"] for line in results.read_text(encoding="utf-8").splitlines()] == ["a", "b", "c"]


def test_what_changed_is_listed_and_exits_6(model: Scripted, cases: Path, tmp_path: Path) -> None:
    results, same = tmp_path / "results.jsonl", tmp_path / "report.json"
    run(str(cases), "--results", str(results), "--json", "-o", str(same))
    for old in (results, same):
        assert report(run(str(cases), "--json", "--against", str(old)))["changed"] == []
    old_lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    old_lines[1]["urgency_final"] = "routine"
    results.write_text("\n".join(map(json.dumps, old_lines)), encoding="utf-8")
    result = run(str(cases), "--against", str(results))
    assert result.exit_code == 6
    assert "Changed against the earlier run: 1 cases\n  b  urgency_final" in result.stdout


def test_a_folder_of_cases_is_read_by_name(model: Scripted, tmp_path: Path) -> None:
    for name in ("y", "x"):
        text = json.dumps({**CHEST_PAIN, "id": name, "gold": GOLD}, indent=1)
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    assert [case["id"] for case in report(run(str(tmp_path), "--json"))["cases"]] == ["x", "y"]
    assert len(report(run(str(tmp_path), "--json", "--limit", "1"))["cases"]) == 1


def test_lines_that_are_no_case_are_counted_and_the_rest_scored(model: Scripted, cases: Path) -> None:
    cases.write_text("\n".join(["{", case_line("a", gold=GOLD), case_line("a"), "7"]), encoding="utf-8")
    result = run(str(cases), "--json")
    assert result.exit_code == 6
    assert (json.loads(result.stdout)["cases_scored"], json.loads(result.stdout)["unread"]) == (1, 3)


def test_gold_of_another_form_ends_it_before_the_model(model: Scripted, cases: Path) -> None:
    cases.write_text(case_line("a", gold={"diagnosis": "A", "Zebra": 1}), encoding="utf-8")
    result = run(str(cases))
    assert result.exit_code == 3
    assert "case 1: gold" in result.stderr
    assert "Zebra" not in result.output
    assert model.tasks == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_tables_are_in_the_language_asked_for(model: Scripted, cases: Path, language: str) -> None:
    page = run(str(cases), "--lang", language, "--stability").stdout
    assert ("首位诊断正确" if language == "zh" else "right diagnosis first") in page
    assert "50 %" in page


@pytest.mark.parametrize("data_set", IMPORTERS)
def test_an_import_writes_cases_that_are_evaluated(model: Scripted, tmp_path: Path, data_set: str) -> None:
    source, made = tmp_path / "published", tmp_path / "cases.jsonl"
    source.write_text(SAMPLES[data_set], encoding="utf-8")
    for name in ("release_conditions.json", "release_evidences.json"):
        (tmp_path / name).write_text(beside(name), encoding="utf-8")
    result = run("--import", data_set, str(source), "-o", str(made))
    assert result.exit_code == 0, result.stderr
    assert "cases, 0 entries left out" in result.stderr
    found = report(run(str(made), "--json"))
    assert found["unread"] == found["without_gold"] == 0
    assert found["cases_scored"] >= 1


def test_an_import_counts_what_it_leaves_out(tmp_path: Path) -> None:
    source = tmp_path / "published"
    several = json.dumps({**json.loads(SAMPLES["medmcqa"]), "choice_type": "multi"})
    source.write_text(f"{SAMPLES['medmcqa']}\n{several}\n", encoding="utf-8")
    result = run("--import", "medmcqa", str(source), "-o", str(tmp_path / "cases.jsonl"))
    assert "1 cases, 1 entries left out" in result.stderr


def test_an_output_that_exists_ends_it_before_the_model(model: Scripted, cases: Path) -> None:
    for flag in ("-o", "--results"):
        result = run(str(cases), flag, str(cases))
        assert (result.exit_code, model.tasks) == (2, [])


def test_an_interrupt_gives_no_figures(model: Scripted, cases: Path) -> None:
    model.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None
    result = run(str(cases))
    assert (result.exit_code, result.stdout) == (130, "")


def test_an_import_says_what_is_missing_beside_it(tmp_path: Path) -> None:
    source = tmp_path / "patients.csv"
    source.write_text(SAMPLES["ddxplus"], encoding="utf-8")
    result = run("--import", "ddxplus", str(source))
    assert result.exit_code == 2
    assert "release_conditions.json does not exist" in result.stderr
