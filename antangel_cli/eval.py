"""`antangel eval`: answers to cases with `gold`, scored, with intervals, and compared with an earlier run."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from antangel_cli.announce import announce, opened, print_stats
from antangel_cli.auditing import audited
from antangel_cli.batch import in_flight
from antangel_cli.batching.output import Stream
from antangel_cli.batching.run import Batch
from antangel_cli.batching.starter import Starter
from antangel_cli.batching.tally import headline
from antangel_cli.case_lines import BadLineError, read_line
from antangel_cli.cases import diagnose_options
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.evaluation.compare import Outline, changes, read_outlines
from antangel_cli.clinic.evaluation.gold import read_gold
from antangel_cli.clinic.evaluation.report import Evaluation, Item
from antangel_cli.errors import INTERRUPTED, SOME_LINES_FAILED, TERMINATED, UsageError
from antangel_cli.eval_import import import_cases
from antangel_cli.eval_page import page
from antangel_cli.files import decode, open_lines, read_input, require_writable, write_whole
from antangel_cli.lines import Line, Lines
from antangel_cli.options import BatchOptions, CaseOptions, EvalOptions
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

Write = Callable[[str], None]


def evaluate(settings: Settings, place: str, options: EvalOptions) -> int:
    """Answer every case, say how well, and exit 6 when something changed against an earlier run."""
    if options.import_format is not None:
        return import_cases(settings, options.import_format, place, options)
    terminal = Terminal.of(settings)
    for output in (options.output, options.results):
        require_writable(output, options.force)
    old = _outlines(options.against)
    lines = [*islice(_lines(place), options.limit)]
    evaluation = Evaluation(_items(lines), options.stability)
    announce(terminal, settings.lang == "zh")
    code = _answer(settings, options, terminal, lines, evaluation)
    if code in (INTERRUPTED, TERMINATED):
        return code
    report = evaluation.report()
    changed = None if old is None else list(changes(old, evaluation.outlines))
    if changed is not None:
        report |= {"against": options.against, "changed": changed}
    _deliver(settings, terminal, report, options)
    return SOME_LINES_FAILED if changed else code


def _outlines(place: str | None) -> dict[str, Outline] | None:
    return None if place is None else read_outlines(decode(read_input(place), place))


def _lines(place: str) -> Iterator[bytes]:
    """The cases of a file of JSON lines, or of a folder's .json files, a line each."""
    if not os.path.isdir(place):
        yield from (line for line in read_input(place).splitlines() if line.strip())
        return
    names = sorted(Path(place).glob("*.json"))
    if not names:
        raise UsageError(f"{place} holds no .json file.", "Name a folder of cases, or a file of JSON lines.")
    for name in names:
        yield b" ".join(read_input(str(name)).splitlines())


def _items(lines: list[bytes]) -> list[Item]:
    """The cases with their gold; a line that is no case is left to the batch, that says so."""
    items, seen = [], set[str]()
    for number, data in enumerate(lines, 1):
        try:
            case = read_line(Line(number, data), "auto", seen)
        except BadLineError:
            continue
        try:
            items.append(Item(case, read_gold(case)))
        except InputError as error:
            raise InputError(error.message, error.remedy, f"case {number}: {error.place}") from None
    return items


def _answer(
    settings: Settings, options: EvalOptions, terminal: Terminal, lines: list[bytes], evaluation: Evaluation
) -> int:
    """Run the cases and their twins as one batch; its exit code."""
    twins = [case.model_dump_json(by_alias=True).encode() for case in evaluation.twins]
    stream = Lines(io.BytesIO(b"\n".join([*lines, *twins])))
    with (
        audited(settings, terminal, "eval", CaseOptions()) as audit,
        open_lines(options.results or os.devnull, options.force) as write,
        opened(settings, terminal, settings.lang == "zh", settings.concurrency) as model,
    ):
        starter = Starter(settings, diagnose_options(settings, CaseOptions()), CaseOptions(), model, requests=False)
        take = Stream(_taker(evaluation, write))
        summary = Batch(starter, BatchOptions(), terminal, take, in_flight(settings, model), audit).run(stream)
        terminal.remark(headline(summary))
        print_stats(settings, terminal, model)
    return int(summary["exit_code"])


def _taker(evaluation: Evaluation, write: Write) -> Write:
    def take(line: str) -> None:
        record = json.loads(line)
        evaluation.take(record)
        if not evaluation.is_twin(record["id"]):
            write(line)

    return take


def _deliver(settings: Settings, terminal: Terminal, report: dict[str, Any], options: EvalOptions) -> None:
    text = json.dumps(report, ensure_ascii=False) if settings.json else page(terminal, report, settings.lang == "zh")
    if options.output is None:
        terminal.answer(text)
        return
    write_whole(options.output, f"{text}\n", options.force)
    terminal.remark(f"Written to {options.output}.")
