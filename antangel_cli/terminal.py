"""Everything that is printed: the answer on stdout, all else on stderr. rich is imported when needed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

from antangel_cli.blocks import Block, Blocks
from antangel_cli.errors import CommandError
from antangel_cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

Unit = Literal["bytes", "cases", "curves", "tokens"]
Render = Literal["auto", "markdown", "plain"]
Advance = Callable[[int, int | None], None]
"""Tells a meter how much is done, of how much (None: unknown)."""

LINE_EVERY_S = 30.0
SLOW_PERIOD_S = 600.0
"""A case may take minutes: its rate is that of so long a time."""

_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]P_^X][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS, APC, PM, SOS: titles, links, clipboard
    r"|\x1b[ -/]*[0-~]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Text that cannot steer a terminal: no escape sequence, control character or change of direction."""
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


@dataclass(frozen=True)
class Terminal:
    """How this run may print."""

    plain: bool = False
    color: bool = True
    quiet: bool = False
    verbose: bool = False
    progress: str = "auto"
    render: Render = "auto"

    @classmethod
    def of(cls, settings: Settings) -> Terminal:
        """The terminal that the settings ask for."""
        return cls(settings.plain, not settings.no_color, settings.quiet, settings.verbose, settings.progress)

    @property
    def width(self) -> int:
        """Columns of a page."""
        return min(shutil.get_terminal_size((100, 24)).columns, 100)

    def rich_on(self, stream: IO[str]) -> bool:
        """Whether a stream is a terminal that may be given more than plain text."""
        return not self.plain and os.environ.get("TERM") != "dumb" and stream.isatty()

    def answer(self, text: str) -> None:
        """Print the answer, or one line of it, and flush. What could steer a terminal is escaped, as JSON would."""
        text = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()

    def piece(self, text: str) -> None:
        """Print a part of an answer as it comes."""
        sys.stdout.write(clean(text))
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print a line beside the answer, broken between words where a terminal is narrower."""
        self._print_prose(text, sys.stderr)

    def prose(self, text: str) -> None:
        """Print an answer that is text to read, in the same way."""
        self._print_prose(text, sys.stdout)

    def _print_prose(self, text: str, stream: IO[str]) -> None:
        # Beside a bar rich stands in for the stream, and places what is printed above it.
        if not self.rich_on(stream) or hasattr(stream, "rich_proxied_file"):
            print(clean(text), file=stream, flush=True)
            return
        from rich.text import Text

        self.console(stream).print(Text(clean(text)))

    def remark(self, text: str) -> None:
        """Print a note, unless quiet."""
        if not self.quiet:
            self.note(text)

    def detail(self, text: str) -> None:
        """Print a note, only when verbose."""
        if self.verbose:
            self.note(text)

    def failure(self, error: CommandError) -> None:
        """Show what happened and what to do about it: a panel on a terminal, two lines elsewhere."""
        if not self.rich_on(sys.stderr):
            self.note(f"Error: {error.message}\n{error.remedy}".rstrip())
            return
        from rich.panel import Panel
        from rich.text import Text

        body = Text(clean(f"{error.message}\n{error.remedy}".rstrip()))
        self.console(sys.stderr).print(Panel(body, title="Error", title_align="left", border_style="red"))

    def console(self, stream: IO[str]) -> Console:
        """A rich console on a stream."""
        from rich.console import Console

        return Console(file=stream, no_color=not self.color or None, highlight=False)

    def reply(self) -> Reply:
        """Something to stream a reply into: markdown on a terminal, the text itself elsewhere, unless `render` says."""
        markdown = self.rich_on(sys.stdout) if self.render == "auto" else self.render == "markdown"
        return MarkdownReply(self) if markdown else TextReply(self)

    def rows(self, title: str, rows: Sequence[Sequence[str]]) -> str:
        """A titled table as plain text, its columns aligned by display width."""
        from rich.cells import cell_len

        cells = [[clean(cell) for cell in row] for row in rows]
        widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join([title, *(f"  {line}" for line in lines)])

    def show_table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Print rows of a name and a value on stderr: a table on a terminal, aligned lines elsewhere."""
        if not rows:
            return
        if not self.rich_on(sys.stderr):
            self.note(self.rows(title, rows))
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for name, value in rows:
            table.add_row(Text(clean(name)), Text(clean(value)))
        self.console(sys.stderr).print(table)

    @contextlib.contextmanager
    def meter(self, label: str, unit: Unit) -> Iterator[Advance]:
        """Show progress on stderr: a bar on a terminal, a line every 30 seconds elsewhere."""
        if self.progress == "never" or (self.quiet and self.progress == "auto"):
            yield lambda done, total: None
        elif self.rich_on(sys.stderr):
            yield from self._bar(label, unit)
        elif self.progress == "always" or unit == "cases":
            yield _LineMeter(self, label, unit)
        else:
            yield lambda done, total: None

    def _bar(self, label: str, unit: Unit) -> Iterator[Advance]:
        from rich.progress import Progress

        period = SLOW_PERIOD_S if unit == "cases" else LINE_EVERY_S
        console = self.console(sys.stderr)
        with Progress(*_columns(unit), console=console, transient=True, speed_estimate_period=period) as progress:
            row = progress.add_task(label, total=None)
            yield lambda done, total: progress.update(row, completed=done, total=total)


def _columns(unit: Unit) -> list[ProgressColumn]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    label = TextColumn("{task.description}", markup=False)
    if unit == "tokens":
        return [SpinnerColumn(), label, TextColumn("{task.completed} tokens"), TimeElapsedColumn()]
    if unit == "bytes":
        return [label, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
    if unit == "cases":
        return [label, BarColumn(), MofNCompleteColumn(), _rate_column(), TimeElapsedColumn(), TimeRemainingColumn()]
    return [label, BarColumn(), TextColumn(f"{{task.completed}} {unit}"), TimeElapsedColumn()]


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_rate(task.finished_speed or task.speed))

    return Rate()


def _rate(per_second: float | None) -> str:
    return f"{60 * per_second:.1f}/min" if per_second else ""


def _left(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


class _LineMeter:
    """Progress where a bar would only fill a log."""

    def __init__(self, terminal: Terminal, label: str, unit: Unit) -> None:
        self._terminal = terminal
        self._label = label
        self._unit = unit
        self._last = time.monotonic()
        self._done = 0

    def __call__(self, done: int, total: int | None) -> None:
        seconds = time.monotonic() - self._last
        if seconds < LINE_EVERY_S:
            return
        rate = (done - self._done) / seconds
        self._last, self._done = time.monotonic(), done
        parts = [f"{self._label}: {done}{f' of {total}' if total else ''} {self._unit}", _rate(rate)]
        if total and rate:
            parts.append(f"about {_left((total - done) / rate)} left")
        self._terminal.note(", ".join(part for part in parts if part))


class TextReply:
    """A reply printed as it comes."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._open = False

    def feed(self, text: str) -> None:
        """Print a piece."""
        self._terminal.piece(text)
        self._open = not text.endswith("\n") if text else self._open

    def finish(self) -> None:
        """End the last line."""
        if self._open:
            self._terminal.piece("\n")


class MarkdownReply:
    """A reply printed a finished block at a time."""

    def __init__(self, terminal: Terminal) -> None:
        self._console = terminal.console(sys.stdout)
        self._blocks = Blocks()
        self._first = True

    def feed(self, text: str) -> None:
        """Print the blocks that a piece finishes."""
        self._print(self._blocks.feed(clean(text)))

    def finish(self) -> None:
        """Print what is left."""
        self._print(self._blocks.finish())

    def _print(self, blocks: list[Block]) -> None:
        from rich.text import Text

        for block in blocks:
            if not self._first and not block.joined:
                self._console.print()
            self._first = False
            if block.code:
                # The terminal wraps it, so that what is copied is what was written.
                self._console.print(Text(f"    {block.text}", style="markdown.code_block"), soft_wrap=True)
            else:
                self._print_markdown(block.text)

    def _print_markdown(self, text: str) -> None:
        """Print a block without the empty lines that rich puts around some: the gaps are those between blocks."""
        from rich.markdown import Markdown
        from rich.segment import Segment, Segments

        lines = self._console.render_lines(Markdown(text, hyperlinks=False), pad=False)
        full = [place for place, line in enumerate(lines) if "".join(part.text for part in line).strip()]
        shown = lines[full[0] : full[-1] + 1] if full else []
        self._console.print(Segments([part for line in shown for part in (*line, Segment.line())]), end="")


Reply = TextReply | MarkdownReply
