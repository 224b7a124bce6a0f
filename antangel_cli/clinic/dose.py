"""Doses in a model's words are withheld: nothing here knows the patient's weight, kidneys or other drugs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

from antangel_cli.clinic.rules import load_rules

UNCHECKED = {"en": "[unchecked dose]", "zh": "[剂量未核对]"}
WITHHELD = {"en": "[dose: see formulary]", "zh": "[剂量：请查处方集]"}

_NUMBER = r"(?:\d{1,3}[/⁄]\d{1,3}(?!\d)|\d[\d,]{0,30}+(?:\.\d{1,30}+)?+)"
"""Bounded: in a text of numbers and commas each could begin anywhere and reach to its end."""
_RANGE = r"\s?(?:-|–|—|~|to|or|至|到|或)\s?"
_NO_CONCENTRATION = (
    r"(?![a-z\d%])(?!\s?(?:/|per )\s?(?:d?l|m?mol|g|[mμu]l|分?升|毫升|100 ?ml)(?![a-z]))(?!\s?/\s?min\s?/\s?1\.73)"
)
_REACH = 60
"""Characters before an amount that say it was measured."""


def withhold_doses(text: str, chinese: bool) -> str:
    """The text with every dose replaced; concentrations such as `5 mmol/L` and amounts that were measured stay."""
    return _each_dose(text, lambda dose: WITHHELD["zh" if chinese else "en"])


def mark_doses(text: str, chinese: bool) -> str:
    """The text with a mark behind every dose, that nobody has checked it."""
    return _each_dose(text, lambda dose: f"{dose} {UNCHECKED['zh' if chinese else 'en']}")


def _each_dose(text: str, instead: Callable[[str], str]) -> str:
    folded = unicodedata.normalize("NFKC", text)
    replaced = _dose().sub(lambda m: m.group() if _was_measured(m) else instead(m.group()), folded)
    return text if replaced == folded else replaced


def _was_measured(match: re.Match[str]) -> bool:
    """Whether an amount is what the patient weighs, loses or makes; never one in milligrams or per kilogram."""
    before = match.string[max(0, match.start() - _REACH) : match.start()]
    return bool(_pattern("measured").search(before)) and not _pattern("never_measured").search(match.group())


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(load_rules("doses")["forms"][name], re.IGNORECASE)


@cache
def _dose() -> re.Pattern[str]:
    """A dose: an amount with its unit, what it is per, by what and how often it is given; or `400 tds`."""
    forms: dict[str, str] = load_rules("doses")["forms"]
    word = rf"(?<![a-z-]){forms['word']}(?:[\s-](?:and[\s-])?{forms['word']}){{0,4}}(?:\sof)?(?:\san?)?"
    figures = rf"(?<![a-z\d.⁄])(?:\d{{1,3}}\s?[x×]\s?)?{_NUMBER}(?:{_RANGE}{_NUMBER})?"
    number = forms["chinese_number"]
    western = rf"(?:{forms['unit']}|{forms['form']}){_NO_CONCENTRATION}"
    chinese = rf"(?:{forms['chinese_form']}|{forms['unit']}{_NO_CONCENTRATION})"
    amounts = (
        rf"{figures}[\s-]{{0,2}}{western}",
        rf"{word}(?:{_RANGE}{word})?[\s-]{western}",
        rf"(?:{number}(?:{_RANGE}{number})?|{figures})个?\s?{chinese}",
    )
    given = rf"(?:[\s,、]{{0,2}}(?:{forms['route']})(?![a-z])){{0,2}}(?:[\s,、]{{0,2}}{forms['often']}){{0,3}}"
    whole = rf"(?:{'|'.join(amounts)}){forms['times']}?{forms['per']}{{0,3}}{given}|{figures}\s?{forms['bare']}"
    return re.compile(whole, re.IGNORECASE)
