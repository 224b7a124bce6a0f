"""JSON: the record as it is, without anything that could steer a terminal or end a line."""

from __future__ import annotations

import json
import re
from typing import Any

from antangel_cli.clinic.case import Case

_STEERING = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What JSON may hold as it is, and a terminal obeys or some readers of lines take for an end."""


def dumped(content: Any, indent: int | None = None) -> str:
    """JSON with non-ASCII kept, but for what steers, which is escaped: to a program it is the same."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return _STEERING.sub(lambda char: f"\\u{ord(char[0]):04x}", text)


def write_json(record: dict[str, Any], case: Case, plain: bool, width: int, lang: str | None) -> str:
    """The record, indented by two, non-ASCII kept."""
    del case, plain, width, lang
    return dumped(record, 2) + "\n"
