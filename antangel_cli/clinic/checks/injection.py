"""Injection: text in a case that reads like an instruction to the model. Reported, never deleted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from antangel_cli.clinic.checks.text_folding import folded
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules

PATTERNS = {name: re.compile(pattern) for name, pattern in load_rules("injection").items()}


def injection_suspected(rows: Sequence[Fact], question: str | None) -> tuple[dict[str, Any], ...]:
    """Which facts, or the question, look like instructions, and of which kind."""
    texts = [(fact.id, fact.text) for fact in rows] + ([("question", question)] if question else [])
    return tuple(
        {"fact_id": place, "pattern": name}
        for place, text in texts
        for name, pattern in PATTERNS.items()
        if pattern.search(folded(text))
    )
