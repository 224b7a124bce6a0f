"""`antangel.case/1`: strict JSON, closed to unknown keys, closed to identifiers, silent about values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from antangel_cli.clinic.case import SCHEMA_ID, Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.facts import MOST_FACTS
from antangel_cli.clinic.readers.intake import Intake
from antangel_cli.clinic.readers.keys import IDENTIFIERS, folded_key, is_measurement_name, keys_at, meant

EXAMPLE = "See a filled case with: antangel schema case --example"

Place = tuple[str | int, ...]
_OF_BIRTH = ("birth", "dob", "出生", "生日")


def read_case_json(intake: Intake, case_id: str) -> Case:
    """Read a case document, under `case_id` if it has no id. Raises InputError with the place of the first fault."""
    content = intake.document
    if not isinstance(content, dict):
        raise InputError("A case is one JSON object, and this is none.", EXAMPLE)
    _require_few(content)
    _refuse_identifiers(content)
    _require_schema(content)
    try:
        return Case.model_validate_json(json.dumps({"id": case_id, **_without_extensions(content)}))
    except ValidationError as error:
        raise _first_problem(error, content) from None


def _require_few(content: dict[str, Any]) -> None:
    """Refuse more entries than there can be facts, before each is made a part of a case."""
    if len(content) + sum(len(value) for value in content.values() if isinstance(value, list)) > MOST_FACTS:
        raise InputError(
            f"The case has more than {MOST_FACTS:,} entries.", "Give the parts that matter for this question."
        )


def _refuse_identifiers(content: dict[str, Any]) -> None:
    for place, key in _keys(content):
        if folded_key(key) in IDENTIFIERS and not is_measurement_name(place, key):
            birth = any(word in folded_key(key) for word in _OF_BIRTH)
            hint = "Give the age instead (patient.age)" if birth else "Leave it out"
            raise InputError(
                "A field that identifies the patient is not taken.",
                f"{hint}, or remove it with --redact.",
                _where((*_told(place, content), folded_key(key))),
            )


def _keys(value: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if (place and place[0] == "gold") or key.startswith("x_"):
                continue
            yield place, key
            yield from _keys(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _keys(item, (*place, index))


def _require_schema(content: dict[str, Any]) -> None:
    if content.get("schema") == SCHEMA_ID:
        return
    if "resourceType" in content:
        raise InputError("This is a FHIR resource, not a case.", "Read it with --input-format fhir.")
    missing = "schema" not in content
    message = "The schema is missing." if missing else "This schema is not known."
    raise InputError(message, f'Add  "schema": "{SCHEMA_ID}". {EXAMPLE}', "schema")


def _without_extensions(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_extensions(item) for key, item in value.items() if not key.startswith("x_")}
    return [_without_extensions(item) for item in value] if isinstance(value, list) else value


def _first_problem(error: ValidationError, content: dict[str, Any]) -> InputError:
    problems = error.errors(include_input=False, include_context=True, include_url=False)
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    problem: Any = (unknown or problems)[0]
    if unknown:
        return _unknown_key(problem["loc"], content)
    message, remedy = _explain(problem)
    return InputError(message, remedy, _where(_known(problem["loc"])))


def _unknown_key(place: Place, content: dict[str, Any]) -> InputError:
    """Name an unknown key only when it stands for a known one: it may be a patient's words."""
    *parents, key = place
    known = keys_at(tuple(parents))
    found = meant(str(key), tuple(parents))
    if found:
        return InputError(
            f'There is no key "{found[0]}".', f'Did you mean "{found[1]}"?', _where(_known(tuple(parents)))
        )
    position = _position(content, tuple(parents), str(key))
    return InputError(
        f"Key {position} is not known.",
        f"Known are {', '.join(sorted(known))}; x_ keys are ignored.",
        _where(_known(tuple(parents))),
    )


def _told(place: Place, content: dict[str, Any]) -> Place:
    """A place with each key that is not known told by its position: it may be a patient's words."""
    return tuple(
        part
        if isinstance(part, int) or part in keys_at(place[:depth])
        else f"key {_position(content, place[:depth], part)}"
        for depth, part in enumerate(place)
    )


def _position(content: Any, parents: Place, key: str) -> int:
    for part in parents:
        content = content[part]
    return list(content).index(key) + 1


def _explain(problem: dict[str, Any]) -> tuple[str, str]:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "missing":
        return "This is missing.", f"Add it. {EXAMPLE}"
    if kind == "literal_error":
        return "This value is not one of those known.", f"Use one of {context['expected']}."
    if kind == "string_pattern_mismatch":
        return (
            "This has characters that are not taken, or is too long.",
            "Use 1 to 64 letters, digits, dots, dashes or underscores.",
        )
    if kind == "string_too_short":
        return "This is empty.", "Fill it, or leave it out."
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return "This number is out of range.", f"It must be {_BOUNDS[kind]} {next(iter(context.values()))}."
    return "This has the wrong type.", f"Give {_TYPES.get(kind, 'what the schema says')}. {EXAMPLE}"


_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}
_TYPES = {
    "string_type": "text in quotes",
    "float_type": "a number",
    "bool_type": "true, false or null",
    "tuple_type": "a list in [ ]",
    "dict_type": "an object in { }",
    "model_type": "an object in { }",
}


def _known(place: Place) -> Place:
    """A place without what pydantic adds for the members of a union."""
    return tuple(part for part in place if part not in ("float", "str", "constrained-str"))


def _where(place: Place) -> str | None:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    return text or None
