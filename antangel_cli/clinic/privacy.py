"""Plain patterns of identifiers in free text: found, and with `--redact` replaced. Never called de-identification."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from antangel_cli.clinic.memo import remembered
from antangel_cli.clinic.rules import load_rules

REMOVED = "[removed]"

_FULL_WIDTH = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
"""Full-width digits and letters, folded one to one so that places in the text stay true."""

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


@dataclass(frozen=True)
class Identifier:
    """An identifier in a text: its kind and where it stands, never what it says."""

    kind: str
    start: int
    end: int


@remembered
def identifiers_in(text: str) -> tuple[Identifier, ...]:
    """What in a text has the form of an identifier, from left to right; of overlapping ones the longer."""
    found: list[Identifier] = []
    for match in sorted(_matches(text.translate(_FULL_WIDTH)), key=lambda m: (m.start, m.start - m.end)):
        if not found or match.start >= found[-1].end:
            found.append(match)
    return tuple(found)


def without_identifiers(text: str) -> tuple[str, Counter[str]]:
    """A text with each identifier replaced by `[removed]`, and how many of each kind there were."""
    found = identifiers_in(text)
    pieces, last = [], 0
    for match in found:
        pieces += [text[last : match.start], REMOVED]
        last = match.end
    return "".join([*pieces, text[last:]]), Counter(match.kind for match in found)


def without_words(text: str, words: Iterable[str]) -> tuple[str, int]:
    """A text with whole words of a patient's own record (names, numbers) replaced, and how many."""
    known = sorted({word for word in words if len(word) > 1}, key=len, reverse=True)
    if not known:
        return text, 0
    return re.subn(rf"(?<![A-Za-z\d])(?:{'|'.join(map(re.escape, known))})(?![A-Za-z\d])", REMOVED, text)


def _matches(text: str) -> Iterator[Identifier]:
    for kind, pattern, valid in _patterns():
        for match in pattern.finditer(text):
            if valid(match["id"]):
                yield Identifier(kind, *match.span("id"))


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...]:
    return tuple(
        (
            row["kind"],
            re.compile(f"{row.get('label', '')}(?P<id>{row['find']})", re.IGNORECASE),
            _CHECKSUMS[row.get("checksum")],
        )
        for row in load_rules("privacy")["patterns"]
    )


def _chinese_id(number: str) -> bool:
    """The check character of GB 11643 (ISO 7064, MOD 11-2)."""
    total = sum(int(digit) * weight for digit, weight in zip(number, _ID_WEIGHTS, strict=False))
    return number[-1].upper() == "10X98765432"[total % 11]


def _nhs_number(number: str) -> bool:
    """The check digit of an NHS number (modulus 11)."""
    digits = [int(char) for char in number if char.isdigit()]
    check = -sum(digit * weight for digit, weight in zip(digits, range(10, 1, -1), strict=False)) % 11
    return check == digits[-1]


_CHECKSUMS: dict[str | None, Callable[[str], bool]] = {
    None: lambda _: True,
    "chinese_id": _chinese_id,
    "nhs_number": _nhs_number,
}
