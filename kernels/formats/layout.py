"""What a quantised number format is besides its name: its range of integers and how they become bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kernels.formats.matrix import Format, FormatError


@dataclass(frozen=True)
class Layout:
    """One width of integers: their range, the scales worth trying, and the weight plane of a matrix.

    A group's extreme weight, sign and all, divided by each of `divisors` gives the scales that quantise tries.
    """

    name: str
    bits: int
    lowest: int
    highest: int
    divisors: tuple[float, ...]
    pack: Callable[[Tensor], Tensor]  # int8 [N, K] -> uint8 [N/16, K / columns per 64 bytes, 16, 4]
    unpack: Callable[[Tensor], Tensor]  # and back


_registered: dict[int, Layout] = {}


def register(layout: Layout) -> None:
    """Adds a layout."""
    _registered[layout.bits] = layout


def layouts() -> tuple[Layout, ...]:
    """All layouts, narrowest first."""
    return tuple(_registered[bits] for bits in sorted(_registered))


def layout_of(format: Format) -> Layout:
    """The layout of a quantised format. Raises FormatError for the others."""
    if format.bits not in _registered:
        raise FormatError(f"{format} keeps floats and has no integers: use a quantised format, such as w4a8:64")
    return _registered[format.bits]
