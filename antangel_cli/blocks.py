"""Markdown that arrives in pieces, cut into finished blocks, so that what is printed is never repainted."""

from __future__ import annotations

import re

_FENCE = re.compile(r" {0,3}(```|~~~)")


class Blocks:
    """Collects text and gives back each block once it can no longer change.

    A block ends at a blank line that an unindented line follows, outside a code fence: what is indented still
    belongs to the list item above it.
    """

    def __init__(self) -> None:
        self._line = ""
        self._block: list[str] = []
        self._fence: str | None = None

    def feed(self, text: str) -> list[str]:
        """Take a piece of text and return the blocks that it finished."""
        *lines, self._line = (self._line + text).split("\n")
        return [block for line in lines for block in self._add(line)]

    def finish(self) -> list[str]:
        """What is left: the last block, and the one before it when the last line began a new one."""
        finished = self._add(self._line)
        self._line = ""
        return finished + self._flush()

    def _add(self, line: str) -> list[str]:
        begins = not self._fence and bool(line.strip()) and not line[:1].isspace() and self._after_blank()
        finished = self._flush() if begins else []
        mark = _FENCE.match(line)
        if mark and self._fence in (None, mark[1]):
            self._fence = None if self._fence else mark[1]
        self._block.append(line)
        return finished

    def _after_blank(self) -> bool:
        return bool(self._block) and not self._block[-1].strip()

    def _flush(self) -> list[str]:
        block = "\n".join(self._block).strip("\n")
        self._block = []
        return [block] if block.strip() else []
