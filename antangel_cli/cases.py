"""A case on its way to the model: read from a file, checked, and what the checks found put into lines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks import Checks, facts_to_use, run_checks
from antangel_cli.clinic.checks.red_flags import Fired
from antangel_cli.clinic.diagnose import MOST_SAMPLES, DiagnoseOptions
from antangel_cli.clinic.facts import Fact, fact_line
from antangel_cli.clinic.prompt import case_message, load_prompt
from antangel_cli.clinic.readers import read_case
from antangel_cli.clinic.readers.prose import language_of, prose_case
from antangel_cli.clinic.writers.vitals import vitals_lines
from antangel_cli.conversation import sampling_of
from antangel_cli.errors import UsageError
from antangel_cli.files import STDIN, read_input
from antangel_cli.options import CaseOptions
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

CHECKED_SCHEMA = "antangel.check/1"

_URGENCY = {
    "emergency": ("emergency", "急症"),
    "urgent": ("urgent", "紧急"),
    "soon": ("soon", "尽快"),
    "routine": ("routine", "常规"),
    "self_care": ("self-care", "自我照护"),
}


def is_chinese(text: str) -> bool:
    """Whether a text is written in Chinese."""
    return language_of(text) == "zh"


def read_one(place: str, options: CaseOptions, no_input: bool = False) -> Case:
    """The case in a file, or on stdin for `-`. Raises UsageError, RejectedError or InputError."""
    data = read_input(place, no_input)
    name = None if place == STDIN else Path(place).name
    return read_case(data, name, options.input_format, redact=options.redact)


def diagnose_options(settings: Settings, options: CaseOptions) -> DiagnoseOptions:
    """What the clinic is asked for. Raises UsageError for samples that could not differ."""
    asked = DiagnoseOptions(
        sampling=sampling_of(settings),
        reasoning=settings.reasoning,
        reasoning_tokens=settings.max_tokens,
        max_dx=settings.max_dx,
        lang=settings.lang,
        timeout_s=settings.timeout,
        accept_implausible=options.accept_implausible,
        samples=options.samples,
        doses=options.doses,
        input_format=options.input_format,
        redact=options.redact,
    )
    _require_sensible_samples(asked)
    return asked


def _require_sensible_samples(asked: DiagnoseOptions) -> None:
    if not 1 <= asked.samples <= MOST_SAMPLES:
        raise UsageError(f"--samples must be from 1 to {MOST_SAMPLES}.", "Correct the number.")
    if asked.samples > 1 and asked.alike is not None:
        raise UsageError(f"With {asked.alike} every sample would be the same.", "Leave out one of it and --samples.")


@dataclass(frozen=True)
class Checked:
    """A case, the facts the model is told, and what the tool found in it."""

    case: Case
    facts: tuple[Fact, ...] = field(repr=False)
    checks: Checks

    @classmethod
    def of(cls, case: Case, accept_implausible: bool = False) -> Checked:
        """Run the checks."""
        rows = facts_to_use(case, accept_implausible)
        return cls(case, rows, run_checks(case, rows, accept_implausible))

    @property
    def record(self) -> dict[str, Any]:
        """What `validate --json` says of a case."""
        return {
            "schema": CHECKED_SCHEMA,
            "id": self.case.id,
            "status": "valid",
            "facts": [
                {"id": fact.id, "kind": fact.kind, "text": fact.text, "path": fact.path, "source": fact.source}
                for fact in self.facts
            ],
            "checks": self.checks.to_json(),
        }

    @property
    def block(self) -> str:
        """The facts between the case marks, as `diagnose` sends them, without its instructions."""
        chinese = self.case.chinese
        message = case_message(self.case, chinese, self.facts)
        return message.removeprefix(load_prompt("diagnose", chinese).instructions).lstrip()

    def fact_lines(self) -> list[str]:
        """Each fact as the model is told it."""
        return [fact_line(fact, self.case.chinese) for fact in self.facts]

    def alarms(self) -> list[str]:
        """The red flags, in the language of the case."""
        chinese = self.case.chinese
        return [red_flag_line(fired, chinese) for fired in self.checks.red_flags]

    def remarks(self, unchecked: bool = True) -> list[str]:
        """What else the checks found, in the language of the case; what was not checked last."""
        found, chinese = self.checks.to_json(), self.case.chinese
        return [*_remarks(found, chinese), *(_not_run(found, chinese) if unchecked else ())]


def read_rules() -> None:
    """Read and compile the rules ahead of the first case, while a model is loaded. What fails, fails there again."""
    with contextlib.suppress(Exception):
        Checked.of(prose_case("Pain.", "rules"))


def report(terminal: Terminal, checked: Checked, unchecked: bool = True) -> None:
    """Say what the checks found, before any model runs; red flags even when quiet.

    Without `unchecked`, what was not checked is left to the page that follows.
    """
    for line in checked.alarms():
        terminal.note(line)
    for line in checked.remarks(unchecked):
        terminal.remark(line)


def red_flag_line(fired: Fired, chinese: bool) -> str:
    """A red flag in words: how urgent, what may be, and the facts it rests on."""
    flag = fired.to_json(chinese)
    label = "红旗征" if chinese else "Red flag"
    facts = f" [{', '.join(flag['fact_ids'])}]" if any(i.startswith("F") for i in flag["fact_ids"]) else ""
    return f"{label} ({_URGENCY[flag['urgency']][chinese]}): {flag['concern']}{facts}"


def _remarks(found: dict[str, Any], chinese: bool) -> Iterator[str]:
    yield from vitals_lines(found, chinese, ("、" if chinese else ", ").join)
    for entry in found["set_aside"]:
        label = "数值不可能，已搁置" if chinese else "Impossible, set aside"
        yield f"{label}: {entry['path']} {entry['value']}"
    for entry in found["injection_suspected"]:
        label = "文字疑似对模型下指令" if chinese else "This reads like an instruction to the model"
        yield f"{label}: {entry.get('fact_id') or entry.get('path') or ''}".rstrip(": ")
    label = "注意" if chinese else "Warning"
    yield from (f"{label}: {warning['message']}" for warning in found["input_warnings"])


def _not_run(found: dict[str, Any], chinese: bool) -> Iterator[str]:
    label = "未检查" if chinese else "Not checked"
    yield from (f"{label}: {entry['message']}" for entry in found["not_run"])
