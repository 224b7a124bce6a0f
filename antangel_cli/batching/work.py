"""One line on its way: work in the model, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from antangel_cli.auditing import Audit
from antangel_cli.batching.fingerprint import Fingerprint
from antangel_cli.clinic.diagnose import DiagnoseRun
from antangel_cli.clinic.model import Piece
from antangel_cli.clinic.result import SCHEMA_ID
from antangel_cli.errors import CommandError, GenerationError, RejectedError

Record = dict[str, Any]
Log = Callable[[Audit, str], None]
"""Writes the audit line of a line of output, which it is given as it stands."""


@dataclass(frozen=True)
class Done:
    """What came of a line: its record, and what is counted of it.

    `judged` is what `--fail-on` looks at, `seconds` the time in the model, `offset` where the line is already.
    """

    record: Record = field(repr=False)
    status: str
    code: str | None = None
    judged: Mapping[str, Any] = field(default_factory=dict, repr=False)
    seconds: float | None = None
    offset: int | None = None
    log: Log | None = None


class Work(Protocol):
    """A line that the model is at work on."""

    @property
    def tasks(self) -> tuple[int, ...]:
        """The numbers of its tasks."""

    @property
    def done(self) -> bool:
        """Whether nothing more comes."""

    def feed(self, piece: Piece) -> None:
        """Take a piece of one of its tasks."""

    def outcome(self) -> Done:
        """What came of it, once it is done."""


class CaseWork:
    """A case that is being diagnosed."""

    def __init__(self, run: DiagnoseRun, fingerprint: Fingerprint | None) -> None:
        self._run = run
        self._fingerprint = fingerprint

    @property
    def tasks(self) -> tuple[int, ...]:
        """Those of all samples and tries."""
        return self._run.tasks

    @property
    def done(self) -> bool:
        """Whether there is an answer or no hope of one."""
        return self._run.done

    def feed(self, piece: Piece) -> None:
        """Take a piece."""
        self._run.feed(piece)

    def outcome(self) -> Done:
        """The result."""
        return case_done(signed(self._run.record(), self._fingerprint), self._run.seconds)


def case_done(record: Record, seconds: float | None = None, offset: int | None = None) -> Done:
    """A result, or the error that a case ended in."""
    code = record["error"]["code"] if record["status"] == "error" else None
    return Done(record, record["status"], code, record, seconds, offset, lambda audit, line: _log(audit, record, line))


def failed_line(case_id: str | None, line: int, reason: CommandError, fingerprint: Fingerprint | None) -> Done:
    """The output line of an input line that came to nothing."""
    record = {"schema": SCHEMA_ID, "id": case_id, "line": line, "status": "error", "error": reason.record}
    return case_done(signed(record, fingerprint))


def signed(record: Record, fingerprint: Fingerprint | None) -> Record:
    """A record with its fingerprint, where there is one."""
    return record if fingerprint is None else {**record, "fingerprint": fingerprint}


def _log(audit: Audit, record: Record, line: str) -> None:
    audit.result(record, line, _exit_code(record))


def _exit_code(record: Mapping[str, Any]) -> int:
    """The exit code that the line alone would have ended with."""
    if record["status"] != "error":
        return 0
    return GenerationError.exit_code if record.get("run_id") else RejectedError.exit_code
