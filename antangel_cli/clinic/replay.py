"""A recorded result, run again: what it asks for, what has changed since, and where the two results differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from antangel_cli.clinic.diagnose import DiagnoseOptions
from antangel_cli.clinic.equality import differences
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.result import SCHEMA_ID

REPLAY_SCHEMA = "antangel.replay/1"

Record = dict[str, Any]
Provenance = Mapping[str, Any]

_OPTIONS = TypeAdapter(DiagnoseOptions)
_REMEDY = "Give a file that diagnose or batch of this version wrote."
_MACHINE = ("backend", "device")

PARTS: dict[str, Callable[[Provenance], Any]] = {
    "input": lambda made: made["input_hmac"],
    "model": lambda made: {key: value for key, value in made["model"].items() if key not in _MACHINE},
    "backend": lambda made: [made["model"].get(key) for key in _MACHINE],
    "prompt": lambda made: made["prompt"],
    "schema": lambda made: made["schema"],
    "rules": lambda made: made["rules"],
    "tool": lambda made: made["tool"],
    "sampling": lambda made: [made["sampling"], made["seed"]],
    "options": lambda made: made["options"],
}
"""What a result depends on, and where its provenance says so."""


@dataclass(frozen=True)
class Recorded:
    """A result that was read back, and what it was asked for."""

    record: Record = field(repr=False)
    options: DiagnoseOptions
    context: int

    @property
    def model(self) -> Mapping[str, Any]:
        """The model that made it."""
        model: Mapping[str, Any] = self.record["provenance"]["model"]
        return model


def read_results(text: str, place: str) -> tuple[Recorded, ...]:
    """The results in a file: one, or one on each line as batch writes them. Raises InputError, which names `place`."""
    found = tuple(_recorded(record, place) for record in _records(text, place) if not _is_bare_error(record))
    if not found:
        raise InputError("There is no result.", _REMEDY, place)
    return found


def result_of(results: Sequence[Recorded], case_id: str, place: str) -> Recorded:
    """The only result, or among several that of this case. Raises InputError."""
    found = [r for r in results if r.record["id"] == case_id] if len(results) != 1 else results
    if len(found) == 1:
        return found[0]
    message = "More than one result is of this case." if found else "No result is of this case."
    raise InputError(message, "Give a file with one result of it.", place)


def replay_report(recorded: Record, again: Record) -> Record:
    """`antangel.replay/1`: whether two results are equal, and if not what has changed and where they differ."""
    paths = differences(recorded, again)
    old, new = recorded["provenance"], again["provenance"]
    keyless = None in (old["input_hmac"], new["input_hmac"])
    return {
        "schema": REPLAY_SCHEMA,
        "id": again["id"],
        "status": "replayed",
        "recorded_run_id": recorded["run_id"],
        "run_id": again["run_id"],
        "equal": not paths,
        "answer_equal": all(path.startswith("provenance.") for path in paths),
        "changed": [part for part, of in PARTS.items() if of(old) != of(new) and not (part == "input" and keyless)],
        "unknown": ["input"] if keyless else [],
        "differences": paths,
    }


def _records(text: str, place: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        lines = [line for line in text.split("\n") if line.strip()]
    try:
        return [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        raise InputError("The result is cut off, or no JSON.", _REMEDY, place) from None


def _is_bare_error(record: Any) -> bool:
    """Whether this is a line of a batch that never became a case."""
    return isinstance(record, dict) and record.get("schema") == SCHEMA_ID and "line" in record


def _recorded(record: Any, place: str) -> Recorded:
    if not isinstance(record, dict) or record.get("schema") != SCHEMA_ID:
        raise InputError(f"This is no {SCHEMA_ID} result.", _REMEDY, place)
    try:
        made, _ = record["provenance"], [record[key] for key in ("id", "run_id", "language")]
        options = dict(made["options"])
        context = int(options.pop("context"))
        for of in PARTS.values():
            of(made)
        return Recorded(record, _OPTIONS.validate_python(options), context)
    except (KeyError, TypeError, ValueError, AttributeError):
        message = "The result does not say how it was made, or not as this version does."
        raise InputError(message, _REMEDY, place) from None
