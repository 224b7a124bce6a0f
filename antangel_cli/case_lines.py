"""A line of a batch as a case."""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.readers import read_case
from antangel_cli.clinic.readers.phenopacket import is_phenopacket
from antangel_cli.errors import CommandError, RejectedError
from antangel_cli.lines import LONG, Line
from antangel_cli.outcome import describe

ID_FORM = "Use 1 to 64 letters, digits, dots, dashes or underscores."
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Seen(Protocol):
    """The ids that have come: a set, or a smaller thing."""

    def __contains__(self, name: object, /) -> bool: ...
    def add(self, name: str, /) -> None: ...


class BadLineError(Exception):
    """A line is no case. `id` is the case's, where that much could be read."""

    def __init__(self, case_id: str | None, reason: CommandError) -> None:
        super().__init__(reason.message)
        self.id = case_id
        self.reason = reason


def read_line(line: Line, input_format: str, seen: Seen, redact: bool = False) -> Case:
    """The case of a line: a case, a FHIR resource, a Phenopacket, `{"id", "case"}`, or, when asked for, text.

    Adds its id to `seen`; text, and what comes with an id that may identify, is `line-N`.

    Raises BadLineError.
    """
    name = f"line-{line.number}"
    if input_format == "text":
        case_id, content, wrapped = None, {}, False
    else:
        content = parse_object(line)
        wrapped = set(content) == {"id", "case"}
        foreign = not wrapped and _foreign(content)
        case_id = None if foreign else _id(content)
        if not foreign and input_format in ("auto", "case"):
            _require_id(content, line.number)
    require_new(case_id or name, line.number, seen)
    if wrapped:
        case = _unwrapped(content, case_id, line.number, redact)
    else:
        case = _read(line_data(line), input_format, case_id, name, redact)
    seen.add(case.id)
    return case


def line_data(line: Line) -> bytes:
    """A line's bytes, without a byte order mark. Raises BadLineError above 1 MiB."""
    data = (line.data or b"").removeprefix(b"\xef\xbb\xbf")
    if len(data) > LONG:
        raise _bad(None, f"Line {line.number} is longer than 1 MiB.", "Shorten the case.", "too_long")
    return data


def require_new(case_id: str, number: int, seen: Seen) -> None:
    """Refuse an id that has come before. Raises BadLineError."""
    if case_id in seen:
        raise _bad(case_id, f"Line {number} repeats an id.", "Give each case its own.", "duplicate_id")


def parse_object(line: Line) -> dict[str, Any]:
    """The JSON object on a line, each key once. Raises BadLineError."""
    try:
        content = json.loads(line_data(line), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content
    raise _bad(
        None,
        f"Line {line.number} is no JSON object, or repeats a key.",
        "Put one case on each line, each key once.",
        "bad_json",
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two values for one key, either could be the true one."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key is repeated")
    return content


def _id(content: dict[str, Any]) -> str | None:
    """The id, when it has the form of one: anything else may be a patient's words and is not repeated."""
    found = content.get("id")
    return found if isinstance(found, str) and ID.fullmatch(found) else None


def _require_id(content: dict[str, Any], number: int) -> None:
    """Refuse a case without an id: its result could not be told from another's. Raises BadLineError."""
    if "id" not in content:
        raise _bad(None, f"The case of line {number} has no id.", f"Add one. {ID_FORM}", "bad_id")


def _foreign(content: dict[str, Any]) -> bool:
    """Whether a document is one of another format, whose `id` may be a record number."""
    return "schema" not in content and ("resourceType" in content or is_phenopacket(content))


def _unwrapped(content: dict[str, Any], case_id: str | None, number: int, redact: bool) -> Case:
    """The case inside `{"id", "case"}`: an object, or text."""
    inner = content["case"]
    if case_id is None:
        raise _bad(None, f"The id of line {number} has a form that is not taken.", ID_FORM, "bad_id")
    if isinstance(inner, str):
        return _read(inner.encode("utf-8", "replace"), "text", case_id, redact=redact)
    if isinstance(inner, dict):
        document = inner if _foreign(inner) else {**inner, "id": case_id}
        return _read(json.dumps(document).encode(), "auto", case_id, redact=redact)
    raise _bad(case_id, f"The case of line {number} is neither an object nor text.", "Correct it.", "bad_case")


def _read(data: bytes, input_format: str, case_id: str | None, name: str | None = None, redact: bool = False) -> Case:
    try:
        return read_case(data, None, input_format, case_id or name or "case-1", redact)
    except Exception as error:
        raise BadLineError(case_id, describe(error)) from error


def _bad(case_id: str | None, message: str, remedy: str, code: str) -> BadLineError:
    return BadLineError(case_id, RejectedError(message, remedy, code=code, stage="input"))
