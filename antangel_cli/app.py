"""The commands: flags in, settings out. What a command does is in a module of its own, imported late."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import typer

from antangel_cli import __version__
from antangel_cli.examples import EXAMPLES
from antangel_cli.flags import (
    ANSWERING,
    BENCH,
    BUDGET,
    CASES,
    CONVERSATION,
    EVALUATION,
    FORMAT,
    LANGUAGE,
    LINES,
    MACHINE,
    MODEL,
    OTHER_MACHINE,
    PACKING,
    PAGING,
    PLANNING,
    READING,
    REPLAY,
    SAMPLES,
    WRITING,
    Group,
    command,
)
from antangel_cli.help_page import GroupHelp
from antangel_cli.outcome import OutputClosedError, guarded, show_no_messages
from antangel_cli.settings import Settings
from antangel_cli.streams import prepare_streams

COMPLETING = "_ANTANGEL_COMPLETE"
"""Set by the shell's completion script: the words are then in the environment."""


class App(GroupHelp):
    """The command group; every way out of it ends in an exit code."""

    def main(self, args: Sequence[str] | None = None, *options: Any, **extra: Any) -> Any:
        """Run and exit."""
        arguments = _meant(list(sys.argv[1:] if args is None else args))
        parse = partial(super().main, arguments, "antangel", standalone_mode=False)
        sys.exit(guarded(parse if arguments or COMPLETING in os.environ else _short_help, arguments))

    def invoke(self, ctx: Any) -> Any:
        """Run the command. A closed output is told apart here: typer would exit 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise OutputClosedError from None


def _meant(arguments: list[str]) -> list[str]:
    """`help` and `help COMMAND` are `--help` and `COMMAND --help`."""
    return [*arguments[1:], "--help"] if arguments[:1] == ["help"] else arguments


def _short_help() -> None:
    rows = [f"  {line:<42} {meaning}\n" for line, meaning in EXAMPLES[""]]
    typer.echo(
        f"antangel, a clinical assistant that runs on this machine and sends nothing anywhere.\n\n{''.join(rows)}"
    )
    typer.echo("All commands: antangel --help. What it is and is not: antangel about.")


HELP_NAMES = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    cls=App,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP_NAMES,
    help="A clinical assistant that runs on this machine and sends nothing anywhere.",
)
config_app = typer.Typer(
    cls=GroupHelp,
    rich_markup_mode=None,
    help="Where settings come from.",
    context_settings=HELP_NAMES,
)
app.add_typer(config_app, name="config")
audit_app = typer.Typer(
    cls=GroupHelp,
    rich_markup_mode=None,
    help="The log of what was answered and refused.",
    context_settings=HELP_NAMES,
)
app.add_typer(audit_app, name="audit")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"antangel {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """A clinical assistant that runs on this machine and sends nothing anywhere."""


@command(app, CONVERSATION, MODEL, MACHINE)
def chat(settings: Settings, **flags: Any) -> int:
    """Talk with the model."""
    from antangel_cli.chat import chat as run
    from antangel_cli.options import ChatOptions

    return run(settings, ChatOptions.of(flags))


@command(app, MODEL, MACHINE)
def ask(
    settings: Settings,
    words: Annotated[
        list[str],
        typer.Argument(metavar="TEXT|- [-]", help="The question; - reads it, or data after it, from stdin."),
    ],
) -> int:
    """Ask one question. `ask TEXT`, `ask -`, or `ask TEXT -` with data on stdin."""
    from antangel_cli.ask import ask as run

    return run(settings, tuple(words))


@command(app, CASES, SAMPLES, REPLAY, FORMAT, WRITING, MODEL, MACHINE)
def diagnose(
    settings: Settings,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The case: a file, or - for stdin.")],
    **flags: Any,
) -> int:
    """Make a structured differential for one case."""
    from antangel_cli.diagnose import diagnose as run
    from antangel_cli.options import CaseOptions

    return run(settings, file, CaseOptions.of(flags))


@command(app, LINES, CASES, SAMPLES, WRITING, MODEL, MACHINE)
def batch(
    settings: Settings,
    file: Annotated[str | None, typer.Argument(metavar="[FILE|-]", help="JSON lines; stdin when not named.")] = None,
    **flags: Any,
) -> int:
    """Diagnose JSON lines: one case in, one result out."""
    from antangel_cli.batch import batch as run
    from antangel_cli.options import BatchOptions, CaseOptions

    return run(settings, file, CaseOptions.of(flags), BatchOptions.of(flags))


@command(app, EVALUATION, ANSWERING, WRITING, MODEL, MACHINE, name="eval")
def evaluate(
    settings: Settings,
    cases: Annotated[str, typer.Argument(metavar="CASES", help="JSON lines, or a folder of cases, with gold.")],
    **flags: Any,
) -> int:
    """Score answers against gold, or compare two runs. With intervals, by age band, sex and language."""
    from antangel_cli.eval import evaluate as run
    from antangel_cli.options import EvalOptions

    return run(settings, cases, EvalOptions.of(flags))


@command(app, READING, WRITING)
def validate(
    settings: Settings,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Cases; - is stdin.")],
    **flags: Any,
) -> int:
    """Read and check cases; no model."""
    from antangel_cli.options import CaseOptions
    from antangel_cli.validate import validate as run

    return run(settings, tuple(files), CaseOptions.of(flags))


@command(app, LANGUAGE, WRITING)
def schema(
    settings: Settings,
    kind: Annotated[
        Literal["case", "result", "batch"], typer.Argument(help="Which schema.", metavar="case|result|batch")
    ],
    example: Annotated[bool, typer.Option("--example", help="An example instead.", rich_help_panel="Output")] = False,
    **flags: Any,
) -> int:
    """Print a JSON Schema, or an example."""
    from antangel_cli.options import CaseOptions
    from antangel_cli.schema import schema as run

    return run(settings, kind, example, CaseOptions.of(flags))


@command(app, Group("Model", MODEL.flags[:1]))
def about(settings: Settings) -> int:
    """Say what this is and which model answers. And what nobody has reviewed."""
    from antangel_cli.about import about as run

    return run(settings)


@command(app, Group("Model", MODEL.flags[:1]))
def doctor(
    settings: Settings,
    directory: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A model's directory: counted, planned and tested.")
    ] = None,
) -> int:
    """Examine this machine and a model. Kernels, rates, permissions, what is in the model, and whether it speaks."""
    from antangel_cli.doctor import doctor as run

    return run(settings, directory)


@command(app, PACKING)
def pack(
    settings: Settings,
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="CHECKPOINT", help="The model's directory, as downloaded.")
    ] = None,
    **flags: Any,
) -> int:
    """Make a checkpoint ready to run. `pack CHECKPOINT -o DIR` writes the form that is mapped into memory."""
    from antangel_cli.pack import PackOptions
    from antangel_cli.pack import pack as run

    return run(settings, PackOptions(checkpoint, **flags))


@command(app, BENCH, WRITING, MODEL, MACHINE, PAGING)
def bench(
    settings: Settings,
    directory: Annotated[str | None, typer.Argument(metavar="MODEL", help="The model's directory, as -m.")] = None,
    **flags: Any,
) -> int:
    """Measure a model on this machine. Prefill and decode, cold and warm, beside what `plan` predicts."""
    from antangel_cli.bench import BenchOptions
    from antangel_cli.bench import bench as run

    return run(settings, BenchOptions.of(directory, flags))


@command(app, PLANNING, OTHER_MACHINE, Group("Model", MODEL.flags[:1]), BUDGET)
def plan(
    settings: Settings,
    directory: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A pack, a checkpoint, or a directory with its config.json alone."),
    ] = None,
    **flags: Any,
) -> int:
    """Say whether a model fits, and how fast it will be. Before any weight is read."""
    from antangel_cli.plan import PlanOptions
    from antangel_cli.plan import plan as run

    return run(settings, PlanOptions(directory, **flags))


@command(config_app, MODEL, BUDGET, name="show")
def config_show(settings: Settings) -> int:
    """Show every setting and where it comes from."""
    from antangel_cli.config import show

    return show(settings)


@command(config_app, name="path")
def config_path(settings: Settings) -> int:
    """Show which configuration files are read."""
    from antangel_cli.config import paths

    return paths(settings)


@command(audit_app, name="show")
def audit_show(
    settings: Settings,
    last: Annotated[int, typer.Option("--last", min=1, metavar="N", help="So many lines from the end.")] = 20,
) -> int:
    """Show the last lines of the audit log."""
    from antangel_cli.audit import show

    return show(settings, last)


@command(audit_app, name="verify")
def audit_verify(settings: Settings) -> int:
    """Check that the audit log is as written. No line changed, moved, added or removed; exit 6 if one was."""
    from antangel_cli.audit import verify

    return verify(settings)


@command(app, WRITING, Group("Model", MODEL.flags[:1]))
def report(
    settings: Settings,
    result: Annotated[
        str | None, typer.Argument(metavar="[RESULT]", help="A result in JSON, whose codes and hashes go in.")
    ] = None,
    **flags: Any,
) -> int:
    """Gather what a complaint needs. Without the case, the answer, your name or your home; -o FILE.zip writes it."""
    from antangel_cli.options import CaseOptions
    from antangel_cli.report import report as run

    return run(settings, result, CaseOptions.of(flags))


def main() -> None:
    """The entry point."""
    show_no_messages()
    prepare_streams()
    try:
        app()
    finally:
        # All is said; a Ctrl-C that comes now must not turn a clean end into a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
