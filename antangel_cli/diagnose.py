"""`antangel diagnose`: one case, a structured differential."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from antangel_cli.announce import announce, opened, print_stats
from antangel_cli.auditing import Audit, audited
from antangel_cli.cases import Checked, diagnose_options, read_one, report
from antangel_cli.clinic.case import Case
from antangel_cli.clinic.diagnose import diagnose as run_diagnosis
from antangel_cli.clinic.model import Piece
from antangel_cli.clinic.writers import write
from antangel_cli.clinic.writers.layout import Style, wrap
from antangel_cli.clinic.writers.words import WORDS
from antangel_cli.errors import FAIL_ON, GenerationError
from antangel_cli.files import STDIN, require_writable, write_whole
from antangel_cli.options import CaseOptions
from antangel_cli.settings import Settings
from antangel_cli.terminal import Advance, Terminal, clean
from antangel_cli.urgency import reaches


def diagnose(settings: Settings, file: str, options: CaseOptions) -> int:
    """Check the case, say what the checks found, then let the model answer."""
    terminal = Terminal.of(settings)
    with audited(settings, terminal, "diagnose", options) as audit:
        return _diagnose(settings, file, options, terminal, audit)


def _diagnose(settings: Settings, file: str, options: CaseOptions, terminal: Terminal, audit: Audit) -> int:
    require_writable(options.output, options.force)
    case = _in_language(read_one(file, options, settings.no_input), settings.lang)
    announce(terminal, case.chinese)
    report(terminal, Checked.of(case, options.accept_implausible))
    with opened(settings, terminal, case.chinese) as model:
        with terminal.meter("Working", "tokens") as advance:
            record = run_diagnosis(case, diagnose_options(settings, options), model, _counter(advance))
        page = _page(record, case, settings, terminal)
        _deliver(terminal, page, options)
        audit.result(record, page, _exit_code(record, options))
        print_stats(settings, terminal, model)
    return _exit_code(record, options)


def _in_language(case: Case, lang: str | None) -> Case:
    return case if lang is None else case.model_copy(update={"language": lang})


def _counter(advance: Advance) -> Callable[[Piece], None]:
    count = 0

    def see(piece: Piece) -> None:
        nonlocal count
        count += piece.tokens
        advance(count, None)

    return see


def _page(record: dict[str, Any], case: Case, settings: Settings, terminal: Terminal) -> str:
    page = write(record, case, "json" if settings.json else "text", settings.plain, terminal.width)
    return page if settings.json else clean(page + _reasoning(record, case, settings.plain, terminal.width))


def _reasoning(record: Mapping[str, Any], case: Case, plain: bool, width: int) -> str:
    """The reasoning that was asked for, last: a page begins with what must be read first."""
    if not record.get("reasoning"):
        return ""
    style = Style(width, plain)
    lines = style.heading(WORDS["reasoning"][case.chinese])
    for paragraph in record["reasoning"].splitlines():
        lines += wrap(paragraph, style)
    return "\n".join(lines) + "\n"


def _deliver(terminal: Terminal, page: str, options: CaseOptions) -> None:
    if options.output is None or options.output == STDIN:
        terminal.answer(page)
        return
    write_whole(options.output, page if page.endswith("\n") else f"{page}\n", options.force)
    terminal.remark(f"Written to {options.output}.")


def _exit_code(record: Mapping[str, Any], options: CaseOptions) -> int:
    if record["status"] == "error":
        return GenerationError.exit_code
    return FAIL_ON if reaches(record, options.fail_on) else 0
