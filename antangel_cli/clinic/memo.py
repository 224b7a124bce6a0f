"""What was found in a sentence is kept: in a chat, all that was said is checked at every turn, and little of it is new.

It is kept in this process's memory alone, in a bounded amount, until `forget()`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Concatenate, ParamSpec, TypeVar, cast

SENTENCES = 2048
"""How many are kept for each function, unless it says another number."""
LONGEST = 2000
"""Characters of the longest that is kept."""

Rest = ParamSpec("Rest")
Found = TypeVar("Found")

_forgetting: list[Callable[[], None]] = []


def remembered(
    function: Callable[Concatenate[str, Rest], Found], most: int = SENTENCES
) -> Callable[Concatenate[str, Rest], Found]:
    """The same function of a text, that finds the same again; what it returns must not be changed."""
    kept = lru_cache(maxsize=most)(function)
    _forgetting.append(kept.cache_clear)

    def found(text: str, *rest: Hashable) -> Found:
        return kept(text, *rest) if len(text) <= LONGEST else function(text, *rest)  # type: ignore[call-arg, arg-type]

    return cast("Callable[Concatenate[str, Rest], Found]", found)


def forget() -> None:
    """Keep nothing of what was found before."""
    for each in _forgetting:
        each()
