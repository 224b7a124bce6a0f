"""`antangel audit`: the log shown, and checked."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from antangel_cli.clinic.audit import AuditError, log_file, parsed
from antangel_cli.clinic.audit_check import Verified, raw_lines
from antangel_cli.clinic.audit_check import verify as verified
from antangel_cli.errors import OK, SOME_LINES_FAILED, UsageError
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

VERIFIED_SCHEMA = "antangel.audit_check/1"
_SHOWN = ("n", "time", "user", "command", "exit_code", "urgency", "fired", "overridden", "run_id")


def show(settings: Settings, last: int) -> int:
    """Print the last lines: as a table, or as they stand with `--json`. What is no line of ours is said to be none."""
    terminal = Terminal.of(settings)
    found = [parsed(line) for line in _last_lines(last)]
    if settings.json:
        for entry in found:
            terminal.answer(json.dumps(entry or {"damaged": True}))
        return OK
    rows = [list(_SHOWN), *([_cell(entry.get(key)) for key in _SHOWN] for entry in found)]
    terminal.answer(terminal.rows(str(log_file()), rows) if found else f"{log_file()}: no lines.")
    return OK


def _last_lines(count: int) -> deque[bytes]:
    try:
        with log_file().open("rb") as log:
            return deque(raw_lines(log), maxlen=count)
    except FileNotFoundError:
        return deque()
    except OSError as error:
        raise UsageError(f"{log_file()} cannot be read: {error.strerror}.", "Check its permissions.") from None


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def verify(settings: Settings) -> int:
    """Say whether the log is as it was written, and where it is not; exit 6 then."""
    terminal = Terminal.of(settings)
    try:
        outcome = verified()
    except AuditError as error:
        raise UsageError(f"The audit log cannot be read: {error.reason}.", "Check its permissions.") from None
    terminal.answer(json.dumps(as_record(outcome)) if settings.json else _page(outcome, settings.lang == "zh"))
    return OK if outcome.sound else SOME_LINES_FAILED


def as_record(outcome: Verified) -> dict[str, Any]:
    """The outcome for JSON; it names no path and no user."""
    return {
        "schema": VERIFIED_SCHEMA,
        "sound": outcome.sound,
        "lines": outcome.lines,
        "last": outcome.last,
        "findings": [
            {"code": found.code, "line": found.line, "last": found.last, "message": found.text()}
            for found in outcome.findings
        ],
    }


def _page(outcome: Verified, chinese: bool) -> str:
    """The verdict first, then each finding; the count and last hash are for a note kept elsewhere."""
    if chinese:
        verdict = "与写入时一致" if outcome.sound else "与写入时不一致"
        head = f"{log_file()}：{outcome.lines} 行，{verdict}。末行哈希 {outcome.last}"
    else:
        verdict = "as it was written" if outcome.sound else "NOT as it was written"
        head = f"{log_file()}: {outcome.lines} lines, {verdict}. Hash of the last: {outcome.last}"
    return "\n".join([head, *(f"  {found.text(chinese)}" for found in outcome.findings)])
