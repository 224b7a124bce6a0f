"""Chat: the conversation, its commands, its keys, Ctrl-C, and one run in a true terminal."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner

from antangel_cli import load
from antangel_cli.app import app
from antangel_cli.chat import Conversation, Interrupts, converse, prompt_reader
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal
from tests.cli.cases import CHEST_PAIN
from tests.cli.scripted import Scripted

RUN = CliRunner()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted()
    monkeypatch.setattr(load, "open_model", lambda settings, advance, sequences=1, announce=None: scripted)
    return scripted


@pytest.fixture
def case_file(tmp_path: Path) -> str:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(CHEST_PAIN), encoding="utf-8")
    return str(path)


def conversation(model: Scripted, **settings: Any) -> Conversation:
    return Conversation(model, Settings(seed=1, **settings), Terminal())


def typed(keys: str, model: Scripted | None = None) -> tuple[list[str], int]:
    """What a chat sends when these keys are pressed, and how it ends."""
    scripted = model or Scripted()
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys)
        code = converse(conversation(scripted), prompt_reader(pipe, DummyOutput()), interactive=True)
    return [task.turns[-1].content for task in scripted.tasks], code


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
    monkeypatch.setattr("antangel_cli.chat.Interrupts.__init__.__defaults__", (lambda: next(now),))
    assert typed("unsent\x03sent\r\x03\x03") == (["sent"], 130)


def test_an_unknown_command_is_suggested_and_never_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("/claer\r/exit\r") == ([], 0)
    assert "Did you mean /clear?" in capsys.readouterr().err


def test_replies_go_to_stdout_and_the_footer_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    typed("Fever?\r\x04")
    shown = capsys.readouterr()
    assert shown.out == "You said **Fever?**.\n\nSee a clinician.\n"
    for part in ("tokens", "tokens/s", "first after", "of 8192", "seed 1"):
        assert part in shown.err


def test_turns_add_up_and_clear_forgets(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted()
    talk = conversation(scripted)
    for message in ("one", "two", "/clear", "three"):
        talk.take(message)
    assert [turn.role for turn in scripted.tasks[1].turns] == ["system", "user", "assistant", "user"]
    assert [turn.content for turn in scripted.tasks[2].turns if turn.role == "user"] == ["three"]


def test_system_text_is_added_and_replaces_nothing() -> None:
    scripted = Scripted()
    Conversation(scripted, Settings(), Terminal(), "Answer in French.").take("hello")
    system = scripted.tasks[0].turns[0].content
    assert system.startswith("You assist clinicians.")
    assert system.endswith("\n\nAnswer in French.")


def test_a_case_begins_anew_and_its_facts_are_sent(case_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted()
    talk = conversation(scripted)
    for message in ("hello", f"/case {case_file}", "What now?"):
        talk.take(message)
    [system, user] = scripted.tasks[1].turns
    assert system.role == "system"
    assert "F1 [patient] 58 years, male" in user.content
    assert user.content.endswith("\n\nWhat now?")
    assert "JSON" not in user.content


def test_red_flags_in_what_is_written_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    conversation(Scripted()).take("Crushing chest pain for one hour with sweating, what is it?")
    assert "Red flag" in capsys.readouterr().err


def test_a_full_context_is_said_and_nothing_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted(context=40)
    words = " ".join(["word"] * 50)
    assert typed(f"{words}\r\x04", scripted) == ([], 0)
    assert "The context is full" in capsys.readouterr().err


def test_a_reply_gets_only_what_room_there_is() -> None:
    scripted = Scripted(context=60)
    conversation(scripted).take("Fever?")
    task = scripted.tasks[0]
    assert task.text_tokens == 60 - scripted.count(task.turns)


def test_one_ctrl_c_stops_the_reply_and_keeps_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted(lambda task: ("one two three four five", None))
    scripted.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None
    talk = conversation(scripted)
    talk.take("count")
    assert scripted.aborted == [0]
    scripted.on_step = lambda step: None
    talk.take("go on")
    assert scripted.tasks[1].turns[2].content == "one two"
    assert "Stopped; what came is kept." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_two_ctrl_c_within_a_second_leave() -> None:
    scripted = Scripted(lambda task: ("one two three four five", None))
    scripted.on_step = lambda step: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)] and None
    assert typed("count\r", scripted)[1] == 130


def test_a_dose_is_withheld_even_when_it_comes_in_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted(lambda task: ("Give aspirin 300 mg now.\nThen rest.", None))
    conversation(scripted).take("What now?")
    assert capsys.readouterr().out == "Give aspirin [dose: see formulary] now.\nThen rest.\n"


def test_interrupts_know_a_second() -> None:
    now = iter([0.0, 1.5, 2.4])
    interrupts = Interrupts(lambda: next(now))
    assert [interrupts.press() for _ in range(3)] == [False, False, True]


def test_without_a_terminal_each_line_is_a_message(model: Scripted) -> None:
    result = RUN.invoke(app, ["chat", "--seed", "5"], input="Fever?\n\nCough?\n")
    assert result.exit_code == 0, result.stderr
    assert [task.turns[-1].content for task in model.tasks] == ["Fever?", "Cough?"]
    assert "seed 5" in result.stderr
    assert model.closed


def test_a_random_seed_is_printed_and_used(model: Scripted) -> None:
    result = RUN.invoke(app, ["chat"], input="Fever?\n")
    assert f"seed {model.tasks[0].sampling.seed}]" in result.stderr


def test_without_a_terminal_a_failure_is_the_exit_code(model: Scripted, tmp_path: Path) -> None:
    result = RUN.invoke(app, ["chat"], input=f"/nonsense\n/case {tmp_path / 'none'}\nFever?\n")
    assert result.exit_code == 2
    assert [task.turns[-1].content for task in model.tasks] == ["Fever?"]


def test_a_case_that_is_none_ends_before_the_model_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "open_model", lambda *_: pytest.fail("the model was read"))
    path = tmp_path / "case.json"
    path.write_text("{}")
    assert RUN.invoke(app, ["chat", "--case", str(path)], input="").exit_code == 3


def test_no_input_forbids_asking(model: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Keyboard())
    with pytest.raises(SystemExit) as caught:
        app(["chat", "--no-input"])
    assert caught.value.code == 2


CHILD = """
import time
from antangel_cli import load
from antangel_cli.app import main
from tests.cli.scripted import Scripted, answer_well
def script(task):
    return ("First.\\n\\nNext.\\n\\n" + "hm " * 2000, None) if task.turns[-1].content == "count" else answer_well(task)
model = Scripted(script)
model.on_step = lambda step: time.sleep(0.01)
load.open_model = lambda settings, advance, sequences=1, announce=None: model
main()
"""


def test_chat_in_a_true_terminal() -> None:
    pexpect = pytest.importorskip("pexpect")
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(
        sys.executable,
        ["-c", CHILD, "chat", "--seed", "9"],
        env=environment,
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 100),
    )
    child.expect(">")
    child.send("What is fever?\r")
    child.expect("You said .*fever")
    child.expect("See a clinician")
    child.expect("seed 9")
    child.send("/claer\r")
    child.expect("Did you mean /clear")
    child.send("count\r")
    child.expect("First")
    child.send("\x03")
    child.expect("what came is kept")
    time.sleep(1.1)
    child.send("\x03")
    child.expect("Ctrl-C again leaves")
    child.send("\x04")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
