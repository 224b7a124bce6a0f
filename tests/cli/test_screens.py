"""What a person sees, whole, on two terminals: the pages, the remarks around them, and mistakes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from wcwidth import wcswidth

from antangel_cli import load, source
from antangel_cli.app import app
from tests.cli.cases import CHEST_PAIN, case_line
from tests.cli.screen import SIZES, same_as_kept, terminal
from tests.cli.scripted import Scripted

ROOT = Path(__file__).resolve().parents[2]
CASE = "CASE.json"
CHILD = "CHILD.json"

RUNS: dict[str, tuple[list[str], int]] = {
    "bare": ([], 0),
    "diagnose": (["diagnose", CASE], 0),
    "diagnose-plain": (["diagnose", CASE, "--plain"], 0),
    "diagnose-quiet": (["diagnose", CASE, "-q"], 0),
    "diagnose-zh": (["diagnose", str(ROOT / "examples" / "appendicitis-zh.json")], 0),
    "demonstration": (["diagnose", CASE, "-q"], 0),
    "validate": (["validate", CASE], 0),
    "validate-child": (["validate", CHILD], 0),
    "ask": (["ask", "What confirms gout?"], 0),
    "batch": (["batch", "CASES.jsonl", "-o", "out.jsonl"], 6),
    "no-such-command": (["diagnos"], 2),
    "no-such-file": (["diagnose", "nowhere.json"], 2),
    "no-case": (["diagnose", "BAD.json"], 3),
    "flag-out-of-range": (["diagnose", CASE, "--max-dx", "2"], 2),
}

VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?Z?"), "TIME"),
    (re.compile(r"[\d.]+ (cases/min|tokens/s|s\b)"), r"# \1"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "HASH"),
    (re.compile(r"(a line, \w+ +│ +)[\d.]+"), r"\1#.#"),
    (re.compile(r"first after [\d.-]+"), "first after #"),
)


def settled(text: str) -> str:
    """A screen without what differs between runs and machines: figures, and where a line of them is broken."""
    text = re.sub(r"\d+ lines: [^┌]*?tokens/s", lambda found: " ".join(found[0].split()), text)
    for pattern, name in VARIES:
        text = pattern.sub(name, text)
    return re.sub(r" +$", "", text, flags=re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working directory whose names are the same everywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/you/.config")
    (tmp_path / CASE).write_text(json.dumps(CHEST_PAIN), encoding="utf-8")
    child = {**CHEST_PAIN, "id": "child-1", "patient": {"age": {"value": 4}, "sex_at_birth": "female"}}
    (tmp_path / CHILD).write_text(json.dumps(child), encoding="utf-8")
    (tmp_path / "BAD.json").write_text('{"schema": "antangel.case/1",\n  "narative": "pain"}', encoding="utf-8")
    (tmp_path / "CASES.jsonl").write_text(f"{case_line('a')}\n{{broken\n{case_line('b')}\n", encoding="utf-8")
    monkeypatch.setattr(source, "commit", lambda: None, raising=False)
    return tmp_path


@pytest.mark.parametrize("size", SIZES, ids=["80x24", "120x40"])
@pytest.mark.parametrize("name", RUNS)
def test_a_screen_is_as_kept(name: str, size: tuple[int, int], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, code = RUNS[name]
    scripted = Scripted(demonstration=name == "demonstration")
    monkeypatch.setattr(load, "open_model", lambda settings, advance, sequences=1, announce=None: scripted)
    screen = terminal(monkeypatch, *size)
    monkeypatch.setattr(sys, "argv", ["antangel", *arguments])
    with pytest.raises(SystemExit) as end:
        app()
    assert (end.value.code or 0) == code
    same_as_kept(f"{size[0]}x{size[1]}/{name}", settled(screen.text))


@pytest.mark.parametrize("columns", [40, 80])
def test_prose_is_broken_between_words(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, columns, 24)
    monkeypatch.setattr(sys, "argv", ["antangel", "about"])
    with pytest.raises(SystemExit):
        app()
    assert "For clinicians and clinical informaticians who look at a case a second time." in " ".join(
        screen.text.split()
    )
    assert max(map(wcswidth, screen.lines)) <= columns
