"""Two runs over the same cases: whose first three, urgency or checks are others now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.evaluation.scoring import answered
from antangel_cli.clinic.post_checks import normalized_name

Outline = dict[str, Any]
REPORT_SCHEMA = "antangel.eval/1"
TOP = 3
COMPARED = ("id", "status", "top3", "urgency_final", "checks")

_WORDS_ONLY = {"message", "concern", "rules", "source"}
"""What checks say about a finding, not what they found."""


def top_names(record: Mapping[str, Any]) -> list[str]:
    """The first three diagnoses, normalised."""
    return [normalized_name(diagnosis["name"]) for diagnosis in answered(record)[:TOP]]


def outline(record: Mapping[str, Any]) -> Outline:
    """What of a record is compared."""
    return {
        "id": record["id"],
        "status": record["status"],
        "top3": top_names(record),
        "urgency_final": record.get("urgency_final"),
        "checks": _found(record.get("checks", {})),
    }


def _found(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _found(each) for key, each in value.items() if key not in _WORDS_ONLY}
    return [_found(each) for each in value] if isinstance(value, list) else value


def read_outlines(text: str) -> dict[str, Outline]:
    """The outlines in result lines, or in the report of an earlier evaluation, by id. Raises InputError."""
    found: dict[str, Outline] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found |= {each["id"]: each for each in _outlines(line, number) if isinstance(each["id"], str)}
    return found


def _outlines(line: str, number: int) -> list[Outline]:
    try:
        content = json.loads(line)
        if content.get("schema") == REPORT_SCHEMA:
            return [{key: each[key] for key in COMPARED} for each in content["cases"]]
        return [outline(content)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"Line {number} is no result, and no report of an evaluation.",
            "Give the lines that batch or eval --results wrote, or the file that eval --json -o wrote.",
        ) from None


def changes(old: Mapping[str, Outline], new: Mapping[str, Outline]) -> Iterator[dict[str, Any]]:
    """Each case that changed, and in what; one that only a run has is `missing` or `new`."""
    for case_id in dict.fromkeys((*old, *new)):
        if case_id not in new or case_id not in old:
            yield {"id": case_id, "changed": ["missing" if case_id in old else "new"]}
        elif changed := list(_differences(old[case_id], new[case_id])):
            yield {"id": case_id, "changed": changed}


def _differences(old: Outline, new: Outline) -> Iterator[str]:
    yield from (key for key in ("status", "top3", "urgency_final") if old[key] != new[key])
    for check in dict.fromkeys((*old["checks"], *new["checks"])):
        if old["checks"].get(check) != new["checks"].get(check):
            yield f"checks.{check}"
