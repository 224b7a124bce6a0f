"""Standard streams as they are handed to the program: closed, full, of another encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.cli.cases import CHEST_PAIN

CHINESE = "患者男，45岁，胸痛两小时。"


def run(
    *arguments: str, close: int | None = None, out: int = subprocess.PIPE, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    before: Callable[[], None] | None = None if close is None else partial(os.close, close)
    return subprocess.run(
        [sys.executable, "-m", "antangel_cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        env=os.environ | (env or {}),
        preexec_fn=before,
        check=False,
        timeout=60,
    )


@pytest.fixture
def case(tmp_path: Path) -> str:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(CHEST_PAIN), encoding="utf-8")
    return str(path)


def test_a_closed_stdin_is_an_empty_one() -> None:
    result = run("validate", "-", close=0)
    assert result.returncode == 3
    assert b"The input is empty." in result.stderr


def test_a_closed_stdout_is_an_error(case: str) -> None:
    result = run("validate", case, close=1)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-2] == b"Error: The output cannot be written: Bad file descriptor."


def test_a_closed_stderr_takes_nothing_from_the_answer(case: str) -> None:
    result = run("validate", case, close=2)
    assert (result.returncode, result.stdout) == (0, run("validate", case).stdout)


def test_a_file_that_is_opened_does_not_become_a_closed_stream(case: str, tmp_path: Path) -> None:
    made = tmp_path / "out.json"
    assert run("validate", case, "--json", "-o", str(made), close=1).returncode == 0
    assert json.loads(made.read_text(encoding="utf-8"))["schema"] == "antangel.check/1"


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_full_disk_is_said_once_and_without_a_traceback(case: str, flags: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        result = run("validate", case, "-q", *flags, out=full.fileno())
    said = result.stderr.decode()
    assert result.returncode == 2
    assert said.count("The output cannot be written: No space left on device.") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_pipe_gets_utf8_whatever_the_locale(tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "case.txt"
    path.write_text(CHINESE, encoding="utf-8")
    result = run("validate", str(path), env=env)
    assert result.returncode == 0, result.stderr
    assert CHINESE in result.stdout.decode("utf-8")


def test_a_name_that_is_no_text_is_read_and_printed_with_escapes(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.txt"
    Path(os.fsdecode(path)).write_text("chest pain", encoding="utf-8")
    result = run("validate", os.fsdecode(path))
    assert result.returncode == 0, result.stderr
    assert b"\\udcff.txt: case-1" in result.stdout
