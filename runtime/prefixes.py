"""Which block of the KV cache holds which tokens: texts that begin alike share the blocks of their beginning.

A block's keys and values depend on its own tokens and on all before them, and on nothing else (docs/exact-experts.md:
no bit of a row depends on its batch), so a block computed for one sequence serves every other that begins the same.
The idea is vLLM's automatic prefix caching (Kwon et al., 2023), with the tokens themselves as keys, not a hash of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ROOT = 0
"""The number of the empty beginning."""

Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Known:
    """A full block: its number in the chain of beginnings, and which block of the cache it is."""

    number: int
    block: int


class PrefixIndex:
    """Full blocks by the number of what stands before them and their own tokens. A number is never given twice."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._known: dict[Key, Known] = {}
        self._keys: dict[int, Key] = {}
        self._last = ROOT

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, token_ids: Sequence[int]) -> list[Known]:
        """The known blocks that `token_ids` begins with, but for its last token, which must be computed anew."""
        found: list[Known] = []
        number = ROOT
        for tokens in self._full_blocks(token_ids[:-1]):
            known = self._known.get((number, tokens))
            if known is None:
                break
            found.append(known)
            number = known.number
        return found

    def record(self, before: int, token_ids: Sequence[int], block: int) -> int:
        """Notes what a full block holds and returns its number; that of another block, if one holds the same."""
        key = (before, tuple(token_ids))
        if key not in self._known:
            self._last += 1
            self._known[key] = Known(self._last, block)
            self._keys[block] = key
        return self._known[key].number

    def forget(self, block: int) -> None:
        """The block will hold something else; one that is not known is left alone."""
        if key := self._keys.pop(block, None):
            del self._known[key]

    def _full_blocks(self, token_ids: Sequence[int]) -> Iterable[tuple[int, ...]]:
        size = self.block_size
        return (tuple(token_ids[at : at + size]) for at in range(0, len(token_ids) - size + 1, size))
