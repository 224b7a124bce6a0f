"""`antangel diagnose`: one case, a structured differential."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antangel_cli.announce import announce, opened, print_stats
from antangel_cli.answer import answered, deliver
from antangel_cli.auditing import Audit, audited
from antangel_cli.cases import Checked, diagnose_options, read_one, report
from antangel_cli.clinic.case import Case
from antangel_cli.clinic.writers import write
from antangel_cli.errors import FAIL_ON, GenerationError
from antangel_cli.escapes import clean
from antangel_cli.files import require_writable
from antangel_cli.options import CaseOptions
from antangel_cli.repeat import repeat
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal
from antangel_cli.urgency import reaches


def diagnose(settings: Settings, file: str, options: CaseOptions) -> int:
    """Check the case, say what the checks found, then let the model answer."""
    terminal = Terminal.of(settings)
    with audited(settings, terminal, "diagnose", options) as audit:
        require_writable(options.output, options.force)
        if options.replay is not None:
            return repeat(settings, file, options, options.replay, audit)
        return _diagnose(settings, file, options, terminal, audit)


def _diagnose(settings: Settings, file: str, options: CaseOptions, terminal: Terminal, audit: Audit) -> int:
    asked = diagnose_options(settings, options)
    case = _in_language(read_one(file, options, settings.no_input), settings.lang)
    announce(terminal, case.chinese)
    report(terminal, Checked.of(case, options.accept_implausible), unchecked=False)
    with opened(settings, terminal, case.chinese, asked.samples) as model:
        record = answered(case, asked, model, terminal)
        page = _page(record, case, settings, options.format, terminal)
        deliver(terminal, page, options)
        audit.result(record, page, _exit_code(record, options))
        print_stats(settings, terminal, model)
    return _exit_code(record, options)


def _in_language(case: Case, lang: str | None) -> Case:
    return case if lang is None else case.model_copy(update={"language": lang})


def _page(record: dict[str, Any], case: Case, settings: Settings, format: str, terminal: Terminal) -> str:
    page = write(record, case, "json" if settings.json else format, settings.plain, terminal.width)
    return page if settings.json or format == "fhir" else clean(page)


def _exit_code(record: Mapping[str, Any], options: CaseOptions) -> int:
    if record["status"] == "error":
        return GenerationError.exit_code
    return FAIL_ON if reaches(record, options.fail_on) else 0
