"""Chat in a true terminal: keys that need one, and Ctrl-C at every moment."""

from __future__ import annotations

import os
import signal
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from antangel_cli.chatting import shelf

pexpect = pytest.importorskip("pexpect")

CHILD = """
import os, time
from antangel_cli import load
from antangel_cli.app import main
from tests.cli.scripted import Scripted, answer_well
def script(task):
    return ("First.\\n\\nNext.\\n\\n" + "hm " * 4000, None) if task.turns[-1].content == "count" else answer_well(task)
model = Scripted(script)
def step(number):
    slow = os.environ.get("SLOW_PREFILL") and len(model.tasks) == int(os.environ["SLOW_PREFILL"]) and not model.slept
    model.slept = model.slept or slow
    time.sleep(1.5 if slow else 0.01)
model.slept = False
model.on_step = step
def open_model(settings, advance, sequences=1, announce=None):
    print("opening", flush=True)
    time.sleep(float(os.environ.get("SLOW_LOAD", "0")))
    return model
load.open_model = open_model
main()
"""


def spawn(*flags: str, **environment: str) -> Any:
    """A chat in a terminal of its own; `before` are the terminal's modes."""
    child = pexpect.spawn(
        sys.executable,
        ["-c", CHILD, "chat", "--seed", "9", *flags],
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1", "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
        encoding="utf-8",
        timeout=30,
        dimensions=(40, 100),
    )
    child.modes = termios.tcgetattr(child.child_fd)
    child.shown = ""
    return child


def expect(child: Any, text: str) -> None:
    child.expect(text)
    child.shown += child.before + child.after


def ended(child: Any) -> int:
    """The exit code, after the terminal is found as it was and its cursor is there."""
    child.expect(pexpect.EOF)
    shown = child.shown + child.before
    assert termios.tcgetattr(child.child_fd) == child.modes
    assert shown.rfind("\x1b[?25l") <= shown.rfind("\x1b[?25h")
    assert shown.rfind("\x1b[?2004h") <= shown.rfind("\x1b[?2004l")
    child.close()
    return int(child.exitstatus)


def test_a_conversation() -> None:
    child = spawn()
    expect(child, ">")
    child.send("What is fever?\r")
    expect(child, "You said .*fever")
    expect(child, "See a clinician")
    expect(child, "seed 9")
    child.send("/claer\r")
    expect(child, "Did you mean /clear")
    child.send("count\r")
    expect(child, "First")
    child.send("\x03")
    expect(child, "what came is kept")
    time.sleep(1.1)
    child.send("\x03")
    expect(child, "Ctrl-C again leaves")
    child.send("\x04")
    assert ended(child) == 0


def test_tab_ctrl_r_and_the_suggestion() -> None:
    child = spawn()
    expect(child, ">")
    child.send("Fever in a child?\r")
    expect(child, "seed 9")
    child.send("Cough?\r")
    expect(child, "seed 9")
    child.send("\x12")
    time.sleep(0.5)
    child.send("chi")
    time.sleep(0.5)
    child.send("\r")
    time.sleep(0.5)
    child.send("\x05 Again?\r")
    expect(child, "You said .*Again")
    expect(child, "seed 9")
    child.send("Cou")
    time.sleep(0.5)
    child.send("\x1b[C")
    time.sleep(0.2)
    child.send("\r")
    expect(child, "You said .*Cough")
    expect(child, "seed 9")
    child.send("/exi\t")
    time.sleep(0.5)
    child.send("\r")
    assert ended(child) == 0


def test_ctrl_c_while_the_model_is_loaded() -> None:
    child = spawn(SLOW_LOAD="30")
    expect(child, "opening")
    child.send("\x03")
    assert ended(child) == 130


def test_ctrl_c_while_the_prompt_is_read_stops_and_keeps_nothing_half_written() -> None:
    child = spawn("--session", "mine", SLOW_PREFILL="1")
    expect(child, ">")
    child.send("Fever?\r")
    time.sleep(0.7)
    child.send("\x03")
    expect(child, "Stopped")
    child.send("Cough?\r")
    expect(child, "You said .*Cough")
    expect(child, "seed 9")
    child.send("\x04")
    assert ended(child) == 0
    assert [path.name for path in shelf.folder().iterdir()] == ["mine.json"]
    assert len(shelf.read("mine").turns) == 2


@pytest.mark.parametrize("message", ["count", "/diagnose"])
def test_ctrl_c_twice_leaves_in_the_middle_of_an_answer(message: str) -> None:
    child = spawn("--session", "mine", SLOW_PREFILL="2")
    expect(child, ">")
    child.send("Fever?\r")
    expect(child, "seed 9")
    child.send(f"{message}\r")
    time.sleep(0.7)
    child.send("\x03")
    time.sleep(0.2)
    child.send("\x03")
    assert ended(child) == 130
    assert [turn.asked for turn in shelf.read("mine").turns] == ["Fever?"]
    assert [path.name for path in shelf.folder().iterdir()] == ["mine.json"]


def test_ctrl_c_twice_at_the_prompt_leaves() -> None:
    child = spawn()
    expect(child, ">")
    child.send("half a line\x03")
    expect(child, "again leaves")
    child.send("\x03")
    assert ended(child) == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("message", ["", "count\r"])
def test_what_ends_the_process_leaves_the_terminal_as_it_was(message: str, number: signal.Signals) -> None:
    child = spawn()
    expect(child, ">")
    child.send(message)
    time.sleep(0.7)
    os.kill(child.pid, number)
    assert ended(child) == 128 + number


@pytest.fixture
def waiting_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An editor that says where its file is, and waits; its folder is under the one that is returned."""
    place = tmp_path / "run"
    place.mkdir(mode=0o700)
    script = tmp_path / "editor.sh"
    script.write_text(
        "#!/bin/sh\ntrap 'echo caught' INT\necho editing\nread answer || read answer\necho more > \"$1\"\n",
        encoding="utf-8",
    )
    script.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(script))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    return place


@pytest.mark.parametrize("keys", ["/edit\r", "half\x18\x05"])
def test_ctrl_c_in_the_editor_is_the_editors(keys: str, waiting_editor: Path) -> None:
    child = spawn()
    expect(child, ">")
    child.send(keys)
    expect(child, "editing")
    assert len([*waiting_editor.iterdir()]) == 1
    child.send("\x03")
    time.sleep(0.3)
    child.send("\r")
    if "half" in keys:
        time.sleep(1)
        child.send("\r")
    expect(child, "You said .*more")
    expect(child, "seed 9")
    assert [*waiting_editor.iterdir()] == []
    child.send("\x04")
    assert ended(child) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_process_removes_the_editors_file(number: signal.Signals, waiting_editor: Path) -> None:
    child = spawn()
    expect(child, ">")
    child.send("/edit\r")
    expect(child, "editing")
    assert len([*waiting_editor.iterdir()]) == 1
    os.kill(child.pid, number)
    assert ended(child) == 128 + number
    assert [*waiting_editor.iterdir()] == []
