"""From bytes to clean text: bounded, UTF-8, NFC, without characters that nobody sees."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers.kinds import not_utf8, require_text

MOST_BYTES = 1 << 20
MOST_FHIR_BYTES = 64 << 20
DEEPEST = 16
"""A case nests five levels deep; far more is no case."""
DEEPEST_FHIR = 64
"""Extensions and contained resources nest; more than this no export does."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True)
class Intake:
    """Clean text, and how many invisible characters of which kind were dropped from it."""

    text: str = field(repr=False)
    dropped: Counter[str]

    @property
    def warnings(self) -> tuple[dict[str, str | int], ...]:
        """One warning for each kind that was dropped."""
        return tuple({"code": f"dropped_{kind}", "count": count} for kind, count in sorted(self.dropped.items()))

    @cached_property
    def document(self) -> Any:
        """The text as JSON, read once. Raises InputError."""
        from antangel_cli.clinic.readers.strict_json import parse_json

        fhir = '"resourceType"' in self.text
        content, hidden = parse_json(self.text, DEEPEST_FHIR if fhir else DEEPEST)
        self.dropped.update(hidden)
        return content

    def require_at_most(self, most: int) -> None:
        """Raise InputError when the text has more bytes than its format may."""
        if len(self.text) > most or len(self.text.encode()) > most:
            raise _too_large(len(self.text.encode()), most)


def take_in(data: bytes) -> Intake:
    """Decode and clean an input. Raises InputError when it is too large, empty, or no UTF-8 text."""
    require_text(data)
    if len(data) > MOST_FHIR_BYTES:
        raise _too_large(len(data), MOST_FHIR_BYTES)
    if len(data) > MOST_BYTES and b'"resourceType"' not in data:
        raise _too_large(len(data), MOST_BYTES)
    text, dropped = clean(_decode(data))
    if not text.strip():
        raise InputError("The input is empty.", "Write the case as text, or see: antangel schema case --example")
    return Intake(text, Counter(dropped))


def _too_large(size: int, most: int) -> InputError:
    return InputError(
        f"The case has {size:,} bytes; at most {most:,} are read.", "Give the parts that matter for this question."
    )


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(*not_utf8(data, error.start)) from None


def clean(text: str) -> tuple[str, dict[str, int]]:
    """Text in NFC without control, zero-width, bidi and tag characters, and how many of each it had."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    dropped = Counter(map(invisible, _INVISIBLE.findall(text)))
    if dropped:
        text = _INVISIBLE.sub("", text)
    return unicodedata.normalize("NFC", text), {str(kind): count for kind, count in dropped.items()}


def invisible(char: str) -> str | None:
    """The kind of an invisible character, None for all others."""
    if not _INVISIBLE.match(char):
        return None
    code = ord(char)
    if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or code in (0x200E, 0x200F):
        return "bidi"
    if code >= 0xE0000:
        return "tag"
    return "control" if unicodedata.category(char) == "Cc" else "zero_width"
