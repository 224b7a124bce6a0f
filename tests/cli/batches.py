"""Batches for tests: a run with a scripted model, and what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from antangel_cli import load
from antangel_cli.app import app
from antangel_cli.clinic.equality import canonical
from antangel_cli.clinic.model import Task
from tests.cli.cases import case_line
from tests.cli.scripted import Scripted, answer_well

RUN = CliRunner()
Record = dict[str, Any]


def use(monkeypatch: pytest.MonkeyPatch, scripted: Scripted) -> Scripted:
    """Let this model answer."""
    monkeypatch.setattr(load, "open_model", lambda *_, **__: scripted)
    return scripted


def run_batch(lines: Sequence[str], *flags: str) -> Result:
    """One batch over these lines."""
    return RUN.invoke(app, ["batch", *flags], input="\n".join(lines).encode())


def cases(count: int, **changes: Any) -> list[str]:
    """So many cases, each a little different from the last."""
    return [case_line(f"c{i}", narrative=f"Chest pain for {i + 1} hours.", **changes) for i in range(count)]


def records(path: Path) -> list[Record]:
    """The records in a file, that ends with a line's end."""
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def ids(found: Sequence[Record]) -> list[str | None]:
    """Each record's id."""
    return [record["custom_id"] if "response" in record else record["id"] for record in found]


def same(one: Sequence[Record], other: Sequence[Record]) -> bool:
    """Whether two outputs are equal line by line, fingerprints included."""
    return [(canonical(r), r["fingerprint"]) for r in one] == [(canonical(r), r["fingerprint"]) for r in other]


def failing(*words: str) -> Scripted:
    """A model that comes to nothing about cases in which one of the words is."""

    def script(task: Task) -> tuple[str, str | None]:
        text, answer = answer_well(task)
        return text, "{}" if any(word in task.turns[-1].content for word in words) else answer

    return Scripted(script)


def stopping(step: int, how: Callable[[], None]) -> Scripted:
    """A model at whose n-th step something happens."""
    scripted = Scripted()
    scripted.on_step = lambda number: how() if number == step else None
    return scripted


CHILD = """
import sys, time
from antangel_cli import load
from antangel_cli.app import main
from tests.cli.scripted import Scripted
def opened(*_, **__):
    model = Scripted()
    model.on_step = lambda step: time.sleep({pause})
    return model
load.open_model = opened
main()
"""


def child(*arguments: str, pause: float = 0.0, **pipes: Any) -> subprocess.Popen[bytes]:
    """The program in a process of its own, with a scripted model that pauses at each step."""
    code = CHILD.format(pause=pause)
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=root, env=os.environ, **pipes)
