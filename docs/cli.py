"""Writes docs/cli.md: the help of every command, as the program prints it at 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from antangel_cli.app import app

PAGE = Path(__file__).parent / "cli.md"
WIDTH = 80
HEAD = """# The command line

Written by `python docs/cli.py` from the program itself. Flags stand after the command; the answer goes to stdout and
everything else to stderr. Completion of commands, flags and their values: `antangel --install-completion`.
"""


def helps(command: Any, name: str = "antangel", parent: Any = None) -> Iterator[tuple[str, str]]:
    """The command line and the help of a command and of all beneath it."""
    with command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH) as context:
        yield context.command_path, context.get_help().strip("\n")
        for below, inner in getattr(command, "commands", {}).items():
            yield from helps(inner, below, context)


def page() -> str:
    """The whole document."""
    sections = [f"## {path}\n\n```\n{text}\n```\n" for path, text in helps(get_command(app))]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
