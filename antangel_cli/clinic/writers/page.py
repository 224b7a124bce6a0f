"""The page people file and print, set in lines of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.writers.layout import NARROWEST, Style, wrap
from antangel_cli.clinic.writers.sections import SECTIONS, Lines, Page


@dataclass(frozen=True)
class TextPage(Page):
    """Lines no wider than the style says; `plain` is ASCII without boxes."""

    style: Style

    def text(self, text: str, indent: int = 0) -> Lines:
        """A paragraph, wrapped."""
        return wrap(text, self.style, " " * indent)

    def labelled(self, label: str, text: str, indent: int = 0) -> Lines:
        """`label: text`, wrapped beneath its own beginning."""
        colon = "：" if self.chinese and not self.style.plain else ": "
        return wrap(text, self.style, " " * indent + f"{label}{colon}", " " * (indent + 2))

    def item(self, text: str) -> Lines:
        """One item of a list, behind its bullet."""
        return wrap(text, self.style, self.style.bullet)

    def ranked(self, rank: int, text: str) -> Lines:
        """One item of a numbered list."""
        return wrap(text, self.style, f"{rank}. ")

    def heading(self, text: str) -> Lines:
        """A heading with an empty line before it."""
        return self.style.heading(text)

    def rule(self) -> Lines:
        """A line across the page."""
        return [self.style.rule()]

    def quoted(self, text: str, fact_id: str) -> str:
        """A fact in quotation marks of the page's language, in ASCII where it is plain."""
        return f'"{text}" ({fact_id})' if self.style.plain else super().quoted(text, fact_id)

    def list(self, texts: Any) -> str:
        """Texts on one line."""
        return ", ".join(texts) if self.style.plain else super().list(texts)


def write_page(record: dict[str, Any], case: Case, plain: bool, width: int, lang: str | None) -> str:
    """The page of a record, its lines at most `width` columns wide (never below 40)."""
    chinese = (lang or case.language).lower().startswith("zh")
    page = TextPage(record, chinese, Style(max(width, NARROWEST), plain))
    return "\n".join(line for section in SECTIONS for line in section(page)) + "\n"
