"""`antangel batch`: JSON lines in, JSON lines out, many cases in flight."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.announce import announce, opened, print_stats
from antangel_cli.auditing import Audit, audited
from antangel_cli.case_lines import BadLineError, read_line
from antangel_cli.cases import Checked, diagnose_options
from antangel_cli.clinic.case import Case
from antangel_cli.clinic.diagnose import DiagnoseOptions, DiagnoseRun
from antangel_cli.clinic.model import Model
from antangel_cli.clinic.result import SCHEMA_ID
from antangel_cli.clinic.writers.json_text import dumped
from antangel_cli.errors import FAIL_ON, SOME_LINES_FAILED, CommandError, GenerationError, RejectedError, UsageError
from antangel_cli.files import STDIN, open_input, open_lines, require_writable
from antangel_cli.lines import Line, Lines
from antangel_cli.options import BatchOptions, CaseOptions
from antangel_cli.outcome import describe
from antangel_cli.settings import Settings
from antangel_cli.stop import Stop
from antangel_cli.terminal import Advance, Terminal
from antangel_cli.urgency import reaches

AUTO_CONCURRENCY = 4
WAITING_PER_RUN = 8
"""How many finished results may wait behind a slow one, for each case in flight."""
POLL_S = 0.2

Record = dict[str, Any]
Write = Callable[[str], None]


def batch(settings: Settings, file: str | None, options: CaseOptions, limits: BatchOptions) -> int:
    """Diagnose every line; the exit code says whether all, some or none came through."""
    terminal = Terminal.of(settings)
    if file is None and sys.stdin.isatty():
        raise UsageError(
            "batch reads JSON lines, and nothing is piped in.",
            "antangel batch cases.jsonl -o out.jsonl; more: antangel batch -h",
        )
    with audited(settings, terminal, "batch", options) as audit:
        return _batch(settings, file, options, limits, terminal, audit)


def _batch(
    settings: Settings, file: str | None, options: CaseOptions, limits: BatchOptions, terminal: Terminal, audit: Audit
) -> int:
    require_writable(options.output, options.force)
    asked = diagnose_options(settings, options)
    lines = Lines(open_input(file or STDIN))
    concurrency = settings.concurrency or AUTO_CONCURRENCY
    announce(terminal, settings.lang == "zh")
    with open_lines(options.output, options.force) as write:
        if limits.dry_run:
            return Batch(asked, options, limits, terminal, write, None, 1, audit).run(lines)
        with opened(settings, terminal, settings.lang == "zh", max(concurrency, asked.samples)) as model:
            cases = max(concurrency // asked.samples, 1)
            code = Batch(asked, options, limits, terminal, write, model, cases, audit).run(lines)
            print_stats(settings, terminal, model)
    return code


@dataclass
class Entry:
    """One line between input and output: being diagnosed, or with its record."""

    run: DiagnoseRun | None = None
    record: Record | None = None

    def settle(self) -> bool:
        """Take the record of a run that is done; whether there is one."""
        if self.record is None and self.run is not None and self.run.done:
            self.record, self.run = self.run.record(), None
        return self.record is not None


@dataclass
class Tally:
    """What came out so far."""

    statuses: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    reached: bool = False
    tokens: int = 0

    @property
    def lines(self) -> int:
        """Lines that were dealt with."""
        return self.statuses.total() + self.skipped

    @property
    def failed(self) -> int:
        """Lines without a result."""
        return self.statuses["error"] + self.skipped


class Batch:
    """Reads, keeps `concurrency` cases in flight, and writes; without a model it only checks."""

    def __init__(
        self,
        asked: DiagnoseOptions,
        options: CaseOptions,
        limits: BatchOptions,
        terminal: Terminal,
        write: Write,
        model: Model | None,
        concurrency: int,
        audit: Audit,
    ) -> None:
        self._asked = asked
        self._options = options
        self._limits = limits
        self._terminal = terminal
        self._write = write
        self._audit = audit
        self._model = model
        self._concurrency = concurrency
        self._stop = Stop()
        self._entries: deque[Entry] = deque()
        self._ids: set[str] = set()
        self._taken = 0
        self._tally = Tally()

    def run(self, lines: Lines) -> int:
        """Deal with every line and return the exit code."""
        started = time.monotonic()
        with self._stop.watching(), self._terminal.meter("Cases", "cases") as advance:
            while self._fill(lines) or self._entries:
                self._step()
                self._emit(advance)
        self._say(time.monotonic() - started)
        return self._exit_code()

    def _fill(self, lines: Lines) -> bool:
        """Start as many cases as may be in flight; whether more lines may come."""
        while not self._closed(lines) and self._room():
            line = lines.next(0.0 if self._in_flight else POLL_S)
            if line is None:
                break
            if not line.blank:
                self._taken += 1
                self._take(line)
        return not self._closed(lines)

    def _closed(self, lines: Lines) -> bool:
        limit, errors = self._limits.limit, self._limits.errors_allowed
        full = limit is not None and self._taken >= limit
        broken = errors is not None and self._tally.failed + self._failed_waiting >= errors
        return lines.ended or self._stop.asked or full or broken

    @property
    def _in_flight(self) -> int:
        return sum(entry.run is not None for entry in self._entries)

    @property
    def _failed_waiting(self) -> int:
        return sum(entry.record is not None and entry.record["status"] == "error" for entry in self._entries)

    def _room(self) -> bool:
        return self._in_flight < self._concurrency and len(self._entries) < self._concurrency * WAITING_PER_RUN

    def _take(self, line: Line) -> None:
        if line.data is None:
            self._tally.skipped += 1
            self._tally.codes["too_long"] += 1
            self._terminal.note(f"Line {line.number} is longer than 4 MiB and was skipped.")
            return
        try:
            case = read_line(line, self._options.input_format, self._ids, self._options.redact)
            self._entries.append(self._begin(case, line))
        except BadLineError as bad:
            self._entries.append(Entry(record=error_record(bad.id, line.number, bad.reason)))

    def _begin(self, case: Case, line: Line) -> Entry:
        try:
            if self._model is None:
                record = Checked.of(case, self._options.accept_implausible).record
                return Entry(record={**record, "line": line.number})
            return Entry(run=DiagnoseRun(case, self._asked, self._model))
        except Exception as error:
            raise BadLineError(case.id, describe(error)) from error

    def _step(self) -> None:
        if self._model is None or not self._in_flight:
            return
        runs = [entry.run for entry in self._entries if entry.run is not None]
        for piece in self._model.step():
            self._tally.tokens += piece.tokens
            for run in runs:
                if piece.task in run.tasks:
                    run.feed(piece)

    def _emit(self, advance: Advance) -> None:
        waiting: deque[Entry] = deque()
        while self._entries:
            entry = self._entries.popleft()
            if entry.settle() and (self._limits.unordered or not waiting):
                assert entry.record is not None
                self._write_out(entry.record)
            else:
                waiting.append(entry)
        self._entries = waiting
        advance(self._tally.lines, None)

    def _write_out(self, record: Record) -> None:
        line = dumped(record)
        self._write(line)
        self._audit.result(record, line, _line_code(record))
        self._tally.statuses[record["status"]] += 1
        if record["status"] == "error":
            self._tally.codes[record["error"]["code"]] += 1
        self._tally.reached |= self._model is not None and reaches(record, self._options.fail_on)

    def _say(self, seconds: float) -> None:
        tally = self._tally
        parts = [f"{count} {status}" for status, count in sorted(tally.statuses.items())]
        parts += [f"{tally.skipped} skipped"] if tally.skipped else []
        codes = ", ".join(f"{code} {count}" for code, count in sorted(tally.codes.items()))
        rate = f"{60 * tally.lines / seconds:.1f} cases/min, {tally.tokens / seconds:.1f} tokens/s" if seconds else ""
        failures = f" (failures: {codes})" if codes else ""
        self._terminal.remark(f"{tally.lines} lines: {', '.join(parts) or 'none'}{failures}; {rate}")

    def _exit_code(self) -> int:
        tally = self._tally
        if self._stop.code is not None:
            return self._stop.code
        if tally.failed:
            return GenerationError.exit_code if tally.failed == tally.lines else SOME_LINES_FAILED
        return FAIL_ON if tally.reached else 0


def _line_code(record: Record) -> int:
    """The exit code that the line alone would have ended with, as the audit log records it."""
    if record["status"] != "error":
        return 0
    return GenerationError.exit_code if record.get("run_id") else RejectedError.exit_code


def error_record(case_id: str | None, line: int, reason: CommandError) -> Record:
    """The output line of an input line that came to nothing."""
    return {"schema": SCHEMA_ID, "id": case_id, "line": line, "status": "error", "error": reason.record}
