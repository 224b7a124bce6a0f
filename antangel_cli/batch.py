"""`antangel batch`: JSON lines in, JSON lines out, many cases in flight."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from antangel_cli.announce import announce, opened, print_stats
from antangel_cli.auditing import Audit, audited
from antangel_cli.batching.fingerprint import Fingerprints, read_key
from antangel_cli.batching.output import Output, Write, resumed, streamed
from antangel_cli.batching.progress import Total
from antangel_cli.batching.run import Batch
from antangel_cli.batching.starter import Starter
from antangel_cli.batching.tally import headline, table
from antangel_cli.cases import diagnose_options, read_rules
from antangel_cli.clinic.diagnose import DiagnoseOptions
from antangel_cli.clinic.model import Model
from antangel_cli.errors import UsageError
from antangel_cli.files import STDIN, open_input, open_lines, require_appendable, require_writable, write_whole
from antangel_cli.lines import Lines
from antangel_cli.options import BatchOptions, CaseOptions
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

AUTO_CONCURRENCY = 16
"""Cases in flight where neither anybody nor the model says how many."""
TOKENS_PER_CASE = 2048
"""KV cache that each of them should find: with less they wait for one another, or are computed twice."""


def batch(settings: Settings, file: str | None, options: CaseOptions, limits: BatchOptions) -> int:
    """Answer every line; the exit code says whether all, some or none came through."""
    terminal = Terminal.of(settings)
    if file is None and sys.stdin.isatty():
        raise UsageError(
            "batch reads JSON lines, and nothing is piped in.",
            "antangel batch cases.jsonl -o out.jsonl; more: antangel batch -h",
        )
    with audited(settings, terminal, "batch", options) as audit:
        _require_sensible(options, limits)
        _require_apart(file, options, limits)
        job = Job(settings, options, limits, terminal, audit, diagnose_options(settings, options))
        key = _key(limits)
        _require_lines(file)
        lines = Lines(open_input(file or STDIN))
        announce(terminal, settings.lang == "zh")
        without_model = limits.dry_run or (not limits.resume and lines.known_empty())
        return job.check(lines, file) if without_model else job.answer(lines, file, key)


def _require_sensible(options: CaseOptions, limits: BatchOptions) -> None:
    """Refuse flags that contradict each other, and files that are there already. Raises UsageError."""
    if limits.resume and options.output in (None, STDIN):
        raise UsageError("--resume goes on with a file, and none is named.", "Name it with -o FILE.")
    for name, given in {"--force": options.force, "--skip-done": limits.skip_done, "--dry-run": limits.dry_run}.items():
        if limits.resume and given:
            raise UsageError(f"--resume and {name} exclude each other.", "Leave one of them out.")
    if limits.skip_done and limits.dry_run:
        raise UsageError("--skip-done and --dry-run exclude each other.", "Leave one of them out.")
    if limits.resume and options.output is not None:
        require_appendable(options.output)
    else:
        require_writable(options.output, options.force)
    for beside in (limits.errors, limits.summary):
        require_writable(beside, options.force or limits.resume)
    for name, least in (("--limit", limits.limit), ("--max-errors", limits.max_errors)):
        if least is not None and least < 1:
            raise UsageError(f"{name} must be 1 or more.", "Correct the number.")


def _require_lines(file: str | None) -> None:
    """Refuse a file that is one JSON document over many lines: no line of it would be a case. Raises UsageError."""
    if file is None or not os.path.isfile(file):
        return
    with contextlib.suppress(OSError), open(file, "rb") as opened:
        if opened.readline(8).strip() in (b"{", b"["):
            raise UsageError(
                f"{file} is one JSON document over many lines, and a batch has one on each line.",
                "One case: antangel diagnose FILE. Several: put each on a line, as `jq -c` does.",
            )


def _require_apart(file: str | None, options: CaseOptions, limits: BatchOptions) -> None:
    """Refuse a file that is read and written, or written twice: it would be lost. Raises UsageError."""
    read, written = (file, limits.skip_done), (options.output, limits.errors, limits.summary)
    places = [os.path.realpath(place) for place in written if place not in (None, STDIN)]
    places += {os.path.realpath(place) for place in read if place not in (None, STDIN)}
    twice = next((place for place in places if places.count(place) > 1 and os.path.isfile(place)), None)
    if twice is not None:
        raise UsageError(f"{twice} is named twice.", "Name a file for each.")


def _key(limits: BatchOptions) -> bytes | None:
    """The key of the fingerprints; without one, lines have none. Raises UsageError where they are needed."""
    key = read_key(limits.fingerprint_key)
    if key is None and (limits.resume or limits.skip_done is not None):
        raise UsageError("There is no local key for fingerprints.", "Name one with --fingerprint-key FILE.")
    return key


def in_flight(settings: Settings, model: Model) -> int:
    """How many tasks run at once: so many as were asked for, else as the KV cache has room for, one at least."""
    if settings.concurrency:
        return settings.concurrency
    stats = model.stats()
    most, tokens = int(stats.get("sequences") or AUTO_CONCURRENCY), stats.get("kv_tokens")
    return most if tokens is None else max(1, min(most, int(tokens) // TOKENS_PER_CASE))


@dataclass(frozen=True)
class Job:
    """What one batch was asked for."""

    settings: Settings
    options: CaseOptions
    limits: BatchOptions
    terminal: Terminal
    audit: Audit
    asked: DiagnoseOptions

    def check(self, lines: Lines, file: str | None) -> int:
        """Read and check every line, if there is any, without a model."""
        with streamed(self.options.output, self.options.force, None, None) as output:
            return self._run(lines, file, output, Starter(self.settings, self.asked, self.options, None), 1)

    def answer(self, lines: Lines, file: str | None, key: bytes | None) -> int:
        """Answer every line."""
        samples = self.asked.samples
        most = max(self.settings.concurrency, samples) if self.settings.concurrency else None
        reading = threading.Thread(target=read_rules, daemon=True)
        reading.start()
        with opened(self.settings, self.terminal, self.settings.lang == "zh", most) as model:
            reading.join()
            prints = None if key is None else Fingerprints.of(key, self.asked, model)
            with self._output(prints) as output:
                starter = Starter(self.settings, self.asked, self.options, model, prints, output.earlier)
                cases = max(in_flight(self.settings, model) // samples, 1)
                code = self._run(lines, file, output, starter, cases)
            print_stats(self.settings, self.terminal, model)
        return code

    def _output(self, prints: Fingerprints | None) -> AbstractContextManager[Output]:
        options, limits = self.options, self.limits
        if limits.resume and options.output is not None and prints is not None:
            return resumed(options.output, prints)
        return streamed(options.output, options.force, limits.skip_done, prints)

    def _run(self, lines: Lines, file: str | None, output: Output, starter: Starter, at_once: int) -> int:
        total = Total(None if file == STDIN else file, self.limits.limit)
        with self._errors() as write_error:
            batch = Batch(starter, self.limits, self.terminal, output, at_once, self.audit, write_error)
            summary = batch.run(lines, total)
        self._say(summary)
        if self.limits.summary is not None:
            write_whole(self.limits.summary, f"{json.dumps(summary)}\n", self.options.force or self.limits.resume)
        return int(summary["exit_code"])

    @contextlib.contextmanager
    def _errors(self) -> Iterator[Write | None]:
        """Where a copy of every error goes, if it was asked for."""
        if self.limits.errors is None:
            yield None
            return
        with open_lines(self.limits.errors, self.options.force or self.limits.resume) as write:
            yield write

    def _say(self, summary: dict[str, Any]) -> None:
        self.terminal.remark(headline(summary))
        if not self.terminal.quiet:
            self.terminal.show_table("Batch", table(summary))
