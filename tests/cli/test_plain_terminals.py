"""What a terminal shows that is narrow, cannot move its cursor, or is asked for a text."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from antangel_cli.chatting.commands import COMMANDS, KEYS, help_text
from tests.cli.test_chat_terminal import spawn

pexpect = pytest.importorskip("pexpect")


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_the_help_of_a_chat_keeps_its_columns(columns: int) -> None:
    lines = help_text(columns).splitlines()
    assert max(map(len, lines)) <= columns
    left = max(len(form) for form in (*(command.form for command in COMMANDS), *(form for form, _ in KEYS)))
    beside = [line[:left].strip() for line in lines]
    assert [form for form in beside if form] == [*(c.form for c in COMMANDS), *(form for form, _ in KEYS)]
    told = " ".join(line[left:].strip() for line in lines)
    assert told == " ".join((*(c.meaning for c in COMMANDS), *(meaning for _, meaning in KEYS)))


def test_a_terminal_that_cannot_move_its_cursor_gets_no_escapes() -> None:
    child = spawn(TERM="dumb")
    child.expect("> ")
    child.sendline("What confirms gout?")
    child.expect("> ")
    child.sendline("/exit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "\x1b" not in child.before


def test_ctrl_c_leaves_such_a_terminal_when_pressed_twice() -> None:
    child = spawn(TERM="dumb")
    child.expect("> ")
    child.sendintr()
    child.expect("Ctrl-C again leaves.")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130


def program(*arguments: str) -> Any:
    return pexpect.spawn(sys.executable, ["-m", "antangel_cli", *arguments], encoding="utf-8", timeout=30)


def test_a_terminal_is_told_what_is_waited_for() -> None:
    child = program("validate", "-", "-q")
    child.expect("Ctrl-D ends it")
    child.sendline("Cough for two days.")
    child.sendeof()
    child.expect("F1  text  Cough for two days.")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ctrl_c_while_the_program_is_loaded_ends_it_without_a_traceback() -> None:
    """The first import of the program waits, so that the signal surely comes before the end of loading."""
    code = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'antangel_cli.app':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from antangel_cli.__main__ import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60, env=os.environ)
    assert (result.returncode, result.stdout, result.stderr) == (-2, b"", b"")
