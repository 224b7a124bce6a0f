"""A predicted number, with what bounds it and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A value, the resource that limits it, and the sources of what it was computed from."""

    value: float
    limit: str
    how: str


def longest(seconds: Mapping[str, float]) -> str:
    """The resource that takes the most time."""
    return max(seconds, key=lambda resource: seconds[resource])
