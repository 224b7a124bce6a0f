"""Dates that may be partial, and the age between two of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

_YEARS = range(1850, 2200)
"""Years that a record of a patient can speak of; systems write 0001 and 9999 for "none"."""

_PARTIAL = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")


def instant(text: Any) -> datetime | None:
    """A date or time as a moment, UTC where it names no offset; a partial date is its first day."""
    at = _parsed(text) if isinstance(text, str) else None
    return at if at and at.year in _YEARS else None


def _parsed(text: str) -> datetime | None:
    partial = _PARTIAL.fullmatch(text)
    try:
        if partial:
            return datetime(int(partial[1]), int(partial[2] or 1), int(partial[3] or 1), tzinfo=UTC)
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    except ValueError:
        return None


def age_between(birth: Any, now: datetime | None) -> dict[str, Any] | None:
    """The age on the day of `now`, in its own time zone: years, or months under two years.

    Weeks under three months and days under four weeks. None when it would be a guess.
    """
    born = instant(birth)
    if born is None or now is None or now.date() < born.date() or len(birth) < 7:
        return _years_of(birth, now) if born and now else None
    days = (now.date() - born.date()).days
    months = (now.year - born.year) * 12 + now.month - born.month - (now.day < born.day)
    if months >= 24:
        return {"value": float(months // 12), "unit": "a"}
    if days >= 91:
        return {"value": float(months), "unit": "mo"}
    return {"value": float(days // 7), "unit": "wk"} if days >= 28 else {"value": float(days), "unit": "d"}


def _years_of(birth: str, now: datetime) -> dict[str, Any] | None:
    """An age from a year of birth alone, where it is at least three years: less would be a guess."""
    years = now.year - int(birth[:4])
    return {"value": float(years), "unit": "a"} if len(birth) == 4 and years >= 3 else None
