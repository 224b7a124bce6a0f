"""`antangel validate`: read and check cases, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.auditing import audited
from antangel_cli.cases import Checked, read_one
from antangel_cli.clinic.writers.json_text import dumped
from antangel_cli.errors import CommandError
from antangel_cli.escapes import clean
from antangel_cli.files import STDIN, require_writable, write_whole
from antangel_cli.options import CaseOptions
from antangel_cli.outcome import describe
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal


def validate(settings: Settings, files: Sequence[str], options: CaseOptions) -> int:
    """Print the facts and warnings of each file; the exit code is that of the worst. Each leaves an audit line."""
    terminal = Terminal.of(settings)
    require_writable(options.output, options.force)
    with audited(settings, terminal, "validate", options) as audit:
        outcomes = []
        for file in files:
            outcomes.append(outcome := _outcome(terminal, settings, file, options))
            audit.checked(outcome.checked, outcome.text, outcome.code)
        _deliver(terminal, "\n".join(outcome.text for outcome in outcomes if outcome.text), options)
    return max((outcome.code for outcome in outcomes), default=0)


@dataclass(frozen=True)
class _Outcome:
    """What became of a file: what is written of it, its exit code, and its case where it was read."""

    text: str = field(repr=False)
    code: int
    checked: Checked | None = field(default=None, repr=False)


def _outcome(terminal: Terminal, settings: Settings, file: str, options: CaseOptions) -> _Outcome:
    try:
        checked = Checked.of(read_one(file, options, settings.no_input), options.accept_implausible)
        text = _text(checked.record | {"file": file}) if settings.json else _page(terminal, file, checked)
        return _Outcome(text, 0, checked)
    except Exception as error:
        failure = describe(error)
        code = _code(failure, error)
        terminal.failure(failure)
        record = {"file": file, "status": "error", "error": failure.record}
        return _Outcome(_text(record) if settings.json else "", code)


def _code(failure: CommandError, error: Exception) -> int:
    """The failure's exit code; what is no rejected input or unreadable file is not ours to swallow."""
    if failure.code == "internal":
        raise error
    return failure.exit_code


def _text(record: Mapping[str, Any]) -> str:
    return dumped(record)


def _page(terminal: Terminal, file: str, checked: Checked) -> str:
    return "\n".join(
        [
            terminal.rows(f"{file}: {checked.case.id}", list(_rows(checked.record))),
            *map(clean, [*checked.alarms(), *checked.remarks()]),
        ]
    )


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Each fact: id, kind, text, what its number was converted to, and its place in the document it came from."""
    converted = {entry["path"]: f"= {entry['converted']}" for entry in record["checks"]["unit_conversions"]}
    for fact in record["facts"]:
        place = fact["source"] or fact["path"]
        yield fact["id"], fact["kind"], fact["text"], converted.get(fact["path"], ""), place


def _deliver(terminal: Terminal, text: str, options: CaseOptions) -> None:
    if not text:
        return
    if options.output is None or options.output == STDIN:
        terminal.answer(text)
    else:
        write_whole(options.output, f"{text}\n", options.force)
