"""What benchmarks ask: the invented example cases, put as `diagnose` puts them, in English and in Chinese."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from antangel_cli import ROOT
from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks import facts_to_use
from antangel_cli.clinic.model import Turn
from antangel_cli.clinic.prompt import case_message, load_prompt
from antangel_cli.clinic.readers import read_case

EXAMPLES = ROOT / "examples"
SAMPLES = Path(__file__).with_name("clinic") / "samples"


def conversations() -> tuple[tuple[Turn, ...], ...]:
    """Each case in its own language, then each in the other; an installed wheel has fewer cases than a clone."""
    cases = tuple(_cases())
    return tuple(_conversation(case, case.chinese) for case in cases) + tuple(
        _conversation(case, not case.chinese) for case in cases
    )


def _cases() -> Iterator[Case]:
    for path in sorted(EXAMPLES.glob("*.json")) or sorted(SAMPLES.glob("case.*.json")):
        yield read_case(path.read_bytes(), path.name)


def _conversation(case: Case, chinese: bool) -> tuple[Turn, ...]:
    facts = facts_to_use(case, False)
    system = load_prompt("diagnose", chinese).system
    return Turn("system", system), Turn("user", case_message(case, chinese, facts))
