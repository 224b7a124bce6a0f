"""Of long histories: the newest of each, and what was measured before this encounter told as history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from antangel_cli.clinic.readers.parts import Found, Part, Remark
from antangel_cli.clinic.readers.times import instant

CURRENT = {
    "vitals": timedelta(days=1), "labs": timedelta(days=7), "findings": timedelta(days=30), "notes": timedelta(days=1),
}  # fmt: skip
"""How long before the encounter a value may have been measured or noted, or a finding observed, and be current."""


def each_text_once(found: Iterable[Found]) -> Iterator[Found]:
    """Reports and notes without those of the same words: some exports hold each as a report and as a document."""
    seen: set[str] = set()
    for row in found:
        text = row.content.get("text") if isinstance(row, Part) and row.section in ("imaging", "notes") else None
        if text is None or text not in seen:
            yield row
        if text is not None:
            seen.add(text)


def newest_of_each(found: Iterable[Found]) -> Iterator[Found]:
    """Keep the newest of the parts with one key, and all that are as new; count the rest."""
    rows = list(found)
    latest: dict[tuple[str, str], datetime] = {}
    for row in rows:
        if isinstance(row, Part) and row.key:
            key = (row.section, row.key)
            latest[key] = max(latest.get(key, _at(row)), _at(row))
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        if not isinstance(row, Part) or not row.key:
            yield row
            continue
        same = (row.section, row.key, repr(sorted(row.content.items(), key=lambda item: item[0])))
        if _at(row) < latest[row.section, row.key] or same in seen:
            yield Remark("older_left_out", row.section)
        else:
            seen.add(same)
            yield row


def _at(part: Part) -> datetime:
    return instant(part.time) or datetime.min.replace(tzinfo=UTC)


def old_values_as_history(found: Iterable[Found], now: datetime | None) -> Iterator[Found]:
    """Values from long before the encounter, with their date: no rule may take them for the patient's state."""
    for row in found:
        at = instant(row.time) if isinstance(row, Part) else None
        if isinstance(row, Part) and row.section in CURRENT and at and now and at < now - CURRENT[row.section]:
            kept = {name: row.content.get(name) for name in ("code", "status")}
            yield Part("history", {"text": _dated(row), **kept}, row.source)
            yield Remark("told_as_history", row.section)
        else:
            yield row


def _dated(part: Part) -> str:
    if "text" in part.content:
        return f"{part.content['text']} ({(part.time or '')[:10]})"
    value = part.content["value"]
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    pieces = (part.content["name"], shown, part.content.get("unit"), f"({(part.time or '')[:10]})")
    return " ".join(piece for piece in pieces if piece)
