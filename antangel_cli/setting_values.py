"""Every setting's name and how a value for it is checked, whichever place it comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from antangel_cli.sizes import Amount, parse_share, parse_size

Parse = Callable[[Any], Any]
"""Makes a raw value into a setting's; a ValueError says what is wanted instead."""

Number = TypeVar("Number", int, float)


def _number(least: float, most: float = float("inf"), above: bool = False) -> Parse:
    wanted = f"a number {'above' if above else 'from'} {least:g}" + (f" to {most:g}" if most < 1e9 else " up")

    def parse(raw: Any) -> float:
        value = _convert(float, raw, wanted)
        if not least <= value <= most or (above and value == least):
            raise ValueError(wanted)
        return value

    return parse


def _whole(least: int, most: int = 2**63 - 1) -> Parse:
    wanted = f"a whole number from {least}" + (f" to {most}" if most < 2**32 else " up")

    def parse(raw: Any) -> int:
        value = _convert(int, raw, wanted)
        if not least <= value <= most:
            raise ValueError(wanted)
        return value

    return parse


def _convert(kind: type[Number], raw: Any, wanted: str) -> Number:
    if isinstance(raw, bool) or (kind is int and isinstance(raw, float)):
        raise ValueError(wanted)
    try:
        return kind(raw)
    except (TypeError, ValueError):
        raise ValueError(wanted) from None


def _switch(raw: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    value = raw if isinstance(raw, bool) else words.get(str(raw).lower())
    if value is None:
        raise ValueError("true or false")
    return value


def _choice(*words: str) -> Parse:
    def parse(raw: Any) -> str:
        if raw not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return str(raw)

    return parse


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw:
        raise ValueError("a text that is not empty")
    return raw


def _device(raw: Any) -> str:
    word = str(raw)
    if word not in ("auto", "cpu", "cuda") and not (word.startswith("cuda:") and word[5:].isdigit()):
        raise ValueError("auto, cpu or cuda:N")
    return word


def _size(raw: Any) -> Amount:
    try:
        return parse_size(str(raw))
    except ValueError:
        raise ValueError("a size like 8GiB, 8GB or 50%") from None


def _slots(raw: Any) -> Amount:
    try:
        share = parse_share(str(raw))
    except ValueError:
        raise ValueError("a number of experts, or a share of all like 10%") from None
    return share if share is not None else int(_whole(1)(raw))


def _cpu_share(raw: Any) -> float | None:
    return None if raw == "auto" else _number(0, 1)(raw)


def _concurrency(raw: Any) -> int | None:
    return None if raw == "auto" else int(_whole(1, 256)(raw))


KEYS: dict[str, Parse] = {
    "model": _text,
    "seed": _whole(0),
    "temperature": _number(0, 5),
    "top_p": _number(0, 1, above=True),
    "top_k": _whole(0),
    "max_tokens": _whole(1),
    "timeout": _number(0, above=True),
    "device": _device,
    "threads": _whole(1, 4096),
    "context": _whole(1),
    "ram": _size,
    "vram": _size,
    "kv": _size,
    "slots": _slots,
    "no_disk": _switch,
    "policy": _text,
    "lookahead": _choice("auto", "on", "off"),
    "cpu_share": _cpu_share,
    "wait": _switch,
    "trace": _text,
    "max_dx": _whole(3, 10),
    "reasoning": _choice("show", "hide", "off"),
    "lang": _choice("en", "zh"),
    "site_rules": _text,
    "concurrency": _concurrency,
    "plain": _switch,
    "no_color": _switch,
    "progress": _choice("auto", "always", "never"),
    "quiet": _switch,
    "verbose": _switch,
    "debug": _switch,
    "json": _switch,
    "no_input": _switch,
    "stats": _switch,
}
"""Every key and how its value is checked."""

ONE_RUN_ONLY = ("debug", "json", "no_input", "stats", "trace")
IN_FILES = tuple(key for key in KEYS if key not in ONE_RUN_ONLY)
"""The keys that files and the environment may set."""
