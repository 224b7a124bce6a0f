"""Invented cases for the tests of the command line."""

from __future__ import annotations

import json
from typing import Any

CHEST_PAIN: dict[str, Any] = {
    "schema": "antangel.case/1",
    "id": "chest-1",
    "patient": {"age": {"value": 58}, "sex_at_birth": "male"},
    "narrative": "Crushing chest pain for one hour with sweating.",
    "vitals": [{"name": "pulse", "value": 112, "unit": "/min"}],
}


def case_line(case_id: str, **changes: Any) -> str:
    """A case on one line."""
    return json.dumps({**CHEST_PAIN, "id": case_id, **changes})
