"""GitHub Markdown: the page with headings and lists; nothing of a case or an answer is markup in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.writers.layout import printable
from antangel_cli.clinic.writers.sections import SECTIONS, Lines, Page

_MARKUP = re.compile(r"[\\`*_\[\]<>#|~&$@]|(?<=\bwww)\.|:(?=//)", re.IGNORECASE)
"""What begins emphasis, code, links, HTML, entities, tables, mathematics, mentions and bare addresses."""
_LIST_START = re.compile(r"^(?:[-+=]|\d+(?=[.)]))")


def escaped(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    return _LIST_START.sub(_behind, _MARKUP.sub(r"\\\g<0>", printable(text)))


def _behind(start: re.Match[str]) -> str:
    mark = start.group()
    return f"{mark}\\" if mark.isdigit() else f"\\{mark}"


@dataclass(frozen=True)
class MarkdownPage(Page):
    """One line for each paragraph and item; the reader's program breaks them."""

    def text(self, text: str, indent: int = 0) -> Lines:
        """A paragraph, or beneath an item an item of its own."""
        return [f"{' ' * indent}- {escaped(text)}"] if indent else ["", escaped(text), ""]

    def labelled(self, label: str, text: str, indent: int = 0) -> Lines:
        """An item that begins with its label in bold."""
        return [f"{' ' * indent}- **{escaped(label)}**{'：' if self.chinese else ': '}{escaped(text)}"]

    def item(self, text: str) -> Lines:
        """One item of a list."""
        return [f"- {escaped(text)}"]

    def ranked(self, rank: int, text: str) -> Lines:
        """One item of a numbered list."""
        return [f"{rank}. {escaped(text)}"]

    def heading(self, text: str) -> Lines:
        """A heading of the second level: the first is the program's that shows the page."""
        return ["", f"## {escaped(text)}", ""]

    def rule(self) -> Lines:
        """A thematic break."""
        return ["", "---", ""]


def write_markdown(record: dict[str, Any], case: Case, plain: bool, width: int, lang: str | None) -> str:
    """The page of a record as Markdown, without raw HTML."""
    del plain, width
    page = MarkdownPage(record, (lang or case.language).lower().startswith("zh"))
    text = "\n".join(line for section in SECTIONS for line in section(page))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
