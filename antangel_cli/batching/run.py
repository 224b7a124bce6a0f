"""The run of a batch: reads, keeps lines in flight, and writes what comes of them in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from antangel_cli.auditing import Audit
from antangel_cli.batching.output import Output, Write
from antangel_cli.batching.progress import Total
from antangel_cli.batching.starter import Starter
from antangel_cli.batching.tally import TOO_LONG, Tally
from antangel_cli.batching.work import Done, Work, failed_line
from antangel_cli.clinic.writers.json_text import dumped
from antangel_cli.errors import RejectedError
from antangel_cli.lines import Line, Lines
from antangel_cli.options import BatchOptions
from antangel_cli.stop import Stop
from antangel_cli.terminal import Terminal

WAITING_PER_RUN = 8
"""How many finished lines may wait behind a slow one, for each line in flight."""
POLL_S = 0.2
MOST_LEAVING = 16
"""How many lines may wait for the log, which is on disk before they are out."""


@dataclass
class Entry:
    """One line between input and output: at work, or done."""

    line: int
    work: Work | None = None
    done: Done | None = None

    @classmethod
    def of(cls, line: int, begun: Work | Done) -> Entry:
        """An entry for what a line began."""
        return cls(line, done=begun) if isinstance(begun, Done) else cls(line, begun)

    def settle(self) -> bool:
        """Take the outcome of work that is done; whether there is one."""
        if self.done is None and self.work is not None and self.work.done:
            self.done, self.work = self.work.outcome(), None
        return self.done is not None


@dataclass(frozen=True)
class Leaving:
    """A line on its way out, once the log has it. An earlier line (`text` None) stays where it is."""

    done: Done
    text: str | None
    logged: Future[None] | None

    @property
    def waits(self) -> bool:
        """Whether the log does not have it yet."""
        return self.logged is not None and not self.logged.done()


class Batch:
    """Keeps `concurrency` lines in flight. What waits, and so the memory, is bounded; a slow reader slows it down."""

    def __init__(
        self,
        starter: Starter,
        limits: BatchOptions,
        terminal: Terminal,
        output: Output,
        concurrency: int,
        audit: Audit,
        write_error: Write | None = None,
    ) -> None:
        self._starter = starter
        self._limits = limits
        self._terminal = terminal
        self._output = output
        self._write_error = write_error
        self._audit = audit
        self._model = starter.model
        self._concurrency = concurrency
        self._stop = Stop()
        self._entries: deque[Entry] = deque()
        self._at_work: dict[int, Work] = {}
        self._changed = False
        self._leaving: deque[Leaving] = deque()
        self._logger = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._taken = 0
        self._reached = 0
        self._tally = Tally(starter.options.fail_on)

    def run(self, lines: Lines, total: Total | None = None) -> dict[str, Any]:
        """Deal with every line, and return the summary, with the exit code in it."""
        with self._logger, self._stop.watching(), self._terminal.meter("Cases", "cases") as advance:
            while self._fill(lines) or self._entries or self._leaving:
                self._write_out()
                self._step()
                self._emit()
                advance(self._tally.lines, total.count if total is not None else None)
            ended = self._ended(lines) or "input"
            self._output.finish(None if ended == "input" else self._reached)
        code = self._tally.exit_code if self._stop.code is None else self._stop.code
        return self._tally.summary(ended, code, self._model)

    def _fill(self, lines: Lines) -> bool:
        """Start as many lines as may be in flight; whether more may come."""
        while self._ended(lines) is None and self._room():
            line = lines.next(0.0 if self._in_flight or self._leaving else POLL_S)
            if line is None:
                break
            if not line.blank:
                self._taken += 1
                self._take(line)
        return self._ended(lines) is None

    def _ended(self, lines: Lines) -> str | None:
        """Why no more lines are read, if that is so."""
        limit, errors = self._limits.limit, self._limits.errors_allowed
        if self._stop.asked:
            return "signal"
        if lines.ended:
            return "input"
        if errors is not None and self._tally.failed + self._failed_waiting >= errors:
            return "errors"
        return "limit" if limit is not None and self._taken >= limit else None

    @property
    def _in_flight(self) -> int:
        return sum(entry.work is not None for entry in self._entries)

    @property
    def _failed_waiting(self) -> int:
        return sum(entry.done is not None and entry.done.status == "error" for entry in self._entries)

    def _room(self) -> bool:
        return self._in_flight < self._concurrency and len(self._entries) < self._concurrency * WAITING_PER_RUN

    def _take(self, line: Line) -> None:
        self._reached = line.number
        if line.data is None:
            self._skip(line)
            return
        self._entries.append(Entry.of(line.number, self._starter.start(line)))
        self._changed = True

    def _skip(self, line: Line) -> None:
        """A line that nobody holds in memory: no record in the output, and one among the errors."""
        message = f"Line {line.number} is longer than 4 MiB and was skipped."
        self._tally.skip()
        self._terminal.note(message)
        if self._write_error is not None:
            reason = RejectedError(message, "Shorten the case.", code=TOO_LONG, stage="input")
            self._write_error(dumped(failed_line(None, line.number, reason, None).record))

    def _step(self) -> None:
        if self._model is None or not self._in_flight:
            return
        for piece in self._model.step():
            self._tally.tokens += piece.tokens
            self._changed |= piece.finish is not None
            work = self._at_work.get(piece.task) or self._find(piece.task)
            if work is not None:
                work.feed(piece)

    def _find(self, task: int) -> Work | None:
        """Whose a task is that was submitted since this was last asked."""
        self._at_work = {task: entry.work for entry in self._entries if entry.work for task in entry.work.tasks}
        return self._at_work.get(task)

    def _emit(self) -> None:
        """Let go of what is done, in order; nothing can be unless a line was begun or a task ended."""
        if not self._changed:
            return
        self._changed = False
        waiting: deque[Entry] = deque()
        while self._entries:
            entry = self._entries.popleft()
            if entry.settle() and (self._limits.unordered or not waiting):
                assert entry.done is not None
                self._leave(entry.done)
            else:
                waiting.append(entry)
        self._entries = waiting

    def _leave(self, done: Done) -> None:
        """Have it logged while the model goes on: the log waits for the disk."""
        text = dumped(done.record) if done.offset is None else None
        logged = None
        if text is not None and done.log is not None and self._model is not None:
            logged = self._logger.submit(done.log, self._audit, text)
        self._leaving.append(Leaving(done, text, logged))
        self._tally.add(done)

    def _write_out(self) -> None:
        """Log first: no answer is out that the log does not have. With nothing else to do, the log is waited for."""
        while self._leaving:
            if self._leaving[0].waits and self._in_flight and len(self._leaving) <= MOST_LEAVING:
                return
            self._write(self._leaving.popleft())

    def _write(self, leaving: Leaving) -> None:
        done = leaving.done
        if leaving.logged is not None:
            leaving.logged.result()
        if done.offset is not None:
            self._output.keep(done.offset)
        if leaving.text is None:
            return
        self._output.write(leaving.text)
        if done.status == "error" and self._write_error is not None:
            self._write_error(leaving.text)
