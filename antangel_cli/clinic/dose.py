"""Doses in a model's words are withheld: nothing here knows the patient's weight, kidneys or other drugs."""

from __future__ import annotations

import re
import unicodedata

UNCHECKED = {"en": "[unchecked dose]", "zh": "[剂量未核对]"}
WITHHELD = {"en": "[dose: see formulary]", "zh": "[剂量：请查处方集]"}

_NUMBER = r"\d[\d,]{0,30}(?:\.\d{1,30})?"
"""Bounded: in a text of numbers and commas each could begin anywhere and reach to its end."""
_AMOUNT = rf"(?<![A-Za-z\d.]){_NUMBER}(?:\s*(?:-|–|—|~|to|至|到)\s*{_NUMBER})?"
_UNIT = (
    r"(?:mg|g|mcg|ug|μg|micrograms?|milligrams?|grams?|iu|units?|ml|millilit(?:er|re)s?|mmol|meq"
    r"|tablets?|capsules?|puffs?|drops?|毫克|微克|克|国际单位|单位|毫升|片|粒|支|滴|喷|揿)"
)
_PER = (
    r"(?:\s*(?:/|per |每)\s*"
    r"(?:kg|公斤|千克|min(?:ute)?|h(?:our|r)?|day|d|dose|m2|分钟|小时|日|天|次)(?![a-z]))*"
)
_DOSE = re.compile(rf"{_AMOUNT}[\s-]*{_UNIT}(?![a-z])(?!\s*/\s*(?:d?l|ml|μl|分?升|毫升)){_PER}", re.IGNORECASE)


def withhold_doses(text: str, chinese: bool) -> str:
    """The text with every dose replaced; concentrations such as `5 mmol/L` stay."""
    folded = unicodedata.normalize("NFKC", text)
    replaced = _DOSE.sub(WITHHELD["zh" if chinese else "en"], folded)
    return text if replaced == folded else replaced


def mark_doses(text: str, chinese: bool) -> str:
    """The text with a mark behind every dose, that nobody has checked it."""
    folded = unicodedata.normalize("NFKC", text)
    mark = UNCHECKED["zh" if chinese else "en"]
    marked = _DOSE.sub(lambda match: f"{match.group()} {mark}", folded)
    return text if marked == folded else marked
