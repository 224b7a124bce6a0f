"""A reply as it comes: the text itself, or Markdown a finished block at a time. rich is imported when needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from antangel_cli.blocks import Block, Blocks
from antangel_cli.escapes import clean

if TYPE_CHECKING:
    from rich.console import Console


class TextReply:
    """A reply printed as it comes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._open = False

    def feed(self, text: str) -> None:
        """Print a piece."""
        self._write(text)
        self._open = not text.endswith("\n") if text else self._open

    def finish(self) -> None:
        """End the last line."""
        if self._open:
            self._write("\n")


class MarkdownReply:
    """A reply printed a finished block at a time."""

    def __init__(self, console: Console) -> None:
        self._console = console
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
