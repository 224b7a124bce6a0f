"""The bytes of a layer's experts, by id, wherever each of them is at present."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from torch import Tensor


class LayerBlobs(Sequence[Tensor]):
    """`count` experts, found by `find`, which raises LookupError for one that is not there."""

    def __init__(self, find: Callable[[int], Tensor], count: int) -> None:
        self._find = find
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._find(index)
