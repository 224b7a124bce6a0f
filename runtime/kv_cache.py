"""Keys and values of every cached token, in blocks: the tensors, and who owns which block."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from runtime.errors import CapacityError
from runtime.hardware import large_pages_for
from runtime.prefixes import PrefixIndex


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
        shape = layers, blocks, kv_heads
        self.keys = _zeros((*shape, head_dim, block_size), dtype, device)  # [L, blocks, G, D, block_size]
        self.values = _zeros((*shape, block_size, head_dim), dtype, device)  # [L, blocks, G, block_size, D]
        self.layers = tuple(zip(self.keys.unbind(), self.values.unbind(), strict=True))
        self.block_size = block_size

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Not empty: a kernel may load a whole block and mask its unwritten rest, and 0 * NaN is NaN.

    In host memory attention walks through all of it in every step, and large pages save it a sixth of the time. They
    are touched here, so that memory that is not to be had is missed now and no step waits for a page. Raises
    CapacityError.
    """
    if torch.device(device).type != "cpu" or not math.prod(shape):
        return torch.zeros(shape, dtype=dtype, device=device)
    region = large_pages_for(
        "keys and values",
        math.prod(shape) * dtype.itemsize,
        "Take less with --kv, --context or --concurrency, or raise the limit of address space (ulimit -v).",
    )
    return torch.frombuffer(region, dtype=dtype).view(shape).zero_()


class BlockAllocator:
    """Which blocks are owned, and how often. The lowest free block is given first.

    A block that `prefixes` knows is kept when its last owner gives it back, until there is no other to give: the one
    kept longest goes first.
    """

    def __init__(self, blocks: int, prefixes: PrefixIndex | None = None) -> None:
        self.total = blocks
        self._prefixes = prefixes
        self._free = list(range(blocks))
        self._owners: Counter[int] = Counter()
        self._kept: dict[int, None] = {}

    @property
    def free_count(self) -> int:
        """Blocks that can be had: those free, and those kept that nobody owns."""
        return len(self._free) + len(self._kept)

    def is_kept(self, block: int) -> bool:
        """Whether a known block has no owner, so that to share it takes one of the free."""
        return block in self._kept

    def allocate(self, n: int) -> tuple[int, ...]:
        """Takes n blocks, or none: CapacityError when fewer are free."""
        if n > self.free_count:
            raise CapacityError(
                f"the KV cache has {self.free_count} free blocks of {self.total}, and {n} were asked for",
                "give the KV cache more memory, or run fewer or shorter requests at once",
            )
        taken = tuple(self._take() for _ in range(n))
        self._owners.update(taken)
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """One more owner for blocks that are owned or kept."""
        for block in blocks:
            if block not in self._owners and block not in self._kept:
                raise ValueError(f"KV block {block} is neither owned nor kept: there is nothing to share")
            self._kept.pop(block, None)
            self._owners[block] += 1

    def free(self, blocks: Iterable[int]) -> None:
        """Gives blocks back; a block that isn't owned is a bug and raises ValueError."""
        returned = tuple(blocks)
        if len(set(returned)) != len(returned) or not self._owners.keys() >= set(returned):
            raise ValueError(f"KV blocks {returned} are not all owned once: they were freed twice or never allocated")
        # The end of a text first: without its beginning it is of no use, so that is to be kept longer.
        for block in reversed(returned):
            self._give_back(block)

    def forget(self) -> None:
        """Blocks that were kept are free, and nobody finds what they hold."""
        while self._kept:
            heapq.heappush(self._free, self._take_kept())

    def _take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        return self._take_kept()

    def _take_kept(self) -> int:
        block = next(iter(self._kept))
        del self._kept[block]
        if self._prefixes is not None:
            self._prefixes.forget(block)
        return block

    def _give_back(self, block: int) -> None:
        self._owners[block] -= 1
        if self._owners[block]:
            return
        del self._owners[block]
        if self._prefixes is not None and block in self._prefixes:
            self._kept[block] = None
        else:
            heapq.heappush(self._free, block)

    def check_integrity(self) -> None:
        """Raises RuntimeError unless free, kept and owned blocks together are each block exactly once."""
        free, kept, owned = set(self._free), set(self._kept), set(self._owners)
        if len(free) != len(self._free):
            raise RuntimeError("a KV block is listed as free twice")
        if twice := (free | kept) & owned | free & kept:
            raise RuntimeError(f"KV blocks {sorted(twice)} are both free and owned")
        if free | kept | owned != set(range(self.total)):
            raise RuntimeError(f"of {self.total} KV blocks, {len(free | kept)} are free and {len(owned)} owned")
        if min(self._owners.values(), default=1) < 1:
            raise RuntimeError("a KV block is owned by nobody and not free")
        if any(self._prefixes is None or block not in self._prefixes for block in kept):
            raise RuntimeError("a KV block is kept, and nobody knows what for")
