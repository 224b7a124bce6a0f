"""Ages in words, in digits: `seventy-year-old`, `六十七岁`."""

from __future__ import annotations

import re
from functools import cache

from antangel_cli.clinic.rules import load_rules

_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_CHINESE = "零一二三四五六七八九"


def in_digits(sentence: str) -> str:
    """A folded sentence with the numbers that stand before a unit of age in digits."""
    english, chinese = _patterns()
    return chinese.sub(lambda m: str(_chinese(m["chinese"])), english.sub(_english, sentence))


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    rules = load_rules("demographics")["numbers"]
    return re.compile(rules["english"]), re.compile(rules["chinese"])


def _english(match: re.Match[str]) -> str:
    tens, one = match["tens"] or match["aged"], match["one"] or match["years"]
    if tens is None:
        return str(_SMALL.index(match["small"]))
    return str(10 * _TENS.index(tens) + (_SMALL.index(one) if one else 0))


def _chinese(number: str) -> int:
    """A number from 1 to 99: `三`, `十二`, `六十七`; `两` is two."""
    tens, ten, ones = number.replace("两", "二").rpartition("十")
    return (10 * (_CHINESE.index(tens) if tens else 1) if ten else 0) + (_CHINESE.index(ones) if ones else 0)
