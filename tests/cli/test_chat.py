"""Chat: the conversation, Ctrl-C, messages on stdin."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path

import pytest

from antangel_cli import load
from antangel_cli.app import app
from antangel_cli.chatting.interrupts import Interrupts
from tests.cli.cases import CHEST_PAIN
from tests.cli.chats import case_file, chat_with, roles, run, say, sent, typed, use
from tests.cli.scripted import Scripted


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return use(monkeypatch, Scripted())


def test_replies_go_to_stdout_and_the_footer_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    typed("Fever?\r\x04")
    shown = capsys.readouterr()
    assert shown.out == "You said **Fever?**.\n\nSee a clinician.\n"
    for part in ("tokens", "tokens/s", "first after", "of 8192", "seed 1"):
        assert part in shown.err


def test_turns_add_up_and_clear_forgets(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted()
    talk = chat_with(scripted)
    say(talk, "one", "two", "/clear", "three")
    assert roles(scripted.tasks[1]) == ["system", "user", "assistant", "user"]
    assert [turn.content for turn in scripted.tasks[2].turns if turn.role == "user"] == ["three"]


def test_system_text_is_added_and_replaces_nothing() -> None:
    scripted = Scripted()
    say(chat_with(scripted, system="Answer in French."), "hello")
    system = scripted.tasks[0].turns[0].content
    assert system.startswith("You assist clinicians.")
    assert system.endswith("\n\nAnswer in French.")


def test_a_case_begins_anew_and_its_facts_are_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted()
    talk = chat_with(scripted)
    say(talk, "hello", f"/case {case_file(tmp_path, CHEST_PAIN)}", "What now?")
    [system, user] = scripted.tasks[1].turns
    assert system.role == "system"
    assert "F1 [patient] 58 years, male" in user.content
    assert user.content.endswith("\n\nWhat now?")
    assert "JSON" not in user.content


def test_red_flags_in_what_is_written_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    say(chat_with(Scripted()), "Crushing chest pain for one hour with sweating, what is it?")
    assert "Red flag" in capsys.readouterr().err


def test_a_full_context_is_said_and_nothing_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted(context=40)
    words = " ".join(["word"] * 50)
    assert typed(f"{words}\r\x04", scripted) == ([], 0)
    assert "The context is full" in capsys.readouterr().err


def test_a_reply_gets_only_what_room_there_is() -> None:
    scripted = Scripted(context=60)
    say(chat_with(scripted), "Fever?")
    task = scripted.tasks[0]
    assert task.text_tokens == 60 - scripted.count(task.turns)


def test_one_ctrl_c_stops_the_reply_and_keeps_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted(lambda task: ("one two three four five", None))
    scripted.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None
    talk = chat_with(scripted)
    say(talk, "count")
    assert scripted.aborted == [0]
    scripted.on_step = lambda step: None
    say(talk, "go on")
    assert scripted.tasks[1].turns[2].content == "one two"
    assert "Stopped; what came is kept." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_two_ctrl_c_within_a_second_leave() -> None:
    scripted = Scripted(lambda task: ("one two three four five", None))
    scripted.on_step = lambda step: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)] and None
    with pytest.raises(KeyboardInterrupt):
        typed("count\r", scripted)


def test_a_dose_is_withheld_even_when_it_comes_in_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted(lambda task: ("Give aspirin 300 mg now.\nThen rest.", None))
    say(chat_with(scripted), "What now?")
    assert capsys.readouterr().out == "Give aspirin [dose: see formulary] now.\nThen rest.\n"


def test_without_a_terminal_one_ctrl_c_is_enough(model: Scripted) -> None:
    model.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None
    result = run(input="one\ntwo\n")
    assert result.exit_code == 130
    assert sent(model) == ["one"]


def test_interrupts_know_a_second() -> None:
    now = iter([0.0, 1.5, 2.4])
    interrupts = Interrupts(lambda: next(now))
    assert [interrupts.press() for _ in range(3)] == [False, False, True]


def test_without_a_terminal_each_line_is_a_message(model: Scripted) -> None:
    result = run("--seed", "5", input="Fever?\n\nCough?\n")
    assert result.exit_code == 0, result.stderr
    assert [task.turns[-1].content for task in model.tasks] == ["Fever?", "Cough?"]
    assert "seed 5" in result.stderr
    assert model.closed


def test_a_random_seed_is_printed_and_used(model: Scripted) -> None:
    result = run(input="Fever?\n")
    assert f"seed {model.tasks[0].sampling.seed}]" in result.stderr


def test_without_a_terminal_a_failure_is_the_exit_code(model: Scripted, tmp_path: Path) -> None:
    result = run(input=f"/nonsense\n/case {tmp_path / 'none'}\nFever?\n")
    assert result.exit_code == 2
    assert [task.turns[-1].content for task in model.tasks] == ["Fever?"]


def test_a_case_that_is_none_ends_before_the_model_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "open_model", lambda *_: pytest.fail("the model was read"))
    path = tmp_path / "case.json"
    path.write_text("{}")
    assert run("--case", str(path)).exit_code == 3


def test_no_input_forbids_asking(model: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Keyboard())
    with pytest.raises(SystemExit) as caught:
        app(["chat", "--no-input"])
    assert caught.value.code == 2


@pytest.mark.parametrize("line", [b"\xff\xfe", b"x" * (1 << 20), b"x" * (3 << 20)], ids=["no UTF-8", "1 MiB", "3 MiB"])
def test_a_line_that_cannot_be_read_is_passed_by(line: bytes, model: Scripted) -> None:
    result = run(input=b"Fever?\n" + line + b"\nCough?\n")
    assert result.exit_code == 3
    assert sent(model) == ["Fever?", "Cough?"]


def test_characters_that_nobody_sees_are_dropped_from_messages(model: Scripted) -> None:
    run(input="\ufeffFe\u200bver\u202e?\x1b[31m\n")
    assert sent(model) == ["Fever?[31m"]
