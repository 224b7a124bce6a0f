"""Input that does not end, lines that are too long, readers that are slow: bounded memory and clear words."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from antangel_cli import settings as settings_module
from antangel_cli.app import app
from antangel_cli.clinic.audit import head_file
from antangel_cli.lines import LONG, LONGEST
from bench.batch_lines import cases as made_cases
from bench.batch_lines import run as run_apart
from tests.cli.batches import RUN, cases, child, ids, records, run_batch, use
from tests.cli.cases import case_line
from tests.cli.scripted import Scripted

PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
MOST_KIB_MORE = 24 << 10
"""What a batch may take above its own start: less than the output of the cases of a test."""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return use(monkeypatch, Scripted())


def resident_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def test_memory_does_not_grow_with_the_lines() -> None:
    few, many = run_apart(made_cases(500)), run_apart(made_cases(30_000))
    assert (few.written, many.written) == (500, 30_000)
    assert (few.exit_code, many.exit_code) == (0, 0)
    assert many.peak_kib - few.peak_kib < 4 << 10


def test_memory_does_not_grow_with_a_lines_length() -> None:
    few = run_apart(made_cases(10))
    end, piece = b"\n" + case_line("z").encode() + b"\n", b"x" * LONG
    for chunks in ([piece] * 64, [bytes(LONG)] * 4, [b'"\\n' * (LONGEST // 3)]):
        many = run_apart([*chunks, end])
        assert many.exit_code == 6
        assert many.peak_kib - few.peak_kib < MOST_KIB_MORE


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0" * 100, "bad_json"),
        (b"\0" * LONGEST, "too_long"),
        (b"\xff\xfe{", "bad_json"),
        (b'{"schema": "antangel.case/1", "id": "a", "narrative": "\xc3\x28"}', "bad_json"),
        (b"null", "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b'{"id": "a", "case": null}', "bad_case"),
        (b'{"id": null, "case": "Fever."}', "bad_id"),
        (b"1" * 10_000, "bad_json"),
        (b" " * (LONG + 1) + b"{", "too_long"),
    ],
    ids=range(10),
)
def test_a_line_that_is_no_case_is_a_record(data: bytes, code: str, model: Scripted) -> None:
    result = RUN.invoke(app, ["batch"], input=data + b"\n" + case_line("b").encode())
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["error"]["code"], first["line"], second["id"]) == (code, 1, "b")


def test_a_line_that_never_ends_is_said_once_and_can_be_interrupted() -> None:
    with child("batch", **PIPES) as process, subprocess.Popen(["cat", "/dev/zero"], stdout=process.stdin) as endless:
        assert process.stdin
        assert process.stderr
        process.stdin.close()
        said = next(line for line in process.stderr if b"longer than 4 MiB" in line)
        assert said.startswith(b"Line 1 ")
        before = resident_kib(process.pid)
        time.sleep(1)
        assert resident_kib(process.pid) - before < MOST_KIB_MORE
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
        assert b"Traceback" not in rest
        assert b"longer than" not in rest
        endless.kill()


def test_lines_that_never_end_are_answered_as_they_come() -> None:
    arguments = ("batch", "--dry-run")
    with child(*arguments, **PIPES) as process, subprocess.Popen(["yes", "{"], stdout=process.stdin) as endless:
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        for number in range(1, 3000):
            assert json.loads(process.stdout.readline())["line"] == number
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(60) == 143
        endless.kill()


def test_a_slow_reader_holds_the_reading_up() -> None:
    reading, writing = os.pipe()
    pipes = {"stdin": reading, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with child("batch", "-q", "--dry-run", **pipes) as process:
        os.close(reading)
        assert process.stdout
        os.write(writing, b"{\n")
        assert json.loads(process.stdout.readline())["line"] == 1
        os.set_blocking(writing, False)
        taken, still = 0, 0
        while still < 20:
            try:
                taken += os.write(writing, b"".join(b'{"id": "%d"}\n' % i for i in range(1000)))
                still = 0
            except BlockingIOError:
                still += 1
                time.sleep(0.1)
        os.close(writing)
        assert taken < 2 << 20
        assert process.stdout.read().count(b"\n") > 1000
        assert process.wait(60) == 5


def test_errors_are_copied_to_a_file(model: Scripted, tmp_path: Path) -> None:
    errors = tmp_path / "errors.jsonl"
    lines = ["{", *cases(2), case_line("c1"), "x" * (LONGEST + 1)]
    result = run_batch(lines, "--errors", str(errors))
    written = [json.loads(line) for line in result.stdout.splitlines()]
    assert ids(written) == [None, "c0", "c1", "c1"]
    assert records(errors)[:2] == [record for record in written if record["status"] == "error"]
    assert [(r["line"], r["error"]["code"]) for r in records(errors)] == [
        (1, "bad_json"), (4, "duplicate_id"), (5, "too_long"),
    ]  # fmt: skip
    assert errors.stat().st_mode & 0o777 == 0o600
    assert run_batch(lines, "--errors", str(errors)).exit_code == 2


def test_the_summary_says_what_came_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    scripted = use(monkeypatch, Scripted(demonstration=True))
    scripted.on_step = lambda step: time.sleep(0.001)
    result = run_batch([*cases(3), "{", "x" * (LONGEST + 1)], "--summary", str(path))
    summary = json.loads(path.read_text())
    assert (summary["schema"], summary["ended"], summary["exit_code"]) == ("antangel.batch_summary/1", "input", 6)
    assert summary["model"] == {"name": "scripted", "demonstration": True}
    assert (summary["lines"], summary["statuses"]) == (5, {"demonstration": 3, "error": 1})
    assert (summary["skipped"], summary["reused"]) == (1, 0)
    assert summary["failures"] == {"bad_json": 1, "too_long": 1}
    answered = [json.loads(line) for line in result.stdout.splitlines() if '"provenance"' in line]
    tokens = [record["provenance"]["tokens"] for record in answered]
    assert summary["tokens"] == sum(count["reasoning"] + count["answer"] for count in tokens) > 0
    times = summary["line_seconds"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"] <= summary["seconds"]
    assert summary["lines_per_minute"] > 0
    assert run_batch(cases(1), "--summary", str(path)).exit_code == 2
    assert run_batch(cases(3), "--limit", "2", "--summary", str(path), "--force").exit_code == 0
    assert json.loads(path.read_text())["ended"] == "limit"
    run_batch(["{", "{", "{"], "--fail-fast", "--summary", str(path), "--force")
    assert json.loads(path.read_text())["ended"] == "errors"


def test_failures_are_listed_at_the_end_unless_quiet(model: Scripted) -> None:
    said = run_batch(["{", "{", case_line("a")]).stderr
    assert "3 lines: 2 error, 1 ok (failures: bad_json 2)" in said
    assert re.search(r"^  failed: bad_json +2$", said, re.M)
    assert run_batch(["{", case_line("a")], "-q").stderr == ""


def test_an_output_that_is_full_says_so(model: Scripted) -> None:
    result = run_batch(cases(1), "-o", "/dev/full")
    assert result.exit_code == 2
    assert "No space left" in result.stderr


def test_a_log_that_is_required_and_fails_lets_no_answer_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Scripted
) -> None:
    system = tmp_path / "system.toml"
    system.write_text("[policy]\naudit_required = true\n")
    monkeypatch.setattr(settings_module, "SYSTEM_CONFIG", system)

    def break_log(step: int) -> None:
        if step == 3:
            head_file().unlink(missing_ok=True)
            head_file().mkdir()

    model.on_step = break_log
    result = run_batch(cases(2))
    assert (result.exit_code, result.stdout) == (7, "")


@pytest.mark.parametrize(
    "flags",
    [
        ["{input}", "-o", "{input}", "--force"], ["{input}", "--errors", "{input}", "--force"],
        ["{input}", "-o", "{done}", "--skip-done", "{done}", "--force"],
        ["{input}", "-o", "{done}", "--summary", "{done}", "--force"], ["{input}", "-o", "{link}", "--force"],
        ["{input}", "--limit", "0"], ["{input}", "--max-errors", "0"],
    ],
    ids=range(7),
)  # fmt: skip
def test_no_file_is_read_and_written(flags: list[str], tmp_path: Path, model: Scripted) -> None:
    places = {"input": tmp_path / "in.jsonl", "done": tmp_path / "done.jsonl", "link": tmp_path / "link"}
    places["input"].write_text(case_line("a"))
    places["done"].write_text("")
    places["link"].symlink_to(places["input"])
    result = RUN.invoke(app, ["batch", *(flag.format(**places) for flag in flags)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert places["input"].read_text() == case_line("a")
    assert model.tasks == []


def test_devices_may_be_named_twice(model: Scripted) -> None:
    result = run_batch(cases(1), "-o", "/dev/null", "--errors", "/dev/null", "--summary", "/dev/null")
    assert result.exit_code == 0, result.stderr
