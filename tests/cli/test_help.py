"""The help: led by examples that work, complete, and shown whole on narrow and wide terminals; completion."""

from __future__ import annotations

import shlex
import sys

import pytest
from typer.main import get_command

from antangel_cli.app import COMPLETING, app
from antangel_cli.examples import EXAMPLES
from tests.cli.commands import registered
from tests.cli.screen import SIZES, same_as_kept, terminal

GROUPS = {"", "config", "audit"}


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["antangel", *arguments])
    with pytest.raises(SystemExit) as end:
        app()
    return int(end.value.code or 0)


def test_every_command_has_examples_and_no_other() -> None:
    assert set(EXAMPLES) == registered() | GROUPS
    assert all(EXAMPLES.values())


def typed(line: str) -> list[str]:
    """The words that antangel gets of a line for the shell."""
    words = shlex.split(line.replace("<", " < ").replace(">", " > "))
    words = words[words.index("antangel") + 1 :]
    return words[: next((place for place, word in enumerate(words) if word in "<>|"), None)]


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, rows in EXAMPLES.items() for line, _ in rows])
def test_an_example_is_of_its_command_and_its_flags_exist(name: str, line: str) -> None:
    words, command = typed(line), get_command(app)
    for part in name.split():
        assert words.pop(0) == part
        command = command.commands[part]
    if name not in GROUPS:
        assert command.make_context(name, words) is not None


@pytest.mark.parametrize("size", SIZES, ids=["80x24", "120x40"])
@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_help_is_as_kept(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, *size)
    assert run(*name.split(), "-h", monkeypatch=monkeypatch) == 0
    same_as_kept(f"{size[0]}x{size[1]}/help-{name.replace(' ', '-') or 'antangel'}", screen.text)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_no_line_of_help_is_wider_than_a_narrow_terminal_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, 80, 24)
    run(*name.split(), "-h", monkeypatch=monkeypatch)
    assert screen.text.index("Examples:") < screen.text.index("Usage:")
    # A line that fills the terminal was broken by it.
    assert [line for line in screen.lines if len(line) == 80] == []


def complete(words: str, at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv(COMPLETING, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(at))
    run(monkeypatch=monkeypatch)
    return capsys.readouterr().out.split()


def test_completion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert complete("antangel dia", 1, monkeypatch, capsys) == ["diagnose"]
    assert complete("antangel diagnose --reas", 2, monkeypatch, capsys) == ["--reasoning"]
    assert complete("antangel diagnose --reasoning ", 3, monkeypatch, capsys) == ["show", "hide", "off"]
    assert complete("antangel audit v", 2, monkeypatch, capsys) == ["verify"]
    # Nothing: the shell then completes names of files.
    assert complete("antangel diagnose ca", 2, monkeypatch, capsys) == []
