"""What pages and FHIR say of the vital signs: the score of an adult, the age band of a child."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from antangel_cli.clinic.rules import load_rules
from antangel_cli.clinic.writers.words import VALUES, WORDS

Joined = Callable[[Iterable[str]], str]
"""How several texts stand on one line."""


def vitals_lines(checks: dict[str, Any], chinese: bool, joined: Joined) -> Iterator[str]:
    """NEWS2, and a child's vital signs beside its age band, where they were checked."""
    if checks["news2"]:
        yield _news2(checks["news2"], chinese) + _lacking(checks["news2"]["missing"], chinese, joined)
    if checks["paediatric"]:
        yield paediatric_line(checks["paediatric"], chinese, joined)


def _news2(score: dict[str, Any], chinese: bool) -> str:
    band = f" ({_value(score['band'], chinese)})" if score["band"] else ""
    least = WORDS["at_least"][chinese] if score["partial"] else ""
    return WORDS["news2"][chinese].format(least=least, score=score["score"], band=band)


def paediatric_line(found: dict[str, Any], chinese: bool, joined: Joined) -> str:
    """A child's vital signs that are out of range for its age, and what was not recorded."""
    rows = [_out_of_range(row, chinese) for row in found["out_of_range"]]
    said = joined(rows) if rows else WORDS["in_range"][chinese]
    text = WORDS["age_band"][chinese].format(band=band_name(found["band"], chinese), found=said)
    return text + _lacking(found["missing"], chinese, joined)


def _out_of_range(row: dict[str, Any], chinese: bool) -> str:
    name, urgency = _value(row["name"], chinese), _value(row["urgency"], chinese)
    if row["unit"] is None:
        return f"{name} {row['value']} ({urgency})"
    limits = WORDS["limits"][chinese].format(low=f"{row['low']:g}", high=f"{row['high']:g}")
    return f"{name} {row['value']:.4g} {row['unit']} ({limits}; {urgency})"


def _lacking(missing: list[str], chinese: bool, joined: Joined) -> str:
    names = joined(_value(name, chinese) for name in missing)
    return f"; {WORDS['lacking'][chinese].format(names=names)}" if missing else ""


def band_name(band: str, chinese: bool) -> str:
    """An age band in words; the name itself where these rules have no such band."""
    rows = load_rules("paediatric")["band"]
    return next((str(row["name"]["zh" if chinese else "en"]) for row in rows if row["id"] == band), band)


def _value(key: str, chinese: bool) -> str:
    return VALUES[key][chinese]
