"""When two results are equal: their canonical JSON agrees (clinic.md, "Result")."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

PER_RUN = frozenset({"run_id", "created", "provenance.timings", "fingerprint"})
"""What differs between runs by nature: numbers, moments and rates; and what a line of a batch says about its run."""

_ABSENT = object()


def canonical(record: Mapping[str, Any]) -> str:
    """A result as compact JSON with sorted keys, without what differs between runs."""
    return json.dumps(_kept(record, ""), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The paths at which two results differ (`result.differential[0].name`), none if they are equal.

    Paths are made of keys and positions: no value of a result is in them.
    """
    return list(_differing(_kept(one, ""), _kept(other, ""), ""))


def _kept(value: Any, path: str) -> Any:
    if not isinstance(value, Mapping) or path not in ("", "provenance"):
        return value
    places = {key: f"{path}.{key}" if path else str(key) for key in value}
    return {key: _kept(value[key], place) for key, place in places.items() if place not in PER_RUN}


def _differing(one: Any, other: Any, path: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            place = f"{path}.{key}" if path else key
            yield from _differing(one.get(key, _ABSENT), other.get(key, _ABSENT), place)
    elif isinstance(one, list) and isinstance(other, list):
        for i in range(max(len(one), len(other))):
            yield from _differing(_at(one, i), _at(other, i), f"{path}[{i}]")
    elif _ABSENT in (one, other) or json.dumps(one) != json.dumps(other):
        yield path


def _at(items: list[Any], i: int) -> Any:
    return items[i] if i < len(items) else _ABSENT
