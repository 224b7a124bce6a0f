"""Random weights whose mean is zero: a mean would drown every token in one direction, and all would route alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Weights like those of a model at its start; embeddings large enough that tokens stay distinct behind attention.
WEIGHT_DEVIATION = 0.02
EMBEDDING_DEVIATION = 1.0

# What attention adds is much alike for all tokens of a text, and grows from layer to layer: with output weights like
# the others, tokens of a deep model would route alike, so these are kept small.
ATTENTION_OUTPUT_DEVIATION = 0.0003

# Nibbles are drawn from 1 to 15, which stand for -7 to 7.
_NIBBLES = 15
_NIBBLE_DEVIATION = math.sqrt((_NIBBLES**2 - 1) / 12)
_PAIRS = np.array([low + 1 + 16 * (high + 1) for low in range(_NIBBLES) for high in range(_NIBBLES)], dtype=np.uint8)

# 8-bit weights are drawn from -127 to 127.
_INTEGER_DEVIATION = math.sqrt((255**2 - 1) / 12)


class Bank:
    """Bytes drawn once and taken in runs that begin anywhere, so that every run is another, at the speed of copying."""

    def __init__(self, drawn: Bytes, item_bytes: int = 1) -> None:
        self._drawn = drawn
        self._item = item_bytes

    def run(self, random: np.random.Generator, count: int) -> Bytes:
        """So many bytes, of which at most as many as were drawn can be taken at once."""
        last = (self._drawn.size - count) // self._item
        start = int(random.integers(last, endpoint=True)) * self._item
        return self._drawn[start : start + count]


def nibble_pairs(random: np.random.Generator, count: int) -> Bytes:
    """Bytes of two nibbles each, which stand for 4-bit weights plus 8."""
    return _PAIRS[random.integers(0, len(_PAIRS), count, dtype=np.uint8)]


def integers(random: np.random.Generator, count: int) -> Bytes:
    """8-bit weights in two's complement."""
    return random.integers(-127, 128, count, dtype=np.int8).view(np.uint8)


def scales(random: np.random.Generator, count: int, *, bits: int, deviation: float = WEIGHT_DEVIATION) -> Floats:
    """Scales that give weights of `bits` 4 or 8 about this standard deviation."""
    unit = _NIBBLE_DEVIATION if bits == 4 else _INTEGER_DEVIATION
    spread: Floats = random.uniform(0.75, 1.25, count).astype(np.float32)
    return spread * np.float32(deviation / unit)


def normal(random: np.random.Generator, shape: tuple[int, ...], deviation: float = WEIGHT_DEVIATION) -> Floats:
    drawn: NDArray[Any] = random.standard_normal(shape, dtype=np.float32)
    return drawn * np.float32(deviation)
