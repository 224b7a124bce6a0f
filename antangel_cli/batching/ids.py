"""Ids as a table of numbers: a million of them take 32 MiB, however long they are."""

from __future__ import annotations

import hashlib
import secrets
from array import array

FEWEST_SLOTS = 1 << 10
MOST_FULL = 2 / 3


class Ids:
    """A map from ids to numbers, in 16 bytes a slot and from one third to two thirds full.

    Of an id the first 8 bytes of a keyed hash are kept. Two of a million ids meet with a chance of 3 in 10^8; the
    second is then refused as a repetition, and never answered in the first one's place.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(16)
        self._count = 0
        self._keys = _zeros(FEWEST_SLOTS)
        self._values = _zeros(FEWEST_SLOTS)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: object) -> bool:
        return self._keys[self._slot(self._hash(str(name)))] != 0

    def add(self, name: str) -> None:
        """Take note of an id."""
        self.put(name, 0)

    def get(self, name: str) -> int | None:
        """The number of an id; None if it is not here."""
        slot = self._slot(self._hash(name))
        return self._values[slot] if self._keys[slot] else None

    def put(self, name: str, number: int) -> None:
        """Give an id a number, from 0 up; an earlier one is replaced."""
        if self._count >= len(self._keys) * MOST_FULL:
            self._grow()
        key = self._hash(name)
        slot = self._slot(key)
        self._count += self._keys[slot] == 0
        self._keys[slot], self._values[slot] = key, number

    def _hash(self, name: str) -> int:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=self._secret).digest()
        return int.from_bytes(digest, "little") or 1

    def _slot(self, key: int) -> int:
        """Where a key is, or would be: the first free slot from its own on."""
        last = len(self._keys) - 1
        slot = key & last
        while self._keys[slot] not in (0, key):
            slot = slot + 1 & last
        return slot

    def _grow(self) -> None:
        old = zip(self._keys, self._values, strict=True)
        self._keys, self._values = _zeros(2 * len(self._keys)), _zeros(2 * len(self._values))
        for key, value in old:
            if key:
                slot = self._slot(key)
                self._keys[slot], self._values[slot] = key, value


def _zeros(count: int) -> array[int]:
    return array("Q", bytes(8 * count))
