"""From bytes to clean text: bounded, UTF-8, NFC, without characters that nobody sees."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from antangel_cli.clinic.errors import InputError

MOST_BYTES = 1 << 20

_ZERO_WIDTH = {0x00AD, 0x061C, 0x180E, 0x200B, 0x200C, 0x200D, 0x2060, 0x2061, 0x2062, 0x2063, 0x2064, 0xFEFF}
_KEPT = {"\n", "\t"}


@dataclass(frozen=True)
class Intake:
    """Clean text, and how many invisible characters of which kind were dropped from it."""

    text: str = field(repr=False)
    dropped: dict[str, int]

    @property
    def warnings(self) -> tuple[dict[str, str | int], ...]:
        """One warning for each kind that was dropped."""
        return tuple({"code": f"dropped_{kind}", "count": count} for kind, count in sorted(self.dropped.items()))


def take_in(data: bytes) -> Intake:
    """Decode and clean an input. Raises InputError when it is too large, empty, or no UTF-8."""
    if len(data) > MOST_BYTES:
        raise InputError(
            f"The case has {len(data):,} bytes; at most {MOST_BYTES:,} are read.",
            "Give the parts that matter for this question.",
        )
    text, dropped = clean(_decode(data))
    if not text.strip():
        raise InputError("The input is empty.", "Write the case as text, or see: antangel schema case --example")
    return Intake(text, dropped)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"The input is no UTF-8 text: byte {error.start} is not valid.", "Convert it to UTF-8."
        ) from None


def clean(text: str) -> tuple[str, dict[str, int]]:
    """Text in NFC without control, zero-width, bidi and tag characters, and how many of each it had."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    dropped = Counter(kind for kind in map(invisible, text) if kind)
    if dropped:
        text = "".join(char for char in text if not invisible(char))
    return unicodedata.normalize("NFC", text), dict(dropped)


def invisible(char: str) -> str | None:
    """The kind of an invisible character, None for all others."""
    if char in _KEPT or " " <= char < "\x7f":
        return None
    code = ord(char)
    if code in _ZERO_WIDTH:
        return "zero_width"
    if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or code in (0x200E, 0x200F):
        return "bidi"
    if 0xE0000 <= code <= 0xE007F:
        return "tag"
    return "control" if unicodedata.category(char) == "Cc" else None
