"""Every command of the program, with arguments under which it does its work; tests run all of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from typer.main import get_command

from antangel_cli.app import app
from tests.cli.cases import CHEST_PAIN, case_line

ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT / "bench" / "traces" / "nano-cases.jsonl.gz"
NANO = str(ROOT / "nano" / "checkpoint")

Run = tuple[list[str], str]
"""Arguments, and what is on stdin."""


def registered() -> set[str]:
    """The names of all commands, those of groups with their group's."""
    return set(_names(get_command(app), ""))


def _names(group: Any, prefix: str) -> Iterator[str]:
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from _names(found, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def runs(folder: Path) -> Mapping[str, Run]:
    """One run of each command, by name; it may write into `folder`. Those in `ASKING` need a model."""
    case, result = folder / "case.json", folder / "result.json"
    case.write_text(json.dumps(CHEST_PAIN), encoding="utf-8")
    result.write_text(json.dumps({"schema": "antangel.ddx/1", "status": "ok"}), encoding="utf-8")
    gold = folder / "gold.jsonl"
    gold.write_text(case_line("g1", gold={"diagnosis": "Acute coronary syndrome"}), encoding="utf-8")
    trace = folder / "trace.jsonl"
    with gzip.open(TRACE, "rt", encoding="utf-8") as whole:
        trace.write_text("".join(islice(whole, 8)), encoding="utf-8")
    return {
        "diagnose": (["diagnose", str(case), "-o", str(folder / "out.json"), "--json"], ""),
        "batch": (["batch", "-o", str(folder / "out.jsonl")], case_line("b1")),
        "ask": (["ask", "-"], "What confirms gout?"),
        "chat": (["chat"], "What confirms gout?\n"),
        "validate": (["validate", str(case)], ""),
        "schema": (["schema", "case"], ""),
        "about": (["about"], ""),
        "report": (["report", str(result), "-o", str(folder / "report.zip")], ""),
        "doctor": (["doctor"], ""),
        "plan": (["plan", NANO], ""),
        "pack": (["pack", NANO, "-o", str(folder / "packed")], ""),
        "bench": (["bench", "--replay", str(trace)], ""),
        "eval": (["eval", str(gold)], ""),
        "config show": (["config", "show"], ""),
        "config path": (["config", "path"], ""),
        "audit show": (["audit", "show"], ""),
        "audit verify": (["audit", "verify"], ""),
    }


ASKING = ("diagnose", "batch", "ask", "chat", "eval")
"""The commands that are given a scripted model."""
