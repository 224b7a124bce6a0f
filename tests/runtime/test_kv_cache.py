from __future__ import annotations

import errno
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime import hardware
from runtime.errors import CapacityError
from runtime.kv_cache import BlockAllocator, KVCache


def test_keys_lie_by_dimension_and_values_by_position() -> None:
    cache = KVCache(2, blocks=3, block_size=16, kv_heads=4, head_dim=5)
    assert cache.keys.shape == (2, 3, 4, 5, 16)
    assert cache.values.shape == (2, 3, 4, 16, 5)
    assert cache.nbytes == 2 * 2 * 3 * 4 * 5 * 16 * 4
    assert not cache.keys.any()
    assert not cache.values.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_is_zero_to_begin_with(dtype: torch.dtype) -> None:
    cache = KVCache(2, 3, 16, 2, 8, dtype=dtype)
    assert (cache.keys.dtype, cache.keys.count_nonzero(), cache.values.count_nonzero()) == (dtype, 0, 0)
    assert cache.nbytes == 2 * 2 * 3 * 16 * 2 * 8 * dtype.itemsize


def test_memory_that_is_refused_is_an_error_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(count: int) -> Any:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(hardware, "large_pages", refused)
    with pytest.raises(CapacityError, match=r"^1\.00 GiB of memory for keys and values are refused") as caught:
        KVCache(2, 1024, 64, 16, 128)
    assert "--kv" in caught.value.remedy


def test_allocation_is_all_or_nothing() -> None:
    allocator = BlockAllocator(3)
    assert allocator.allocate(2) == (0, 1)
    with pytest.raises(CapacityError, match="1 free"):
        allocator.allocate(2)
    assert allocator.free_count == 1


@pytest.mark.parametrize("blocks", [(0, 0), (2,), (7,)])
def test_only_owned_blocks_can_be_freed(blocks: tuple[int, ...]) -> None:
    allocator = BlockAllocator(3)
    allocator.allocate(2)
    with pytest.raises(ValueError, match="freed twice or never allocated"):
        allocator.free(blocks)
    allocator.check_integrity()


def test_integrity_notices_a_lost_and_a_doubled_block() -> None:
    allocator = BlockAllocator(3)
    allocator.allocate(1)
    allocator._owners.clear()
    with pytest.raises(RuntimeError, match="2 are free and 0 owned"):
        allocator.check_integrity()
    allocator._owners.update((0, 1))
    with pytest.raises(RuntimeError, match="both free and owned"):
        allocator.check_integrity()


class Blocks(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.allocator = BlockAllocator(12)
        self.held: list[tuple[int, ...]] = []

    @rule(n=st.integers(0, 6))
    def allocate(self, n: int) -> None:
        if n > self.allocator.free_count:
            with pytest.raises(CapacityError):
                self.allocator.allocate(n)
        else:
            self.held.append(self.allocator.allocate(n))
            assert len(self.held[-1]) == n

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.allocator.free(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def every_block_has_one_place(self) -> None:
        self.allocator.check_integrity()
        owned = [block for blocks in self.held for block in blocks]
        assert len(set(owned)) == len(owned) == 12 - self.allocator.free_count


Blocks.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBlocks = Blocks.TestCase
