"""The keys of a chat: what is sent, completed, suggested, searched, and written in an editor."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from antangel_cli.chatting import shelf
from antangel_cli.chatting.commands import COMMANDS
from antangel_cli.chatting.completion import ChatCompleter
from tests.cli.chats import chat_with, say, typed
from tests.cli.scripted import Scripted

ESCAPE = "\x1b"


def test_enter_sends_and_ctrl_d_leaves() -> None:
    assert typed("Fever?\r\x04") == (["Fever?"], 0)


@pytest.mark.parametrize("newline", ["\x1b\r", "\n"])
def test_alt_enter_and_ctrl_j_are_a_newline(newline: str) -> None:
    assert typed(f"one{newline}two\r\x04") == (["one\ntwo"], 0)


def test_a_paste_is_one_message() -> None:
    pasted = "\n".join(f"line {i}" for i in range(200))
    assert typed(f"\x1b[200~{pasted}\x1b[201~\r\x04") == ([pasted], 0)


def test_ctrl_c_clears_the_line_and_twice_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 5.0, 5.5])
    monkeypatch.setattr("antangel_cli.chatting.interrupts.Interrupts.__init__.__defaults__", (lambda: next(now),))
    assert typed("unsent\x03sent\r\x03\x03") == (["sent"], 130)


def test_an_unknown_command_is_suggested_and_never_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("/claer\r/exit\r") == ([], 0)
    assert "Did you mean /clear?" in capsys.readouterr().err


def test_vi_keys_are_vis() -> None:
    assert typed(f"feverx{ESCAPE}xIHigh \r\x04", vi=True)[0] == ["High fever"]
    assert typed(f"feverx{ESCAPE}xIHigh \r\x04")[0] != ["High fever"]


def completions(text: str) -> list[str]:
    document = Document(text)
    return [found.text for found in ChatCompleter().get_completions(document, CompleteEvent(completion_requested=True))]


def test_what_tab_offers(tmp_path: Path) -> None:
    assert completions("/s") == [command.name for command in COMMANDS if command.name.startswith("/s")] != []
    assert completions("fe") == completions("/help ") == completions("line\n/s") == []
    assert completions("/set t") == ["temperature", "top-p", "top-k", "timeout"]
    assert completions("/set reasoning ") == ["show", "hide", "off"]
    assert completions("/history o") == ["on", "off"]
    (tmp_path / "letter one.txt").touch()
    for command in ("/case", "/read", "/export"):
        assert completions(f"{command} {tmp_path}/let") == ["ter one.txt"]
    assert completions("/load ") == []
    assert not shelf.folder().exists()
    say(chat_with(Scripted()), "/save ward-3")
    assert completions("/load w") == completions("/forget ") == ["ward-3"]


def test_the_editor_goes_on_with_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "editor.sh"
    script.write_text('#!/bin/sh\nprintf "%s, one week" "$(cat "$1")" > "$1.new"; mv "$1.new" "$1"\n', encoding="utf-8")
    script.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(script))
    assert typed("Fever\x18\x05?\r\x04") == (["Fever, one week?"], 0)


def test_an_editor_that_fails_ends_the_line_and_not_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "false")
    assert typed("Fever\x18\x05Cough?\r\x04") == (["Cough?"], 0)
