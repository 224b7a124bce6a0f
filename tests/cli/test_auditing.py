"""What each command leaves in the audit log, and what happens where it cannot be written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from antangel_cli import load
from antangel_cli import settings as settings_module
from antangel_cli.app import app
from antangel_cli.clinic.audit import log_file
from antangel_cli.clinic.audit_check import verify
from tests.cli.cases import CHEST_PAIN, case_line
from tests.cli.scripted import Scripted

RUN = CliRunner()


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted()
    monkeypatch.setattr(load, "open_model", lambda settings, advance, sequences=1, announce=None: scripted)
    return scripted


@pytest.fixture
def case(tmp_path: Path) -> str:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(CHEST_PAIN), encoding="utf-8")
    return str(path)


def run(*arguments: str, input: str | None = None) -> Result:
    return RUN.invoke(app, list(arguments), input=input)


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_file().read_text().splitlines()]


def require_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "system.toml"
    system.write_text("[policy]\naudit_required = true", encoding="utf-8")
    monkeypatch.setattr(settings_module, "SYSTEM_CONFIG", system)


def break_log() -> None:
    log_file().parent.mkdir(parents=True, exist_ok=True)
    log_file().mkdir()


def test_a_diagnosis_is_one_line_that_names_what_was_written(case: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run("diagnose", case, "--json", "-o", str(out), "--accept-implausible").exit_code == 0
    record, [line] = json.loads(out.read_text(encoding="utf-8")), lines()
    assert line["command"] == "diagnose"
    assert line["run_id"] == record["run_id"]
    assert line["input_hmac"] == record["provenance"]["input_hmac"]
    assert line["model_hash"] == record["provenance"]["model"]["weights"]
    assert line["rules_version"] == record["provenance"]["rules"]["version"]
    assert line["urgency"] == record["urgency_final"]
    assert line["output_hash"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert line["overridden"] == ["accept_implausible"]
    rules = [f"red_flag:{flag['rule']}" for flag in record["checks"]["rule_red_flags"]]
    assert rules
    assert line["fired"][: len(rules)] == rules
    assert verify().sound


def test_fail_on_is_the_exit_code_of_the_line(case: str) -> None:
    assert run("diagnose", case, "--fail-on", "routine").exit_code == 10
    assert lines()[0]["exit_code"] == 10


def test_each_case_of_a_batch_is_one_line() -> None:
    result = run("batch", input=f"{case_line('b1')}\nno json\n{case_line('b2')}\n")
    written = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["exit_code"] for line in lines()] == [0, 3, 0]
    assert [line["run_id"] for line in lines()] == [record.get("run_id") for record in written]
    expected = [hashlib.sha256(line.encode()).hexdigest() for line in result.stdout.splitlines()]
    assert [line["output_hash"] for line in lines()] == expected


def test_each_reply_is_one_line_without_a_word_of_it() -> None:
    question = "Crushing chest pain for one hour with sweating?"
    run("ask", "-", input=question)
    run("chat", input=f"{question}\nAnd then?\n")
    assert [line["command"] for line in lines()] == ["ask", "chat", "chat"]
    assert any(name.startswith("red_flag:") for name in lines()[0]["fired"])
    assert lines()[0]["input_hmac"] == lines()[1]["input_hmac"] != lines()[2]["input_hmac"]
    assert "pain" not in log_file().read_text()


@pytest.mark.parametrize(
    ("arguments", "code"), [(["diagnose", "none.json"], 2), (["diagnose", "-"], 3), (["ask", "-"], 3)]
)
def test_a_run_without_an_answer_is_a_line_with_its_exit_code(arguments: list[str], code: int) -> None:
    assert run(*arguments, input="").exit_code == code
    assert [(line["command"], line["exit_code"], line["output_hash"]) for line in lines()] == [
        (arguments[0], code, None)
    ]


def test_an_interrupted_run_is_a_line_too(case: str, model: Scripted) -> None:
    def interrupt(step: int) -> None:
        raise KeyboardInterrupt

    model.on_step = interrupt
    assert run("diagnose", case).exit_code == 130
    assert lines()[0]["exit_code"] == 130


def test_a_log_that_cannot_be_written_is_a_warning() -> None:
    break_log()
    result = run("batch", input=f"{case_line('b1')}\n{case_line('b2')}\n")
    assert result.exit_code == 0
    assert result.stderr.count("the audit log is not written") == 1


@pytest.mark.parametrize("command", ["diagnose", "batch", "ask", "chat"])
def test_where_the_log_is_required_nothing_is_answered_without_it(
    command: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Scripted
) -> None:
    require_audit(tmp_path, monkeypatch)
    break_log()
    arguments = {"diagnose": ["diagnose", case], "batch": ["batch", case], "ask": ["ask", "-"], "chat": ["chat"]}
    result = run(*arguments[command], input="gout?")
    assert (result.exit_code, result.stdout) == (7, "")
    assert model.tasks == []


def test_a_log_that_fails_at_the_end_is_exit_7_where_it_is_required(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Scripted
) -> None:
    require_audit(tmp_path, monkeypatch)
    model.on_step = lambda step: (log_file().unlink(), break_log()) if step == 1 else None  # type: ignore[assignment, func-returns-value]
    assert run("diagnose", case).exit_code == 7


def test_show_and_verify(case: str) -> None:
    assert "no lines" in run("audit", "show").stdout
    for _ in range(3):
        run("diagnose", case)
    assert len(run("audit", "show", "--last", "2", "--json").stdout.splitlines()) == 2
    assert run("audit", "show").stdout.count("diagnose") == 3
    sound = run("audit", "verify")
    assert sound.exit_code == 0
    assert "3 lines, as it was written" in sound.stdout
    log_file().write_bytes(log_file().read_bytes().replace(b'"n":2', b'"n":7'))
    found = run("audit", "verify")
    assert found.exit_code == 6
    assert "line 2 was edited" in found.stdout
    record = json.loads(run("audit", "verify", "--json").stdout)
    assert (record["sound"], record["findings"][0]["code"], record["findings"][0]["line"]) == (False, "not_ours", 2)


def test_a_line_that_steers_a_terminal_is_shown_without_its_escapes() -> None:
    run("ask", "-", input="gout?")
    with log_file().open("ab") as log:
        log.write(json.dumps({"user": "\x1b[2J\x9bmroot"}).encode() + b"\n")
    assert "\x1b" not in run("audit", "show").stdout
    assert "\x9b" not in run("audit", "show").stdout


def test_a_validation_is_one_line_a_file_without_a_model(case: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}", encoding="utf-8")
    result = run("validate", case, str(wrong), "--accept-implausible")
    assert result.exit_code == 3
    good, bad = lines()
    assert {good["command"], bad["command"]} == {"validate"}
    assert (good["exit_code"], bad["exit_code"]) == (0, 3)
    assert good["overridden"] == ["accept_implausible"]
    assert good["input_hmac"]
    assert bad["input_hmac"] is None
    assert any(name.startswith("red_flag:") for name in good["fired"])
    assert hashlib.sha256(result.stdout.rstrip("\n").encode()).hexdigest() == good["output_hash"]
    assert run("diagnose", case, "--accept-implausible").exit_code == 0
    assert lines()[2]["input_hmac"] == good["input_hmac"]
    assert verify().sound


def test_validation_is_refused_where_the_required_log_cannot_be_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_audit(tmp_path, monkeypatch)
    break_log()
    result = run("validate", case)
    assert result.exit_code == 7
    assert "chest" not in result.stdout
