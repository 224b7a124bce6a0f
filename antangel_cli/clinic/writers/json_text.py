"""JSON: the record as it is."""

from __future__ import annotations

import json
from typing import Any

from antangel_cli.clinic.case import Case


def write_json(record: dict[str, Any], case: Case, plain: bool, width: int, lang: str | None) -> str:
    """The record, indented by two, non-ASCII kept."""
    del case, plain, width, lang
    return json.dumps(record, ensure_ascii=False, indent=2) + "\n"
