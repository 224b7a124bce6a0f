"""Patterns that others write: accepted only when no text can make them slow."""

from __future__ import annotations

import re
from math import prod
from re import _constants as code  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LONGEST = 500
"""Characters of a pattern."""
MOST_WAYS = 10_000
"""In how many ways a pattern may be tried at one place of a text: what bounds the time of a search."""

_REPEATS = {code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT}
_ESCAPE = re.compile(r"\\.")


def pattern_fault(pattern: str) -> str | None:
    """What is wrong with a pattern over folded text, None when nothing is."""
    if len(pattern) > LONGEST:
        return f"has more than {LONGEST} characters"
    try:
        parsed = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError):
        return "is no regular expression"
    if parsed.getwidth()[0] == 0:
        return "matches an empty text, and so every case"
    if _ESCAPE.sub("", pattern) != _ESCAPE.sub("", pattern).lower():
        return "has capital letters; it is compared with text in lower case"
    return _slow(parsed)


def _slow(parsed: Any) -> str | None:
    try:
        ways = _ways(parsed)
    except _UnboundedError as reason:
        return str(reason)
    return None if ways <= MOST_WAYS else "can be tried in too many ways; use fewer or shorter repeats"


class _UnboundedError(Exception):
    """A construct whose cost no count bounds."""


def _ways(parsed: Any) -> int:
    """In how many ways a sequence can be matched from one place, at most."""
    return prod(_ways_of(operation, argument) for operation, argument in parsed)


def _ways_of(operation: Any, argument: Any) -> int:
    if operation in _REPEATS:
        return _ways_of_repeat(*argument)
    if operation is code.SUBPATTERN:
        return _ways(argument[-1])
    if operation is code.BRANCH:
        return sum(_ways(branch) for branch in argument[1])
    if operation in (code.ASSERT, code.ASSERT_NOT):
        return _ways(argument[1])
    if operation in (code.GROUPREF, code.GROUPREF_EXISTS, code.ATOMIC_GROUP):
        raise _UnboundedError("refers back to a group; write it out")
    return 1


def _ways_of_repeat(least: int, most: int, body: Any) -> int:
    if most == code.MAXREPEAT:
        raise _UnboundedError("repeats without end; write {0,40} for * and {1,40} for +")
    inner = min(_ways(body), MOST_WAYS + 1)
    if inner == 1:
        return int(most - least + 1)
    # Never more than the limit is counted: a power of thousands would only take time.
    ways: int = sum(inner**count for count in range(least, min(most, least + 20) + 1))
    return min(ways, MOST_WAYS + 1)
