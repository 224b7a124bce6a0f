"""Folded copies of names and units for matching; what is shown is always the original."""

from __future__ import annotations

import re
import unicodedata

from antangel_cli.clinic.rules import load_rules


def folded(text: str) -> str:
    """Text in lower case with compatibility forms folded: full-width digits, `℃`, superscripts."""
    return unicodedata.normalize("NFKC", text).lower()


def folded_name(name: str) -> str:
    """The name of a measurement without case, spaces, dashes, underscores and dots."""
    return re.sub(r"[\s_.-]+", "", folded(name))


def folded_unit(unit: str) -> str:
    """A unit in one spelling: `×10⁹/L`, `10^9/l` and `10*9/L` are `109/l`; `次/分` and `{beats}/min` are `/min`.

    UCUM's annotations in braces say what is counted, and its brackets mark customary units; neither changes the size.
    """
    text = re.sub(r"\{[^{}]*\}|[\s^*·\[\]]+", "", folded(unit)).replace("μ", "u").replace("mcg", "ug").replace("º", "°")
    for chinese, western in load_rules("chinese_units")["replace"]:
        text = text.replace(chinese, western)
    return re.sub(r"^[x×](?=10)", "", text)
