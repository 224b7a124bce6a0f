"""Batch: one output line per input line, in order, whatever the lines are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from antangel_cli import load
from antangel_cli.app import app
from antangel_cli.clinic.model import Task
from antangel_cli.clinic.schemas import schema
from tests.cli.cases import CHEST_PAIN, case_line
from tests.cli.scripted import Scripted, answer_well

RUN = CliRunner()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted()
    monkeypatch.setattr(load, "open_model", lambda settings, advance, sequences=1, announce=None: scripted)
    return scripted


def batch(lines: list[str] | bytes, *flags: str) -> tuple[Result, list[dict[str, Any]]]:
    data = lines if isinstance(lines, bytes) else "\n".join(lines).encode()
    result = RUN.invoke(app, ["batch", *flags], input=data)
    return result, [json.loads(line) for line in result.stdout.splitlines()]


def outline(records: list[dict[str, Any]]) -> list[tuple[str | None, str]]:
    return [
        (record["id"], record["error"]["code"] if record["status"] == "error" else record["status"])
        for record in records
    ]


def test_every_line_is_answered_in_order(model: Scripted) -> None:
    result, records = batch([case_line(f"c{i}") for i in range(9)], "--concurrency", "4")
    assert result.exit_code == 0, result.stderr
    assert outline(records) == [(f"c{i}", "ok") for i in range(9)]
    assert all(record["schema"] == "antangel.ddx/1" for record in records)
    assert model.most_in_flight == 4
    assert "9 lines: 9 ok" in result.stderr
    assert "cases/min" in result.stderr
    assert model.closed


@pytest.mark.parametrize("start", ["{\n", "[\n", " {\r\n"])
def test_one_document_over_many_lines_is_refused_before_the_model_is_loaded(
    model: Scripted, tmp_path: Path, start: str
) -> None:
    place = tmp_path / "case.json"
    place.write_text(start + case_line("a")[1:], encoding="utf-8")
    result = RUN.invoke(app, ["batch", str(place)])
    assert (result.exit_code, result.stdout, model.tasks) == (2, "", [])
    assert "antangel diagnose FILE" in result.stderr


def test_a_file_of_lines_is_read(model: Scripted, tmp_path: Path) -> None:
    place = tmp_path / "cases.json"
    place.write_text(f"{case_line('a')}\n", encoding="utf-8")
    assert RUN.invoke(app, ["batch", str(place)]).exit_code == 0


def test_a_repeated_key_is_refused_in_either_form_of_line(model: Scripted) -> None:
    twice = case_line("a")[:-1] + ', "language": "en", "language": "zh"}'
    wrapped = '{"id": "b", "case": ' + twice + "}"
    result, records = batch([twice, wrapped, case_line("c")])
    assert outline(records) == [(None, "bad_json"), (None, "bad_json"), ("c", "ok")]
    for record in records:
        jsonschema.validate(record, schema("result"))
    assert result.exit_code == 6


def uneven(task: Task) -> tuple[str, str | None]:
    """Reasons longest about the first case."""
    text, answer = answer_well(task)
    return (" ".join(["hm"] * 40) if "pulse 112" in task.turns[-1].content else text), answer


def test_a_slow_case_holds_nothing_up_and_order_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [case_line("slow"), *(case_line(f"c{i}", vitals=[]) for i in range(5))]
    for flags, first in ((["--concurrency", "2"], "slow"), (["--concurrency", "2", "--unordered"], "c0")):
        scripted = Scripted(uneven)
        monkeypatch.setattr(load, "open_model", lambda *_, scripted=scripted: scripted)
        _, records = batch(lines, *flags)
        assert records[0]["id"] == first
        assert {record["id"] for record in records} == {"slow", "c0", "c1", "c2", "c3", "c4"}
        assert scripted.most_in_flight == 2


def test_bad_lines_are_error_records_in_their_place(model: Scripted) -> None:
    lines = [
        case_line("a"),
        "{not json",
        "",
        "[1]",
        case_line("a"),
        json.dumps({"schema": "antangel.case/1", "id": "b", "nonsense": "Jones"}),
        json.dumps({"id": "c", "case": CHEST_PAIN}),
        json.dumps({"id": "d", "case": "Fever and cough since Monday."}),
        json.dumps({"id": "Mrs Jones", "case": "Fever."}),
    ]
    result, records = batch(lines)
    assert outline(records) == [
        ("a", "ok"), (None, "bad_json"), (None, "bad_json"), ("a", "duplicate_id"), ("b", "input_rejected"),
        ("c", "ok"), ("d", "ok"), (None, "bad_id"),
    ]  # fmt: skip
    assert [record["line"] for record in records if record["status"] == "error"] == [2, 4, 5, 6, 9]
    assert result.exit_code == 6
    assert "Jones" not in result.stdout + result.stderr
    assert "bad_json 2" in result.stderr


def test_a_case_without_an_id_is_an_error_record_and_a_foreign_one_has_the_lines(model: Scripted) -> None:
    nameless = {key: value for key, value in CHEST_PAIN.items() if key != "id"}
    patient = {"resourceType": "Condition", "code": {"text": "Fever"}, "subject": {"reference": "Patient/1"}}
    result, records = batch([json.dumps(nameless), json.dumps(patient)])
    assert outline(records) == [(None, "bad_id"), ("line-2", "ok")]
    assert result.exit_code == 6
    assert records[0]["error"]["message"].startswith("The case of line 1 has no id.")


def test_a_byte_order_mark_and_windows_ends_are_tolerated(model: Scripted) -> None:
    _, records = batch(b"\xef\xbb\xbf" + case_line("a").encode() + b"\r\n\r\n" + case_line("b").encode() + b"\r\n")
    assert outline(records) == [("a", "ok"), ("b", "ok")]


def test_long_lines_are_an_error_and_longer_ones_are_skipped(model: Scripted) -> None:
    long, longer = case_line("a", narrative="x" * (1 << 20)), case_line("b", narrative="x" * (4 << 20))
    result, records = batch([long, longer, case_line("c")])
    assert outline(records) == [(None, "too_long"), ("c", "ok")]
    assert "Line 2 is longer than 4 MiB" in result.stderr
    assert result.exit_code == 6


def test_when_every_line_fails_the_exit_code_says_so(model: Scripted) -> None:
    assert batch(["{", "["])[0].exit_code == 5
    assert batch([])[0].exit_code == 0


def test_a_failed_generation_is_an_error_record(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(lambda task: ("Hm.", "{}"))
    monkeypatch.setattr(load, "open_model", lambda *_: scripted)
    result, records = batch([case_line("a"), case_line("b")])
    assert [record["status"] for record in records] == ["error", "error"]
    assert result.exit_code == 5
    assert len(scripted.tasks) == 4


def test_text_lines_are_cases_when_asked_for(model: Scripted) -> None:
    _, records = batch(["Fever and cough.", "Headache."], "--input-format", "text")
    assert outline(records) == [("line-1", "ok"), ("line-2", "ok")]


def test_limit_and_errors_stop_the_reading(model: Scripted) -> None:
    assert len(batch([case_line(f"c{i}") for i in range(6)], "--limit", "2")[1]) == 2
    lines = ["{", *(case_line(f"c{i}") for i in range(6))]
    assert outline(batch(lines, "--fail-fast")[1]) == [(None, "bad_json")]
    result, records = batch(["{", "{", "{", case_line("a")], "--max-errors", "2")
    assert (len(records), result.exit_code) == (2, 5)


def test_a_dry_run_checks_and_reads_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "open_model", lambda *_: pytest.fail("the model was read"))
    result, records = batch([case_line("a"), "{"], "--dry-run")
    assert outline(records) == [("a", "valid"), (None, "bad_json")]
    assert result.exit_code == 6


@pytest.mark.parametrize("place", ["cases.jsonl", "-"])
def test_an_empty_input_is_no_lines_and_loads_no_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    monkeypatch.setattr(load, "open_model", lambda *_, **__: pytest.fail("the model was opened"))
    (tmp_path / "cases.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    result = RUN.invoke(app, ["batch", place, "-o", "out.jsonl", "--summary", "summary.json"], input=b"")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "0 lines" in result.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    summary = json.loads((tmp_path / "summary.json").read_bytes())
    assert (summary["lines"], summary["model"], summary["ended"]) == (0, None, "input")


def test_an_output_with_too_long_a_name_is_exit_2(model: Scripted) -> None:
    result, _ = batch([case_line("a")], "-o", "x" * 256)
    assert (result.exit_code, result.stdout, model.tasks) == (2, "", [])
    assert "255 bytes" in result.stderr


def test_fail_on_is_outranked_by_failures(model: Scripted) -> None:
    assert batch([case_line("a")], "--fail-on", "urgent")[0].exit_code == 10
    assert batch([case_line("a"), "{"], "--fail-on", "urgent")[0].exit_code == 6


def test_the_same_case_answers_alike_alone_and_in_a_file(model: Scripted, tmp_path: Path) -> None:
    _, records = batch([case_line(f"c{i}") for i in range(3)])
    path = tmp_path / "case.json"
    path.write_text(case_line("c1"))
    alone = json.loads(RUN.invoke(app, ["diagnose", str(path), "--json"]).stdout)
    for key in ("result", "checks", "urgency_final", "status", "id"):
        assert alone[key] == records[1][key]


def test_output_goes_to_a_file_that_is_never_overwritten_unasked(model: Scripted, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    result, _ = batch([case_line("a")], "-o", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(path.read_text())["id"] == "a"
    again, _ = batch([case_line("b")], "-o", str(path))
    assert again.exit_code == 2
    assert json.loads(path.read_text())["id"] == "a"
    assert batch([case_line("b")], "-o", str(path), "--force")[0].exit_code == 0
    assert json.loads(path.read_text())["id"] == "b"


CHILD = """
import sys, time
from antangel_cli import load
from antangel_cli.app import main
from tests.cli.scripted import Scripted, answer_well
def script(task):
    text, answer = answer_well(task)
    return ("hm " * 5000 if "endless" in task.turns[-1].content else text), answer
def opened(settings, advance, sequences=1, announce=None):
    model = Scripted(script)
    model.on_step = lambda step: time.sleep(0.02)
    return model
load.open_model = opened
main()
"""


def start(*arguments: str, **pipes: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *(arguments or ("batch", "--concurrency", "2"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **pipes,
    )  # fmt: skip


def test_an_answer_comes_while_the_input_is_still_open() -> None:
    with start() as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(case_line("a") + "\n")
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["id"] == "a"
        child.stdin.close()
        assert child.wait(30) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_finishes_what_is_in_flight(number: signal.Signals, code: int) -> None:
    with start() as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write("\n".join(case_line(f"c{i}") for i in range(50)) + "\n")
        child.stdin.flush()
        first = child.stdout.readline()
        child.send_signal(number)
        rest = child.stdout.read().splitlines()
        assert child.wait(30) == code
        ids = [json.loads(line)["id"] for line in (first, *rest)]
        assert ids == [f"c{i}" for i in range(len(ids))]
        assert 2 <= len(ids) < 50
        assert child.stderr
        assert "Traceback" not in child.stderr.read()


def test_the_second_signal_ends_at_once() -> None:
    with start() as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(
            "\n".join([case_line("a"), case_line("b", narrative="Pain, endless."), case_line("c")]) + "\n"
        )
        child.stdin.flush()
        child.stdout.readline()
        for _ in range(2):
            child.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert child.wait(5) == 130
        assert child.stdout.read() == ""
        assert child.stderr
        assert "Traceback" not in child.stderr.read()


@pytest.mark.parametrize("command", ["diagnose", "ask"])
def test_an_interrupt_anywhere_else_is_130_and_silent(command: str) -> None:
    with start(command, "-", "-q") as child:
        assert child.stdin
        assert child.stderr
        child.stdin.write("Pain, endless.")
        child.stdin.close()
        time.sleep(6)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130
        assert child.stderr.read() == ""


def test_a_reader_that_leaves_ends_it_silently() -> None:
    with start() as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write("\n".join(case_line(f"c{i}") for i in range(50)) + "\n")
        child.stdin.close()
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(30) == 141
        assert child.stderr
        assert "Error" not in child.stderr.read()


def test_at_a_terminal_without_a_file_it_explains_itself() -> None:
    parent, terminal = os.openpty()
    result = subprocess.run(
        [sys.executable, "-m", "antangel_cli", "batch"],
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(parent)
    os.close(terminal)
    assert result.returncode == 2
    assert "batch -h" in result.stderr


def test_a_dry_run_goes_on_behind_a_case_with_too_many_facts(model: Scripted) -> None:
    result, records = batch([case_line("long", narrative="a. " * 20_000), case_line("short")], "--dry-run")
    assert outline(records) == [("long", "input_rejected"), ("short", "valid")]
    assert result.exit_code == 6
