"""Amounts of memory and of experts, as people write them and as they are shown."""

from __future__ import annotations

import re

Amount = int | float
"""A whole number is bytes, or experts; a fraction is a share of what there is."""

_UNITS = {
    "": 1,
    "b": 1,
    **{unit: 1000**power for power, unit in enumerate(("kb", "mb", "gb", "tb"), 1)},
    **{unit: 1024**power for power, unit in enumerate(("kib", "mib", "gib", "tib"), 1)},
}
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*|%)", re.IGNORECASE)


def parse_size(text: str) -> Amount:
    """Bytes of `8GiB`, `8GB` or `8000000000`, or the share that `50%` is. Raises ValueError."""
    value = parse_share(text)
    if value is not None:
        return value
    number, unit = _parts(text)
    if unit not in _UNITS or (not unit and not number.is_integer()):
        raise ValueError(text)
    return _above_zero(int(number * _UNITS[unit]))


def parse_share(text: str) -> float | None:
    """The share that `50%` is, None where the text is no percentage. Raises ValueError."""
    if not text.strip().endswith("%"):
        return None
    share = _parts(text)[0] / 100
    if not 0 < share <= 1:
        raise ValueError(text)
    return share


def show_bytes(count: int) -> str:
    """Bytes for people, in powers of 1024: `7.4 GiB`."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _parts(text: str) -> tuple[float, str]:
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    return float(found[1]), found[2].lower()


def _above_zero(count: int) -> int:
    if count < 1:
        raise ValueError(count)
    return count
