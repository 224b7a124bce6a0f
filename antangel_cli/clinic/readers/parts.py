"""What a reader of foreign documents yields, piece by piece, and the case made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from antangel_cli.clinic.case import SCHEMA_ID, Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers.prose import language_of

SINGLE = {"patient", "chief_complaint", "setting", "no_known_allergies"}
"""Parts of a case that are no lists: their content is `{field: value}`, merged."""


@dataclass(frozen=True)
class Part:
    """One entry of a section of the case, and its place in the document it was read from.

    Of parts with the same `key` the newest by `time` is kept.
    """

    section: str
    content: dict[str, Any] = field(repr=False)
    source: str
    key: str | None = field(default=None, repr=False)
    time: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Remark:
    """Something that was left out or doubted: a warning's code, and a field or type that it counts."""

    code: str
    kind: str | None = None


Found = Part | Remark


def assemble(case_id: str, found: Iterable[Found], subject: str | None = None) -> Case:
    """The case of these parts; the remarks become its warnings. Raises InputError."""
    rows = list(found)
    parts = [row for row in rows if isinstance(row, Part)]
    content, sources = _content(parts)
    head = {"schema": SCHEMA_ID, "id": case_id, "language": language_of(" ".join(_texts(content)))}
    try:
        case = Case.model_validate({**head, **content})
    except ValidationError as error:
        place = error.errors(include_input=False, include_url=False)[0]["loc"]
        raise InputError(
            "A value is outside what a case can hold.", "Correct it.", sources.get(_path(place), None)
        ) from None
    case._sources = sources
    case._subject = subject
    case._input_warnings = warnings([row for row in rows if isinstance(row, Remark)])
    return case


def warnings(remarks: Sequence[Remark]) -> tuple[dict[str, str | int], ...]:
    """One warning for each code, with how many there are of which kind."""
    codes = dict.fromkeys(remark.code for remark in remarks)
    return tuple(_warning(code, Counter(r.kind for r in remarks if r.code == code)) for code in codes)


def _warning(code: str, kinds: Counter[str | None]) -> dict[str, str | int]:
    if None in kinds:
        return {"code": code}
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items(), key=lambda kind: str(kind[0])))
    return {"code": code, "count": kinds.total(), "kinds": listed}


def _content(parts: Sequence[Part]) -> tuple[dict[str, Any], dict[str, str]]:
    content: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for part in parts:
        if part.section == "patient":
            content.setdefault("patient", {}).update(part.content)
            sources.setdefault("patient", part.source)
        elif part.section in SINGLE:
            content.update(part.content)
            sources[part.section] = part.source
        else:
            rows = content.setdefault(part.section, [])
            sources[f"{part.section}[{len(rows)}]"] = part.source
            rows.append({name: value for name, value in part.content.items() if value is not None})
    return {name: tuple(rows) if isinstance(rows, list) else rows for name, rows in content.items()}, sources


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for name, item in value.items() if name != "code" for text in _texts(item))
    elif isinstance(value, tuple):
        yield from (text for item in value for text in _texts(item))


def _path(place: Sequence[str | int]) -> str:
    return f"{place[0]}[{place[1]}]" if len(place) > 1 and isinstance(place[1], int) else str(place[0])
