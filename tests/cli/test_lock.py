"""A model answers one process at a time: the second exits 75 and is told who has it, or waits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from antangel_cli.source import EMBEDDED
from runtime import write_pack

ROOT = Path(__file__).resolve().parent.parent.parent
ASK = ["ask", "What confirms Kidney stone?", "--max-tokens", "4", "--context", "512"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nano") / "model"
    write_pack(EMBEDDED, place)
    return place


def antangel(model: Path, home: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "antangel_cli", *words, "-m", str(model)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **streams)  # type: ignore[call-overload, no-any-return]


@contextmanager
def chatting(model: Path, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A chat that has answered once and waits for the next line, so that it has the model."""
    with antangel(model, home, "chat", "--max-tokens", "4", "--context", "512") as chat:
        assert chat.stdin is not None
        assert chat.stdout is not None
        chat.stdin.write("Hello\n")
        chat.stdin.flush()
        assert chat.stdout.read(1)
        try:
            yield chat
        finally:
            chat.kill()


def test_the_second_exits_75_and_names_the_first_but_no_words(model: Path, tmp_path: Path) -> None:
    with chatting(model, tmp_path) as chat:
        second = antangel(model, tmp_path, *ASK)
        answer, said = second.communicate(timeout=120)
        assert (second.returncode, answer) == (75, "")
        assert re.search(rf"model is in use by process {chat.pid}, user \S+, since .*: antangel chat\.", said)
        assert "--wait" in said


def test_a_holder_that_is_killed_frees_it(model: Path, tmp_path: Path) -> None:
    with chatting(model, tmp_path) as chat:
        chat.kill()
        chat.wait(timeout=20)
        second = antangel(model, tmp_path, *ASK)
        second.communicate(timeout=120)
        assert second.returncode == 0


def test_told_to_wait_it_answers_when_the_first_has_ended(model: Path, tmp_path: Path) -> None:
    with chatting(model, tmp_path) as chat:
        second = antangel(model, tmp_path, *ASK, "--wait")
        assert second.stderr is not None
        said = ""
        while "Waiting for" not in said:
            line = second.stderr.readline()
            assert line, said
            said += line
        assert f"process {chat.pid}," in said
        assert second.poll() is None
        chat.communicate("", timeout=120)
        answer, rest = second.communicate(timeout=120)
        assert second.returncode == 0
        assert answer
        assert "Waiting" not in rest
