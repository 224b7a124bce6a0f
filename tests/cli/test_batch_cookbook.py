"""The commands of docs/batch.md do what stands above them, in a shell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.batches import CHILD, cases, ids, records
from tests.cli.cases import case_line

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = dict(
    re.findall(r"^(\S[^\n]*(?:\n\S[^\n]*)*):\n\n```sh\n(.*?)```", (ROOT / "docs" / "batch.md").read_text(), re.M | re.S)
)

pytestmark = pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an input, notes and questions, and `antangel` on the path with a scripted model."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "child.py").write_text(CHILD.format(pause=0))
    program = tmp_path / "bin" / "antangel"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {tmp_path / "child.py"} "$@"\n')
    program.chmod(0o700)
    (tmp_path / "cases.jsonl").write_text(
        "\n".join([*(case_line(f"c{i}") for i in range(3)), case_line("c3", narrative="A cough.", vitals=[])]) + "\n"
    )
    (tmp_path / "questions.txt").write_text("What confirms gout?\nWhat confirms measles?\n")
    (tmp_path / "notes").mkdir()
    for name in ("one", "two"):
        (tmp_path / "notes" / f"{name}.txt").write_text(f"Fever\nand cough, {name}.\n")
    return tmp_path


def shell(folder: Path, title: str, code: int = 0) -> str:
    """Run the block under the sentence that begins so, and give what it prints."""
    [block] = [block for name, block in BLOCKS.items() if name.startswith(title)]
    path = {"PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(["bash", "-euc", block], cwd=folder, env=path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, ""), done.stderr
    return done.stdout


def test_every_block_is_run() -> None:
    source = Path(__file__).read_text()
    assert len(BLOCKS) == (ROOT / "docs" / "batch.md").read_text().count("```sh")
    assert [title for title in BLOCKS if not re.search(rf'shell\(folder, "{re.escape(title[:10])}', source)] == []


def test_a_check_before_any_model(folder: Path) -> None:
    (folder / "cases.jsonl").write_text(cases(1)[0] + "\n{\n")
    assert shell(folder, "Check a file") == "line 2: bad_json\n"


def test_urgency_and_first_diagnosis(folder: Path) -> None:
    rows = [line.split("\t") for line in shell(folder, "The urgency and").splitlines()]
    assert rows[0] == ["c0", "emergency", "Acute coronary syndrome"]
    assert [row[0] for row in rows] == ["c0", "c1", "c2", "c3"]
    assert shell(folder, "Go on after") == ""
    assert shell(folder, "The same with a redirect") == ""
    assert shell(folder, "Try again what failed") == ""
    assert ids(records(folder / "out.jsonl")) == ["c0", "c1", "c2", "c3"]


def test_emergencies_alone(folder: Path) -> None:
    shell(folder, "Only what is")
    assert ids(records(folder / "emergencies.jsonl")) == ["c0", "c1", "c2"]


def test_text_files_to_lines(folder: Path) -> None:
    shell(folder, "Text files")
    assert ids(records(folder / "notes-out.jsonl")) == ["one", "two"]
    assert {json.loads(line)["case"].count("\n") for line in (folder / "notes.jsonl").read_text().splitlines()} == {2}


def test_many_files(folder: Path) -> None:
    (folder / "wards").mkdir()
    for name in ("east", "west 2"):
        (folder / "wards" / f"{name}.jsonl").write_text(case_line(name[:4]) + "\n")
    for _ in range(2):
        shell(folder, "Many files with")
        assert ids(records(folder / "wards" / "east.jsonl.out")) == ["east"]
        assert ids(records(folder / "wards" / "west 2.jsonl.out")) == ["west"]
    assert len(list((folder / "wards").iterdir())) == 4


def test_two_machines(folder: Path) -> None:
    shell(folder, "Two machines")
    assert ids(records(folder / "joined.jsonl")) == ["c0", "c1", "c2", "c3"]
    parts = [*records(folder / "out-1.jsonl"), *records(folder / "out-2.jsonl")]
    assert records(folder / "joined.jsonl") == parts
    assert len(records(folder / "out-1.jsonl")) in (1, 2, 3)


def test_cron(folder: Path) -> None:
    assert shell(folder, "Each night from cron") == 'batch: exit 10, {"ok":4}\n'
    assert json.loads((folder / "summary.json").read_text())["reused"] == 0
    assert shell(folder, "Each night from cron") == 'batch: exit 10, {"ok":4}\n'
    assert json.loads((folder / "summary.json").read_text())["reused"] == 4


def test_openai_lines(folder: Path) -> None:
    said = shell(folder, "OpenAI lines from").splitlines()
    assert said[0] == "q-1: You said **gout?**."
    assert [line for line in said if line.startswith("q-")] == [said[0], "q-2: You said **measles?**."]
