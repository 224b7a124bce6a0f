"""JSON read strictly: bounded depth, each key once, no NaN, no number without end; silent about values."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers.intake import clean

MOST_DIGITS = 25
FEW_PARTS = 20_000
BYTES_A_PART = 10
"""Beyond a few parts, each has so many characters in what people write, and takes some ten times that in memory."""

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\]]', re.DOTALL)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_HIDING_ESCAPE = re.compile(r"\\[^\"\\/nt]")
"""An escape that may stand for a character which the first cleaning has not seen."""


def parse_json(text: str, deepest: int) -> tuple[Any, Counter[str]]:
    """The content of a JSON text, and the invisible characters that its escapes hid, by kind.

    Raises InputError with the line and column where the JSON breaks.
    """
    try:
        _require_shallow(text, deepest)
        _require_sparse(text)
        content = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
        )
    except json.JSONDecodeError as error:
        raise InputError(
            f"This is no valid JSON: it breaks at line {error.lineno}, column {error.colno}.",
            "Correct it there, or pass prose with --input-format text.",
        ) from None
    except ValueError:
        raise InputError("A number has too many digits.", "Write measured values as they were reported.") from None
    dropped: Counter[str] = Counter()
    return _cleaned(content, dropped) if _HIDING_ESCAPE.search(text) else content, dropped


def _require_shallow(text: str, deepest: int) -> None:
    """Refuse a bomb of brackets before a parser recurses into it."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        bracket = match[0][0]
        if bracket in "{[":
            depth += 1
            if depth > deepest:
                raise InputError(f"The JSON nests more than {deepest} levels deep.", "See: antangel schema case")
        elif bracket != '"':
            depth -= 1


def _require_sparse(text: str) -> None:
    """Refuse a bomb of tiny parts before a parser makes objects of them; quoted signs are looked at only if need be."""
    most = max(FEW_PARTS, len(text) // BYTES_A_PART)
    if sum(map(text.count, "{[,")) > most and sum(map(_QUOTED.sub("", text).count, "{[,")) > most:
        raise InputError(f"The JSON has more than {most:,} parts.", "Give the parts that matter for this question.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        first = {key: i for i, (key, _) in reversed([*enumerate(pairs)])}
        position = next(i for i, (key, _) in enumerate(pairs) if first[key] < i) + 1
        raise InputError(f"Key {position} of an object repeats an earlier one.", "Keep one of the two.")
    return result


def _no_constant(_: str) -> NoReturn:
    raise InputError("NaN and Infinity are no values.", "Leave the measurement out, or give its value as text.")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if abs(value) < float("inf") else _no_constant(digits)


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise InputError("A number has too many digits.", "Write measured values as they were reported.")
    return int(digits)


def _cleaned(value: Any, dropped: Counter[str]) -> Any:
    """Clean again what JSON escapes could hide from the first pass."""
    if isinstance(value, str):
        text, found = clean(value)
        dropped.update(found)
        return text.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_cleaned(item, dropped) for item in value]
    if isinstance(value, dict):
        return _unique([(_cleaned(key, dropped), _cleaned(item, dropped)) for key, item in value.items()])
    return value
