"""The command line from outside: help, usage errors, exit codes, what is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from antangel_cli import __version__
from antangel_cli.app import app
from antangel_cli.outcome import wants_json

RUN = CliRunner()
HEAVY = ("torch", "pydantic", "runtime", "kernels", "rich", "prompt_toolkit", "llguidance")
COMMANDS = ("chat", "ask", "diagnose", "batch", "schema", "validate", "about")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "own"),
    # typer itself imports pydantic as soon as a command has parameters
    [
        (["--help"], []),
        (["--version"], []),
        ([], []),
        (["diagnose", "-h"], ["pydantic"]),
        (["config", "path"], ["pydantic", "rich"]),
    ],
)
def test_nothing_heavy_is_imported_for_help(arguments: list[str], own: list[str]) -> None:
    code = (
        "import sys\nfrom antangel_cli.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"LOADED {own}"


def test_alone_it_prints_three_examples() -> None:
    result = RUN.invoke(app, [])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")] == [
        "antangel",
        "echo",
        "antangel",
    ]


def test_version() -> None:
    result = RUN.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"antangel {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_the_common_flags(name: str) -> None:
    result = RUN.invoke(app, [name, "-h"])
    assert result.exit_code == 0
    for flag in (
        "--json",
        "--quiet",
        "--no-color",
        "--plain",
        "--no-input",
        "--progress",
        "--config",
        "--debug",
    ):
        assert flag in result.stdout
    assert ("--temperature" in result.stdout) == (name in ("chat", "ask", "diagnose", "batch"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["diagnos"],
        ["diagnose"],
        ["diagnose", "x.json", "--nonsense"],
        ["diagnose", "x.json", "--max-dx", "2"],
        ["diagnose", "x.json", "--reasoning", "loud"],
        ["diagnose", "no-such-file.json"],
        ["ask", "one", "two"],
        ["ask", "-", "two"],
        ["schema", "nonsense"],
        ["about", "--config", "/no/such/file.toml"],
        ["schema"],
        ["help", "nonsense"],
    ],
)
def test_a_usage_error_is_exit_2_with_nothing_on_stdout(arguments: list[str]) -> None:
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 2


def test_with_json_a_failure_is_a_record_on_stdout() -> None:
    result = RUN.invoke(app, ["diagnose", "no-such-file.json", "--json"])
    record = json.loads(result.stdout)
    assert (result.exit_code, record["status"], record["error"]["code"]) == (2, "error", "no_such_file")
    assert "no-such-file.json" in result.stderr


def test_json_and_another_format_exclude_each_other() -> None:
    result = RUN.invoke(app, ["diagnose", "x.json", "--json", "--format", "text"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "usage"


@pytest.mark.parametrize(
    "arguments",
    [["ask", "Mrs", "Jones"], ["Mrs Jones, 58, chest pain"], ["diagnose", "x", "Jones"], ["diagnose", "Mrs Jones"]],
)
def test_words_in_a_wrong_place_are_not_repeated(arguments: list[str]) -> None:
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2
    assert "Jones" not in result.stderr


@pytest.mark.parametrize("text", ["Mrs Jones, 58", "45岁男性胸痛", "pain," * 20, "pain," * 200, "150/95 Jones"])
@pytest.mark.parametrize("command", ["diagnose", "validate", "batch", "eval"])
def test_text_in_place_of_a_file_is_not_repeated_and_its_way_is_told(command: str, text: str) -> None:
    result = RUN.invoke(app, [command, text])
    assert result.exit_code == 2
    assert text not in result.stderr
    assert "pipe it in" in result.stderr


@pytest.mark.parametrize("name", ["cases.jsonl", "nofile", "folder/病例.json"])
def test_a_name_in_place_of_a_file_is_repeated(name: str) -> None:
    assert f"{name} does not exist." in RUN.invoke(app, ["diagnose", name]).stderr


def test_a_folder_in_place_of_a_file_is_said(tmp_path: Path) -> None:
    assert f"{tmp_path} is a folder." in RUN.invoke(app, ["diagnose", str(tmp_path)]).stderr


@pytest.mark.parametrize("arguments", [["--json"], ["--json", "diagnose", "x.json"], ["-q", "about"]])
def test_a_flag_before_the_command_is_told_its_place(arguments: list[str]) -> None:
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2
    assert "Flags stand after the command." in result.stderr


def test_a_file_without_a_command_is_told_one(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("chest pain", encoding="utf-8")
    assert "antangel diagnose FILE" in RUN.invoke(app, [str(tmp_path / "letter.txt")]).stderr


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        (["help"], ["--help"]), (["help", "diagnose"], ["diagnose", "--help"]),
        (["config"], ["config", "--help"]), (["audit"], ["audit", "-h"]),
    ],
)  # fmt: skip
def test_help_is_given_however_it_is_asked_for(arguments: list[str], same: list[str]) -> None:
    result = RUN.invoke(app, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == RUN.invoke(app, same).stdout


def test_a_slip_in_a_command_gets_a_suggestion() -> None:
    assert "'diagnose'" in RUN.invoke(app, ["diagnos"]).stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["x", "--json"], True), (["x", "--format", "json"], True), (["x", "--format=json"], True),
        (["x", "--format", "text"], False), (["json"], False),
    ],
)  # fmt: skip
def test_json_is_recognised_without_parsing(arguments: list[str], wanted: bool) -> None:
    assert wants_json(arguments) is wanted


def test_an_unforeseen_error_shows_its_type_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise ValueError("Mrs Jones")

    monkeypatch.setattr("antangel_cli.config.paths", fail)
    result = RUN.invoke(app, ["config", "path"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "ValueError" in result.stderr
    assert "Jones" not in result.stderr
    assert "Traceback" in RUN.invoke(app, ["config", "path", "--debug"]).stderr


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_ends_from_outside_have_their_codes_and_are_silent(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException], code: int
) -> None:
    def fail(*_: Any) -> int:
        raise error

    monkeypatch.setattr("antangel_cli.config.paths", fail)
    monkeypatch.setattr("antangel_cli.outcome._discard_output", lambda: None)
    result = RUN.invoke(app, ["config", "path"])
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "")


def test_a_closed_pipe_is_silent() -> None:
    code = f"{sys.executable} -m antangel_cli config show | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert result.stderr == ""
    assert result.stdout.strip() in ("141", "0")


def test_config_show_names_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTANGEL_TOP_K", "7")
    shown = json.loads(RUN.invoke(app, ["config", "show", "--json", "--seed", "3"]).stdout)
    assert shown["top_k"] == {"value": 7, "origin": "ANTANGEL_TOP_K"}
    assert shown["seed"] == {"value": 3, "origin": "--seed"}
    assert shown["temperature"] == {"value": 0.6, "origin": "default"}
    text = RUN.invoke(app, ["config", "show"]).stdout
    assert "ANTANGEL_TOP_K" in text


def test_config_path_names_the_files() -> None:
    assert "/etc/antangel/config.toml" in RUN.invoke(app, ["config", "path"]).stdout
