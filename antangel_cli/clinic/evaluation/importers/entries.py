"""What importers share: JSON lines, case ids, and a case from its text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from antangel_cli.clinic.case import SCHEMA_ID
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers.prose import language_of

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def objects(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number and object; blank lines are passed over. Raises InputError."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise unlike(number)
        yield number, content


def unlike(number: int, remedy: str = "Give the file as it was published.") -> InputError:
    """An entry that has not the published form."""
    return InputError(f"Line {number} has not the form of this data set.", remedy)


def case_of(entry_id: Any, number: int, narrative: str, gold: dict[str, Any], **about: Any) -> dict[str, Any]:
    """A case in the language that it is written in, with the entry's own id where it has the form of one."""
    taken = isinstance(entry_id, str) and _ID.fullmatch(entry_id)
    return {
        "schema": SCHEMA_ID,
        "id": entry_id if taken else f"entry-{number}",
        "language": language_of(narrative),
        "narrative": narrative,
        **about,
        "gold": gold,
    }


def choice(options: Iterable[str], chinese: bool) -> str:
    """The options of a question, to choose one of."""
    return f"{'请选择其一' if chinese else 'Which one'}: {'; '.join(options)}"


def text(value: Any, number: int) -> str:
    """A text that an entry must have. Raises InputError."""
    if isinstance(value, str) and value.strip():
        return value
    raise unlike(number)
