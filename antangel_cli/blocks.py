"""Markdown that arrives in pieces, cut into finished blocks, so that what is printed is never repainted.

Blocks are those of CommonMark (https://spec.commonmark.org/0.31.2/), as far as it takes to know where one ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"( {0,3})(`{3,}(?=[^`]*$)|~{3,})")
_ITEM = re.compile(r"(?:[-*+]|(\d{1,9})([.)]))(?=\s|$)")
_RULE = re.compile(r"([-*_])(?:\s*\1){2,}\s*")
_HEADING = re.compile(r"#{1,6}(?:\s|$)")


@dataclass(frozen=True)
class Block:
    """A paragraph, heading, table, quote or item of a list as Markdown; or one line of a code fence, as it is.

    `joined` says that no empty line belongs between this block and the one before.
    """

    text: str
    code: bool = False
    joined: bool = False


class Blocks:
    """Collects text and gives back each block once it can no longer change.

    Lists are given back an item at a time and code a line at a time: both may be longer than a screen. What is
    indented belongs to the block above it.
    """

    def __init__(self) -> None:
        self._line = ""
        self._block: list[str] = []
        self._fence: str | None = None
        self._code_began = False
        self._inner_fence: str | None = None
        self._list: str | None = None
        self._number = 0
        self._joined = False

    def feed(self, text: str) -> list[Block]:
        """Take a piece of text and return the blocks that it finished."""
        *lines, self._line = (self._line + text).split("\n")
        return [block for line in lines for block in self._add(line)]

    def finish(self) -> list[Block]:
        """What is left: the last block, and the one before it when the last line began a new one."""
        last, self._line = self._line, ""
        return [*(self._add(last) if last else []), *self._flush()]

    def _add(self, line: str) -> list[Block]:
        if self._fence:
            return self._add_code(line)
        if self._inner_fence or (self._block and line.strip() and line[0].isspace()):
            return self._go_on(line)
        fence = _FENCE.match(line)
        if fence:
            self._fence, self._code_began = fence[2], False
            return self._end_list()
        if _HEADING.match(line):
            return [*self._end_list(), Block(line)]
        item = None if _RULE.fullmatch(line) else _ITEM.match(line)
        if item and (self._list or not self._in_paragraph() or item[1] in (None, "1")):
            return self._begin_item(line, item)
        if not line.strip() and not self._list:
            return self._flush()
        if line.strip() and self._block and not self._block[-1].strip():
            return [*self._end_list(), *self._go_on(line)]
        return self._go_on(line)

    def _add_code(self, line: str) -> list[Block]:
        assert self._fence is not None
        if _closes(line, self._fence):
            self._fence = None
            return []
        joined, self._code_began = self._code_began, True
        return [Block(line, code=True, joined=joined)]

    def _go_on(self, line: str) -> list[Block]:
        """Keep a line of the block that is open. An indented fence is that of an item, and ends with it."""
        if self._inner_fence:
            self._inner_fence = None if _closes(line.strip(), self._inner_fence) else self._inner_fence
        elif line[:1].isspace() and (fence := _FENCE.match(line.strip())):
            self._inner_fence = fence[2]
        self._block.append(line)
        return []

    def _in_paragraph(self) -> bool:
        return bool(self._block) and bool(self._block[-1].strip())

    def _begin_item(self, line: str, item: re.Match[str]) -> list[Block]:
        kind = item[2] or line[0]
        going_on = kind == self._list
        finished = self._flush() if going_on else self._end_list()
        self._number = self._number + 1 if going_on else int(item[1] or 0)
        self._list, self._joined = kind, going_on
        # A list that is numbered 1, 1, 1 counts, as it would when it were read at once.
        self._block = [f"{self._number}{kind}{line[item.end() :]}" if item[1] else line]
        return finished

    def _end_list(self) -> list[Block]:
        finished = self._flush()
        self._list = None
        return finished

    def _flush(self) -> list[Block]:
        block, joined = "\n".join(self._block).strip("\n"), self._joined
        self._block, self._inner_fence, self._joined = [], None, False
        return [Block(block, joined=joined)] if block.strip() else []


def _closes(line: str, fence: str) -> bool:
    mark = line.strip()
    return len(mark) >= len(fence) and set(mark) == {fence[0]} and len(line) - len(line.lstrip(" ")) < 4
