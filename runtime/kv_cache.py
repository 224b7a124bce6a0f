"""Keys and values of every cached token, in blocks: the tensors, and who owns which block."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import torch
from torch import Tensor

from runtime.errors import CapacityError


class KVCache:
    """The attention state of all layers, addressed by slot = block * block_size + offset.

    `layers` counts the MTP layers too: each keeps keys and values of its own, at the same slots. Keys lie by
    dimension within a block, so that scores of neighbouring keys are computed side by side.
    """

    def __init__(
        self,
        layers: int,
        blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        def zeros(*block: int) -> Tensor:
            # Not empty: a kernel may load a whole block and mask its unwritten rest, and 0 * NaN is NaN.
            return torch.zeros((layers, blocks, kv_heads, *block), dtype=dtype, device=device)

        self.keys = zeros(head_dim, block_size)  # [L, blocks, G, D, block_size]
        self.values = zeros(block_size, head_dim)  # [L, blocks, G, block_size, D]
        self.layers = tuple(zip(self.keys.unbind(), self.values.unbind(), strict=True))
        self.block_size = block_size

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class BlockAllocator:
    """Which blocks are owned. A block has one owner; the lowest free block is given first."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self._free = list(range(blocks))
        self._owned: set[int] = set()

    @property
    def free_count(self) -> int:
        return len(self._free)

    def allocate(self, n: int) -> tuple[int, ...]:
        """Takes n blocks, or none: CapacityError when fewer are free."""
        if n > len(self._free):
            raise CapacityError(
                f"the KV cache has {len(self._free)} free blocks of {self.total}, and {n} were asked for",
                "give the KV cache more memory, or run fewer or shorter requests at once",
            )
        taken = tuple(heapq.heappop(self._free) for _ in range(n))
        self._owned.update(taken)
        return taken

    def free(self, blocks: Iterable[int]) -> None:
        """Gives blocks back; a block that isn't owned is a bug and raises ValueError."""
        returned = tuple(blocks)
        if len(set(returned)) != len(returned) or not self._owned.issuperset(returned):
            raise ValueError(f"KV blocks {returned} are not all owned once: they were freed twice or never allocated")
        self._owned.difference_update(returned)
        for block in returned:
            heapq.heappush(self._free, block)

    def check_integrity(self) -> None:
        """Raises RuntimeError unless free and owned blocks together are each block exactly once."""
        free = set(self._free)
        if len(free) != len(self._free):
            raise RuntimeError("a KV block is listed as free twice")
        if free & self._owned:
            raise RuntimeError(f"KV blocks {sorted(free & self._owned)} are both free and owned")
        if free | self._owned != set(range(self.total)):
            raise RuntimeError(f"of {self.total} KV blocks, {len(free)} are free and {len(self._owned)} owned")
