"""`antangel diagnose --replay RESULT CASE`: a result made again, and whether the two are equal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from antangel_cli.announce import announce, opened
from antangel_cli.answer import answered, deliver
from antangel_cli.auditing import Audit
from antangel_cli.cases import read_one
from antangel_cli.clinic.model import Model
from antangel_cli.clinic.replay import Recorded, read_results, replay_report, result_of
from antangel_cli.errors import SOME_LINES_FAILED, UsageError
from antangel_cli.files import decode, read_input
from antangel_cli.options import CaseOptions
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

MOST_PATHS = 20
"""How many paths a page lists; JSON has them all."""

_WORDS = {
    "equal": ("Equal: the same result again.", "相等：再次得到相同结果。"),
    "answer_equal": ("Not equal, but only in its provenance.", "不相等，但仅来源信息不同。"),
    "differs": ("Not equal.", "不相等。"),
    "changed": ("Changed since: {parts}", "此后有变化：{parts}"),
    "input": (
        "It is another case, or the result was made under another local key.",
        "病例不同，或该结果由另一本地密钥生成。",
    ),
    "unknown": ("Whether the case is the same cannot be told.", "无法判断病例是否相同。"),
    "nothing": ("Nothing that was recorded has changed.", "所记录的条件均无变化。"),
    "differences": ("Differs in:", "不同之处："),
    "more": ("and {count} more (--json lists them all)", "另有{count}处（--json 列出全部）"),
}


def repeat(settings: Settings, file: str, options: CaseOptions, place: str, audit: Audit) -> int:
    """Run a recorded result's case again as it says; 0 when equal, 6 when not. Raises UsageError or InputError."""
    terminal = Terminal.of(settings)
    results = read_results(decode(read_input(place, settings.no_input), place), place)
    reading = results[0].options
    as_then = dataclasses.replace(options, input_format=reading.input_format, redact=reading.redact)
    case = read_one(file, as_then, settings.no_input)
    recorded = result_of(results, case.id, place)
    chinese = recorded.record["language"] == "zh"
    announce(terminal, chinese)
    then = dataclasses.replace(settings, context=recorded.context)
    with opened(then, terminal, chinese, recorded.options.samples) as model:
        _require_model(settings, recorded, model)
        again = answered(case, recorded.options, model, terminal)
    found = replay_report(recorded.record, json.loads(json.dumps(again)))
    page = json.dumps(found, ensure_ascii=False) if settings.json else "\n".join(_page(found, chinese))
    deliver(terminal, page, options)
    code = 0 if found["equal"] else SOME_LINES_FAILED
    audit.result(again, page, code)
    return code


def _require_model(settings: Settings, recorded: Recorded, model: Model) -> None:
    """Another model is run only where it was named on the command line: that it differs is then meant."""
    if model.provenance.get("weights") == recorded.model.get("weights") or settings.origin("model") == "--model":
        return
    raise UsageError(
        f"The result was made by another model than {model.name}.",
        "Name that one with -m DIR; or name this one, to see where its result differs.",
        code="other_model",
    )


def _page(found: Mapping[str, Any], chinese: bool) -> Iterator[str]:
    yield _WORDS["equal" if found["equal"] else "answer_equal" if found["answer_equal"] else "differs"][chinese]
    if found["equal"]:
        return
    changed = found["changed"]
    yield (_WORDS["changed"] if changed else _WORDS["nothing"])[chinese].format(parts=", ".join(changed))
    if "input" in changed:
        yield _WORDS["input"][chinese]
    if found["unknown"]:
        yield _WORDS["unknown"][chinese]
    yield _WORDS["differences"][chinese]
    paths = found["differences"]
    yield from (f"  {path}" for path in paths[:MOST_PATHS])
    if len(paths) > MOST_PATHS:
        yield "  " + _WORDS["more"][chinese].format(count=len(paths) - MOST_PATHS)
