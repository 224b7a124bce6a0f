"""Text as an instruction in it would be read: decoded, spaced letters closed, look-alike letters made plain.

Copies for matching only; what is shown is always the original. Every step takes time that grows with the text alone.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from antangel_cli.clinic.rules import load_rules

LAYERS = 3
"""How often what was decoded is decoded again."""

_UNSEEN = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff9-\ufffb\U000e0000-\U000e01ef]"
)
_MARKS = re.compile("(?<=[a-z])[\u0300-\u036f\u1dc0-\u1dff\u20d0-\u20ff]+|[\u0640\u064b-\u0655]")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{8,}")
_BASE64 = re.compile(r"(?<![\w+/=-])[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x)?(?:[0-9A-Fa-f]{2}[ :,-]?){8,}(?![0-9A-Za-z])")
_ESCAPE = re.compile(r"\\u\{?([0-9A-Fa-f]{4})\}?|\\x([0-9A-Fa-f]{2})|\\U([0-9A-Fa-f]{8})")
_SPACED = re.compile(r"(?<!\w)\w(?:[ .*_|·-]\w){2,}(?!\w)")
_CODED = re.compile(r"(?<=[a-z])[0134577@$!+](?=[a-z])|(?<!\S)[0134577@$!+](?=[a-z]{2})")


def bare(text: str) -> str:
    """Text without case, compatibility forms, accents, vowel points, unseen characters and runs of blanks."""
    plain = " ".join(_UNSEEN.sub("", unicodedata.normalize("NFKC", text)).lower().split())
    if plain.isascii():
        return plain
    return unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", plain)))


def readings(text: str) -> Iterator[tuple[str | None, str]]:
    """Every way a text may be read, folded, with what was undone: None, `encoded`, `spaced`, `look_alike`, `coded`.

    A reading follows only where the step changed something, and builds on those before it.
    """
    folded = bare(text)
    yield None, folded
    for name, step in _STEPS:
        text = step(text)
        after = bare(text)
        if after != folded:
            folded = after
            yield name, folded


def decoded(text: str) -> str:
    """The text with what is encoded in it in clear: escapes, percent, entities, base64, hex, bytes in selectors."""
    for _ in range(LAYERS):
        before, text = text, _unescaped(text)
        text = _BASE64.sub(_from_base64, _HEX.sub(_from_hex, text))
        if text == before:
            break
    return text


def _unescaped(text: str) -> str:
    text = _SELECTORS.sub(lambda m: f" {_readable(bytes(map(_selected, m.group()))) or ''} ", text)
    text = _ESCAPE.sub(lambda m: _character(next(filter(None, m.groups()))), text)
    text = html.unescape(text) if "&" in text else text
    return unquote(text) if "%" in text else text


def _character(code: str) -> str:
    """The character of a hexadecimal code; halves of a pair and codes beyond the last are blanks."""
    number = int(code, 16)
    return " " if number > 0x10FFFF or 0xD800 <= number < 0xE000 else chr(number)


def _selected(selector: str) -> int:
    """The byte that a variation selector carries when it is misused to hide text."""
    return ord(selector) - (0xFE00 if ord(selector) < 0xE0000 else 0xE00F0)


def _from_base64(match: re.Match[str]) -> str:
    code = match.group().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _readable(base64.b64decode(code + "=" * (-len(code) % 4))) or match.group()
    except binascii.Error:
        return match.group()


def _from_hex(match: re.Match[str]) -> str:
    return _readable(bytes.fromhex(re.sub(r"^0x|[ :,-]", "", match.group()))) or match.group()


def _readable(data: bytes) -> str | None:
    """The text of some bytes, None where they are none: not UTF-8, or not printable."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.replace("\n", " ").replace("\t", " ").isprintable() else None


def _closed(text: str) -> str:
    """`i g n o r e` as `ignore`: single letters with one sign between them, three or more."""
    return _SPACED.sub(lambda m: m.group()[::2], unicodedata.normalize("NFKC", text))


def _table(name: str) -> dict[int, str]:
    return str.maketrans(
        {sign: letter for letter, signs in load_rules("injection_letters")[name].items() for sign in signs}
    )


_LETTERS, _FIGURES = _table("letters"), _table("figures")


def _plain_letters(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_LETTERS)


def _uncoded(text: str) -> str:
    """`1gn0re` as `ignore`: figures and signs within words."""
    text = bare(text)
    return text.translate(_FIGURES) if _CODED.search(text) else text


_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("encoded", decoded),
    ("spaced", _closed),
    ("look_alike", _plain_letters),
    ("coded", _uncoded),
)
