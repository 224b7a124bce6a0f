"""Changes to a valid document: its tree, its text, and its bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from fuzz.words import CANARY, phrase, prose, repeated, word

Place = tuple[Any, Any]
"""A container and the key or index in it."""

_NUMBERS = (0, -1, 1, 0.1, 37.0, 1e308, -1e308, 1e-320, 10**30, 2**63, -0.0, 212, 999999)
_CONSTANTS: tuple[Any, ...] = (None, True, False, "", [], {}, [[]], [None], {"": None}, {"value": {}})
DEEP = 60
LONG = 3000


def odd(random: Random) -> Any:
    """A value that a document would hardly hold."""
    made: tuple[Callable[[], Any], ...] = (
        lambda: word(random),
        lambda: phrase(random),
        lambda: prose(random),
        lambda: repeated(random, LONG),
        lambda: random.choice(_NUMBERS),
        lambda: random.choice(_CONSTANTS),
        lambda: _nested(random),
        lambda: [word(random) for _ in range(random.randint(1, 30))],
        lambda: {word(random): word(random) for _ in range(random.randint(1, 5))},
    )
    return random.choice(made)()


def _nested(random: Random) -> Any:
    value: Any = word(random)
    for _ in range(random.randint(2, DEEP)):
        value = [value] if random.random() < 0.5 else {random.choice(("entry", "resource", "text", "x")): value}
    return value


def places(tree: Any) -> Iterator[Place]:
    """Every place in a tree."""
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        pairs = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, value in pairs:
            yield holder, key
            if isinstance(value, dict | list):
                waiting.append(value)


def _replace(random: Random, tree: Any, place: Place) -> None:
    place[0][place[1]] = odd(random)


def _delete(random: Random, tree: Any, place: Place) -> None:
    del place[0][place[1]]


def _repeat(random: Random, tree: Any, place: Place) -> None:
    value = place[0][place[1]]
    place[0][place[1]] = (
        [value] * random.randint(2, 20) if not isinstance(value, list) else value * random.randint(2, 20)
    )


def _exchange(random: Random, tree: Any, place: Place) -> None:
    """A copy of another part: of the right kind for somewhere else."""
    other, key = random.choice([*places(tree)])
    place[0][place[1]] = copy.deepcopy(other[key])


def _rename(random: Random, tree: Any, place: Place) -> None:
    holder, key = place
    if isinstance(holder, dict):
        others = [name for each, name in places(tree) if isinstance(name, str)]
        holder[random.choice([CANARY, key[:-1], f"{key}s", key.upper(), "x_note", "name", *others])] = holder.pop(key)


def _spoil(random: Random, tree: Any, place: Place) -> None:
    """Change a text a little, or a number's kind."""
    value = place[0][place[1]]
    if isinstance(value, str):
        cut = random.randint(0, len(value))
        place[0][place[1]] = value[:cut] + word(random) + value[cut:]
    elif isinstance(value, int | float):
        place[0][place[1]] = random.choice((str(value), -value, value * 1000, [value], value / 7))


_CHANGES = (_replace, _delete, _repeat, _exchange, _rename, _spoil)
_WEIGHTS = (4, 2, 1, 3, 2, 5)


def changed(random: Random, tree: Any) -> Any:
    """A copy of a tree with one to four changes."""
    tree = copy.deepcopy(tree)
    for _ in range(random.randint(1, 4)):
        found = [*places(tree)] if isinstance(tree, dict | list) else []
        if not found:
            return odd(random)
        random.choices(_CHANGES, _WEIGHTS)[0](random, tree, random.choice(found))
    return tree


def grown(random: Random, tree: Any, most: int) -> Any:
    """A copy of a tree with one of its lists or texts repeated until all has about `most` bytes."""
    tree = copy.deepcopy(tree)
    found = [(holder, key) for holder, key in places(tree) if isinstance(holder[key], list | str) and holder[key]]
    if found:
        holder, key = random.choice(found)
        holder[key] *= max(most // len(json.dumps(holder[key])), 1)
    return tree


def dumped(random: Random, tree: Any) -> bytes:
    """A tree as JSON, written in one of the ways that programs write it."""
    indent, ascii_only = random.choice((None, None, None, 1)), random.random() < 0.7
    return json.dumps(tree, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")


def broken(random: Random, data: bytes) -> bytes:
    """A few bytes cut out, put in, or changed; mostly none."""
    if random.random() < 0.8 or not data:
        return data
    at = random.randrange(len(data))
    return random.choice(
        (
            data[:at],
            data[at:],
            data[:at] + bytes(random.randrange(256) for _ in range(3)) + data[at:],
            data[:at] + data[at + 1 :],
            b"\xef\xbb\xbf" + data,
            data + data,
            data.decode("utf-8", "replace").encode("utf-16"),
            data.replace(b":", b": NaN,", 1),
            data.replace(b"{", b'{"id": "a", "id": "b", ', 1),
        )
    )
