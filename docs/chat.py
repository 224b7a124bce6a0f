"""Writes the tables of docs/chat.md: the commands and the keys of a chat, as the program has them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from antangel_cli.chatting.commands import COMMANDS, KEYS
from bench.marks import filled

PAGE = Path(__file__).parent / "chat.md"


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {first} | {second} |" for first, second in rows)]
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """Each table by the name of its marks in the page."""
    commands = [(f"`{command.form}`".replace("|", "\\|"), command.meaning) for command in COMMANDS]
    return {"commands": _table(("command", "what it does"), commands), "keys": _table(("key", "what it does"), KEYS)}


def page(text: str) -> str:
    """The page with its tables as they are now."""
    return filled(text, tables())


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
