"""The commands of a chat that change, show and take back."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from antangel_cli.chatting.commands import COMMANDS, KEYS
from docs.chat import PAGE, page, tables
from tests.cli.cases import CHEST_PAIN
from tests.cli.chats import case_file, chat_with, say, saying, sent
from tests.cli.scripted import Scripted


def test_help_names_every_command_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    say(chat_with(Scripted()), "/help")
    shown = " ".join(capsys.readouterr().err.split())
    assert all(f"{command.form} {command.meaning}" in shown for command in COMMANDS)
    assert all(key in shown for key, _ in KEYS)


@pytest.mark.parametrize(
    ("typed", "meant"), [("exit", "/exit"), ("Quit", "/exit"), (":q", "/exit"), ("/quit", "/exit"), ("help", "/help")]
)
def test_what_leaves_other_programs_is_not_sent(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = Scripted()
    assert say(chat_with(model), typed) == [2]
    assert (model.tasks, f"Did you mean {meant}?" in capsys.readouterr().err) == ([], True)


def test_a_question_that_begins_so_is_sent() -> None:
    model = Scripted()
    assert say(chat_with(model), "Exit wound or entry wound?") == [0]
    assert len(model.tasks) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_an_argument_too_many_or_too_few_does_nothing(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    from antangel_cli.chatting.commands import Command

    assert isinstance(command, Command)
    if command.argument.startswith("["):
        return
    chat = chat_with(Scripted())
    assert say(chat, f"{command.name} {'' if command.argument else 'more'}") == [2]
    assert not chat.left


def test_retry_answers_again_with_the_next_seed_and_keeps_what_went_before() -> None:
    model = saying("one", "two", "three")
    chat = chat_with(model)
    say(chat, "first", "second", "/retry", "/retry", "third")
    assert sent(model) == ["first", "second", "second", "second", "third"]
    assert [task.sampling.seed for task in model.tasks] == [1, 1, 2, 3, 1]
    assert [turn.content for turn in model.tasks[3].turns[1:]] == ["first", "one", "second"]
    assert [exchange.reply for exchange in chat.talk.exchanges] == ["one", "three", "three"]


def test_a_retry_that_brings_nothing_leaves_the_old_reply() -> None:
    chat = chat_with(saying("one", " "))
    say(chat, "first", "/retry")
    assert [exchange.reply for exchange in chat.talk.exchanges] == ["one"]


def test_a_retry_sends_the_files_of_its_message_and_leaves_those_of_the_next(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(f"The {name} letter.", encoding="utf-8")
    model = Scripted()
    say(chat_with(model), f"/read {tmp_path}/first", "one", f"/read {tmp_path}/second", "/retry", "two")
    first, again, second = sent(model)
    assert first == again
    assert "The first letter." in first
    assert "The second letter." not in again
    assert "The second letter." in second


def test_undo_takes_one_turn_back_even_where_two_are_alike(capsys: pytest.CaptureFixture[str]) -> None:
    model = Scripted()
    chat = chat_with(model)
    assert say(chat, "/undo") == [2]
    say(chat, "first", "again", "again", "/undo", "last")
    assert [turn.content for turn in model.tasks[-1].turns if turn.role == "user"] == ["first", "again", "last"]


def test_undo_of_the_first_message_gives_the_case_to_the_next(tmp_path: Path) -> None:
    model = Scripted()
    say(chat_with(model), f"/case {case_file(tmp_path, CHEST_PAIN)}", "one", "/undo", "two")
    assert all("F1 [patient] 58 years, male" in message for message in sent(model))
    assert len(model.tasks[1].turns) == 2


def test_each_turn_begins_with_what_was_sent_and_said_before(tmp_path: Path) -> None:
    model = saying(" A **dose** of 5 mg.\n\n", "Two.", "Three.")
    letter = tmp_path / "letter.txt"
    letter.write_text("A letter.", encoding="utf-8")
    say(chat_with(model), f"/case {case_file(tmp_path, CHEST_PAIN)}", f"/read {letter}", "one", "zwei?", "三")
    turns = [task.turns for task in model.tasks]
    assert turns[1][:2] == turns[0]
    assert turns[1][2].content == " A **dose** of 5 mg.\n\n"
    assert turns[2][:4] == turns[1]


def editor(folder: Path, script: str) -> str:
    """An editor that is a shell script; $1 is the file."""
    place = folder / "editor.sh"
    place.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    place.chmod(0o700)
    return str(place)


def test_edit_writes_the_last_message_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    script = f'stat -c "%a %n" "$1" "$(dirname "$1")" > {seen}; cat "$1" >> {seen}; echo "second, better" > "$1"'
    monkeypatch.setenv("EDITOR", "false")
    monkeypatch.setenv("VISUAL", editor(tmp_path, script))
    model = Scripted()
    chat = chat_with(model)
    say(chat, "first", "second", "/edit")
    assert sent(model) == ["first", "second", "second, better"]
    assert len(model.tasks[2].turns) == 4
    assert [exchange.asked for exchange in chat.talk.exchanges] == ["first", "second, better"]
    file, folder, text = seen.read_text(encoding="utf-8").splitlines()
    assert (file[:3], folder[:3], text) == ("600", "700", "second")
    assert not Path(folder[4:]).exists()


@pytest.mark.parametrize("script", ["true", "exit 1", ': > "$1"', 'rm "$1"', "kill -INT $PPID; true"])
def test_an_editor_that_changes_nothing_sends_nothing(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", editor(tmp_path, script))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    model = Scripted()
    chat = chat_with(model)
    say(chat, "first", "/edit")
    assert sent(model) == ["first"]
    assert len(chat.talk.exchanges) == 1
    assert [*(tmp_path / "run").iterdir()] == []


def test_an_editor_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISUAL", "/no/such/editor")
    assert say(chat_with(Scripted()), "/edit") == [2]
    assert "VISUAL or EDITOR" in capsys.readouterr().err


def test_settings_change_the_next_reply(capsys: pytest.CaptureFixture[str]) -> None:
    model = Scripted()
    chat = chat_with(model)
    say(chat, "/set temperature 0", "/set top-k 3", "/set max-tokens 7", "/set seed 42", "/set reasoning off", "Fever?")
    task = model.tasks[0]
    assert (task.sampling.temperature, task.sampling.top_k, task.sampling.seed, task.text_tokens) == (0, 3, 42, 7)
    say(chat, "/diagnose")
    assert model.tasks[1].text_tokens == 0
    capsys.readouterr()
    say(chat, "/show")
    assert "42" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["/set", "/set temperature", "/set temperature hot", "/set top-p 2", "/set colour red"]
)
def test_a_setting_that_cannot_be_changes_nothing(line: str) -> None:
    model = Scripted()
    chat = chat_with(model)
    assert say(chat, line, "Fever?") == [2, 0]
    assert model.tasks[0].sampling == chat_of_default().tasks[0].sampling


def chat_of_default() -> Scripted:
    model = Scripted()
    say(chat_with(model), "Fever?")
    return model


def test_show_tells_settings_case_and_instructions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(Scripted(), system="Be brief.")
    say(chat, f"/case {case_file(tmp_path, CHEST_PAIN)}", "one", "/show")
    shown = capsys.readouterr().err
    for part in (
        "temperature",
        "0.6",
        "default",
        "Be brief.",
        "F1 [patient] 58 years, male",
        "Turns: 1",
        "in memory alone",
    ):
        assert part in shown


def test_stats_are_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    say(chat_with(Scripted()), "/stats")
    assert json.loads(capsys.readouterr().err)["decode_tok_s"] == 10.0


def test_the_footer_says_what_was_not_computed_again(capsys: pytest.CaptureFixture[str]) -> None:
    class Sharing(Scripted):
        def stats(self) -> dict[str, float | int | None]:
            return {"shared_tokens": 64 * sum(not queue for queue in [self._queues])}

    say(chat_with(Sharing()), "Fever?")
    assert "0 tokens reused" in capsys.readouterr().err
    say(chat_with(Scripted()), "Fever?")
    assert "reused" not in capsys.readouterr().err


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_copy_gives_the_terminal_what_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    chat = chat_with(saying("Give 5 mg, \x1b[31mnow."))
    say(chat, "What?")
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    assert say(chat, "/copy") == [0]
    code = screen.getvalue()
    assert code.startswith("\x1b]52;c;")
    assert base64.b64decode(code[7:-1]).decode() == "Give [dose: see formulary], now."


def test_copy_without_a_terminal_or_a_reply_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(Scripted())
    assert say(chat, "/copy", "one", "/copy") == [2, 0, 2]
    shown = capsys.readouterr()
    assert "no terminal" in shown.err
    assert "\x1b" not in shown.out + shown.err


def test_export_is_a_private_page_of_what_was_shown(tmp_path: Path) -> None:
    chat = chat_with(saying("Give 5 mg.", "No."), system="Be brief.")
    chat.talk.model.demonstration = True
    place = tmp_path / "talk.md"
    assert say(chat, f"/export {place}") == [2]
    say(chat, f"/case {case_file(tmp_path, CHEST_PAIN)}", "What now?", f"/export {place}")
    text = place.read_text(encoding="utf-8")
    for part in ("DEMONSTRATION", "For clinicians", "not clinically reviewed", "scripted", "Be brief.", "F1 [patient]"):
        assert part in text
    assert "## You, 2" in text
    assert "What now?\n\n## Reply\n\nGive [dose: see formulary]." in text
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
    assert say(chat, "More?", f"/export {place}") == [0, 2]
    assert place.read_text(encoding="utf-8") == text


def test_little_room_is_said_before_the_reply(capsys: pytest.CaptureFixture[str]) -> None:
    model = Scripted(context=100)
    seen: list[str] = []
    model.on_step = lambda step: seen.append(capsys.readouterr().err)
    say(chat_with(model), "Fever?")
    assert "tokens are left for this reply" in seen[0]
    say(chat_with(Scripted()), "Fever?")
    assert "are left" not in capsys.readouterr().err


def test_a_full_context_keeps_files_and_turns(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("word " * 100, encoding="utf-8")
    chat = chat_with(Scripted(context=100))
    assert say(chat, "Fever?", f"/read {letter}", "And this?") == [0, 0, 3]
    assert len(chat.talk.exchanges) == 1
    assert len(chat.talk.attached) == 1


def test_the_document_has_the_commands_and_keys_as_they_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
    assert all(table in text for table in tables().values())
