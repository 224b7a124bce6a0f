"""Lines of a page: wrapped by columns (a Chinese character takes two), bulleted, ruled, and safe to print."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wcwidth import wcswidth, wcwidth

from antangel_cli.clinic.readers.intake import invisible

NARROWEST = 40

_WIDE = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\u3000-\u303f"
_ATOM = re.compile(rf"[{_WIDE}]|[^\s{_WIDE}]+|\s+")
_NO_LINE_START = set("，。；：！？、）》】”’％,.;:!?)]}%")

_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"
    r"|\x1b[@-Z\\-_]"
)
_PLAIN = str.maketrans({
    "–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "•": "-", "·": ".",
    "×": "x", "µ": "u", "μ": "u", "≥": ">=", "≤": "<=", "±": "+/-", "→": "->", "°": " deg ", "℃": " deg C",
    "⁹": "^9", "³": "^3", "²": "^2", "⁶": "^6", "\u00a0": " ",
})  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How a page looks: its width, and whether it may use more than ASCII for its own marks."""

    width: int
    plain: bool

    @property
    def bullet(self) -> str:
        """What begins an item of a list."""
        return "- " if self.plain else "• "

    def rule(self) -> str:
        """A line across the page."""
        return ("-" if self.plain else "─") * self.width

    def heading(self, text: str) -> list[str]:
        """A section's heading with an empty line before it."""
        return [
            "",
            f"{text.upper()}" if text.isascii() else f"【{text}】" if not self.plain else f"== {text} ==",
        ]


def printable(text: str, plain: bool = False) -> str:
    """Text on one line without what a terminal would obey; `plain` writes signs in ASCII where it can."""
    text = " ".join(_ESCAPE.sub("", text).split())
    text = "".join(char for char in text if not invisible(char))
    return " ".join(text.translate(_PLAIN).split()) if plain else text


def wrap(text: str, style: Style, first: str = "", rest: str | None = None) -> list[str]:
    """Break text into lines of at most the page's width in columns; `first` and `rest` begin the lines."""
    rest = " " * wcswidth(first) if rest is None else rest
    lines, line, blank = [], first, True
    for atom in _ATOM.findall(printable(text, style.plain)):
        if atom.isspace():
            line += "" if blank else " "
            continue
        if not blank and wcswidth(line) + wcswidth(atom) > style.width and atom not in _NO_LINE_START:
            lines.append(line.rstrip())
            line, blank = rest, True
        for piece in _chopped(atom, style.width - wcswidth(rest)):
            if not blank and wcswidth(line) + wcswidth(piece) > style.width and piece not in _NO_LINE_START:
                lines.append(line.rstrip())
                line = rest
            line, blank = line + piece, False
    return [*lines, line.rstrip()]


def _chopped(word: str, width: int) -> list[str]:
    """A word in pieces no wider than a line."""
    if wcswidth(word) <= width:
        return [word]
    pieces, piece = [], ""
    for char in word:
        if wcswidth(piece) + max(wcwidth(char), 0) > width:
            pieces.append(piece)
            piece = ""
        piece += char
    return [*pieces, piece]
