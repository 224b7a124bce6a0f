"""Everything that is printed: the answer on stdout, all else on stderr. rich is imported when needed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

from antangel_cli.errors import CommandError
from antangel_cli.escapes import CONTROL, clean
from antangel_cli.meter import Advance, LineMeter, Unit, bar
from antangel_cli.reply import MarkdownReply, Reply, TextReply
from antangel_cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

Render = Literal["auto", "markdown", "plain"]


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
        text = CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
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
        return MarkdownReply(self.console(sys.stdout)) if markdown else TextReply(self.piece)

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
            with bar(self.console(sys.stderr), label, unit) as advance:
                yield advance
        elif self.progress == "always" or unit == "cases":
            yield LineMeter(self.note, label, unit)
        else:
            yield lambda done, total: None
