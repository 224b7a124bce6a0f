"""The help of a command: what it does, examples to copy, usage, and its flags by group."""

from __future__ import annotations

from typing import Any, Protocol

from typer.core import TyperCommand, TyperGroup

from antangel_cli.errors import EXIT_CODES
from antangel_cli.examples import EXAMPLES


class _Formatter(Protocol):
    width: int

    def section(self, name: str) -> Any: ...
    def write(self, string: str) -> None: ...
    def write_dl(self, rows: list[tuple[str, str]]) -> None: ...


class GroupedCommand(TyperCommand):
    """A command whose help is led by examples and lists its flags by group."""

    def format_help(self, ctx: Any, formatter: _Formatter) -> None:
        """Write the page."""
        write_head(self, ctx, formatter)
        self.format_options(ctx, formatter)

    def format_options(self, ctx: Any, formatter: _Formatter) -> None:
        """Write one section for the arguments and one for each group of flags."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx)
            if row is None:
                continue
            if param.param_type_name == "argument":
                # typer adds the name of a Python type
                sections.setdefault("Arguments", []).append((row[0].partition(" <")[0], row[1]))
            else:
                sections.setdefault(getattr(param, "rich_help_panel", None) or "General", []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class GroupHelp(TyperGroup):
    """A group of commands whose help is led by examples; named alone, it prints its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Take the arguments; none at all ask for help."""
        return super().parse_args(ctx, args or ["--help"])

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        write_head(self, ctx, formatter)
        self.format_options(ctx, formatter)
        if ctx.parent is None:
            with formatter.section("Exit codes"):
                formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


def write_head(command: Any, ctx: Any, formatter: Any) -> None:
    """Write what a command does, its examples and its usage."""
    command.format_help_text(ctx, formatter)
    _write_examples(ctx.command_path.partition(" ")[2], formatter)
    formatter.write_paragraph()
    command.format_usage(ctx, formatter)


def _write_examples(name: str, formatter: _Formatter) -> None:
    with formatter.section("Examples"):
        for line, meaning in EXAMPLES.get(name, ()):
            formatter.write(f"  # {meaning}\n  {line}\n")
