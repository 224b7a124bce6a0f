"""A case on its way through the model: progress while it answers, and its page to where it was asked for."""

from __future__ import annotations

from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.diagnose import DiagnoseOptions, DiagnoseRun, finish
from antangel_cli.clinic.model import Model, Piece
from antangel_cli.files import STDIN, write_whole
from antangel_cli.options import CaseOptions
from antangel_cli.pace import ANSWER_TOKENS, Pace
from antangel_cli.terminal import Terminal


def answered(case: Case, asked: DiagnoseOptions, model: Model, terminal: Terminal) -> dict[str, Any]:
    """The record of a case; says how long it may take where that is long. Raises InputError."""
    run = DiagnoseRun(case, asked, model)
    budget = run.question.budget
    most = asked.samples * (budget.reasoning + min(budget.answer, ANSWER_TOKENS))
    pace = Pace(most, budget.reasoning > 0, run.case.chinese, terminal.remark)
    count = 0
    with terminal.meter("Working", "tokens") as advance:

        def see(piece: Piece) -> None:
            nonlocal count
            count += piece.tokens
            advance(count, None)
            pace.see(count)

        return finish(run, model, see)


def deliver(terminal: Terminal, page: str, options: CaseOptions) -> None:
    """Print a page, or write it to the file that was named. The format is that of `--format`, never the name's."""
    if options.output is None or options.output == STDIN:
        terminal.answer(page)
        return
    write_whole(options.output, page if page.endswith("\n") else f"{page}\n", options.force)
    terminal.remark(f"Written to {options.output}.")
