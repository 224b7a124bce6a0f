"""Prompts: versioned text from prompts/, and the message a case becomes."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from functools import cache

from antangel_cli import ROOT
from antangel_cli.clinic.case import Case
from antangel_cli.clinic.facts import Fact, fact_line, facts

THINK_OPEN = "\n<think>\n"
THINK_CLOSE = "\n</think>\n\n"
"""What surrounds the reasoning in an assistant turn (reference, section 10: the reasoning of the last turn)."""


@dataclass(frozen=True)
class Prompt:
    """The text of one task in one language, with what provenance records about it."""

    id: str
    version: str
    system: str = field(repr=False)
    instructions: str = field(repr=False)

    @property
    def hash(self) -> str:
        """SHA-256 over all of the prompt's text."""
        return hashlib.sha256(f"{self.system}\0{self.instructions}".encode()).hexdigest()


@cache
def load_prompt(task: str, chinese: bool) -> Prompt:
    """The prompt of `prompts/tasks/<task>.toml`, in Chinese or English."""
    data = tomllib.loads((ROOT / "prompts" / "tasks" / f"{task}.toml").read_text(encoding="utf-8"))
    system = (ROOT / "prompts" / ("system.zh.md" if chinese else "system.md")).read_text(encoding="utf-8").strip()
    return Prompt(data["id"], data["version"], system, data["zh" if chinese else "en"]["instructions"].strip())


def case_message(case: Case, chinese: bool, numbered: tuple[Fact, ...] | None = None) -> str:
    """The user message for `diagnose`: instructions, then the facts inside a fence named after their hash.

    The fence's name depends on the whole case, so text inside a case cannot be written to close it, yet the same case
    always makes the same prompt.
    """
    rows = facts(case) if numbered is None else numbered
    lines = [fact_line(fact, chinese) for fact in rows]
    if case.question:
        lines.append(f"{'[问题]' if chinese else '[question]'} {' '.join(case.question.split())}")
    body = "\n".join(lines)
    mark = hashlib.sha256(body.encode()).hexdigest()[:4]
    return f"{load_prompt('diagnose', chinese).instructions}\n<case {mark}>\n{body}\n</case {mark}>"
