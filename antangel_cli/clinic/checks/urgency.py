"""Urgency: an order, a floor that rules set, and a final value that the model can raise but never lower."""

from __future__ import annotations

from collections.abc import Iterable

ORDER = ("self_care", "routine", "soon", "urgent", "emergency")
"""From lowest to highest; `undetermined` stands outside."""


def highest(urgencies: Iterable[str | None]) -> str | None:
    """The highest of some urgencies; None and `undetermined` do not count."""
    known = [urgency for urgency in urgencies if urgency in ORDER]
    return max(known, key=ORDER.index) if known else None


def final_urgency(floor: str | None, answered: str | None) -> str:
    """The higher of the floor and the model's; `undetermined` when neither says anything."""
    return highest([floor, answered]) or "undetermined"
