"""Attention in Triton equals the definition: of decoded rows, of prompts, and of both in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kernels import floating
from kernels.gpu import prefill_attention
from kernels.gpu.attention import Rows, Workspace, decode_floats, launch_decode_attention
from kernels.gpu.prefill_attention import paged_attention
from kernels.ops import AttentionPlan
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits

BLOCKS = 24

# Block size, heads, KV heads, width, and how the cache keeps numbers.
SHAPES = [
    (16, 2, 2, 32, torch.float32),
    (16, 4, 2, 32, torch.bfloat16),
    (64, 8, 1, 128, torch.bfloat16),
    (64, 2, 1, 32, torch.float32),
    (16, 3, 1, 24, torch.float32),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plan(spans: Sequence[tuple[int, int]], size: int) -> AttentionPlan:
    """Spans (rows, context) in blocks taken in random order."""
    order = torch.randperm(BLOCKS, generator=torch.Generator().manual_seed(9)).tolist()
    listed, table, start = [], [], 0
    for length, context in spans:
        listed.append((start, length, context, len(table)))
        table += [order.pop() for _ in range(-(-(context + length) // size))]
        start += length
    return AttentionPlan(torch.tensor(listed, dtype=torch.int32), torch.tensor(table, dtype=torch.int32))


def moved(batch: AttentionPlan) -> AttentionPlan:
    return AttentionPlan(batch.spans.to(DEVICE), batch.block_table.to(DEVICE))


def cache(size: int, kv_heads: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    keys = draw(BLOCKS, kv_heads, width, size, seed=1).to(dtype)
    return keys, draw(BLOCKS, kv_heads, size, width, seed=2).to(dtype)


def check(
    spans: Sequence[tuple[int, int]], size: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype
) -> None:
    keys, values = cache(size, kv_heads, width, dtype)
    batch, q = plan(spans, size), draw(sum(length for length, _ in spans), heads, width, seed=3) * 2
    expected = floating.paged_attention(q, keys, values, batch, width**-0.5)
    made = paged_attention(q.to(DEVICE), keys.to(DEVICE), values.to(DEVICE), moved(batch), width**-0.5)
    assert same_bits(made.cpu(), expected)


@pytest.mark.parametrize(("size", "heads", "kv_heads", "width", "dtype"), SHAPES)
def test_single_rows(size: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype) -> None:
    check([(1, size - 2), (1, size)], size, heads, kv_heads, width, dtype)


@pytest.mark.parametrize("context", [0, 62, 63, 64, 129])
def test_a_row_sees_itself_and_what_came_before(context: int) -> None:
    check([(1, context)], 64, 2, 1, 32, torch.bfloat16)


@pytest.mark.parametrize(("size", "heads", "kv_heads", "width", "dtype"), SHAPES)
def test_prompts(size: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype) -> None:
    check([(17, size - 8)], size, heads, kv_heads, width, dtype)


def test_a_prompt_of_several_tiles_and_blocks() -> None:
    check([(40, 25)], 16, 4, 1, 32, torch.float32)


def test_spans_of_all_kinds_in_one_batch() -> None:
    check([(1, 3), (16, 30), (3, 20), (1, 0)], 16, 4, 2, 32, torch.bfloat16)


def rows_of(
    first: Sequence[int], seen: Sequence[int], table: Tensor, most: int, at: Sequence[int] | None = None
) -> Rows:
    def listed(numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=DEVICE)

    return Rows(listed(first), listed(seen), table.to(DEVICE), most, None if at is None else listed(at))


def test_rows_in_turns_where_a_row_has_more_blocks_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.gpu.attention.MOST_PROGRAMS", 2)
    check([(1, 50)], 16, 2, 1, 32, torch.float32)


def test_rows_that_do_not_fit_a_workspace_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_attention, "MOST_SCORES", 1)
    check([(1, 20), (2, 8)], 16, 2, 1, 32, torch.float32)


def test_more_blocks_than_are_looked_at_at_once() -> None:
    size, width, blocks = 16, 16, 70
    keys, values = draw(blocks, 1, width, size, seed=1), draw(blocks, 1, size, width, seed=2)
    table = torch.randperm(blocks, generator=torch.Generator().manual_seed(3)).int()
    q, seen = draw(1, 1, width, seed=4) * 4, blocks * size - 3
    batch = AttentionPlan(torch.tensor([[0, 1, seen - 1, 0]], dtype=torch.int32), table)
    expected = floating.paged_attention(q, keys, values, batch, 0.25)
    made = paged_attention(q.to(DEVICE), keys.to(DEVICE), values.to(DEVICE), moved(batch), 0.25)
    assert same_bits(made.cpu(), expected)


def test_tiles_that_do_not_fit_a_workspace_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_attention, "MOST_SCORES", 1)
    check([(40, 0), (17, 16)], 16, 4, 1, 32, torch.float32)


def test_groups_of_tiles_are_as_large_as_a_workspace_allows() -> None:
    groups = prefill_attention._groups
    assert list(groups([5, 5, 4, 1], 10)) == [(0, 2, 5), (2, 4, 4)]
    assert list(groups([9, 1, 1], 3)) == [(0, 1, 9), (1, 3, 1)]
    assert list(groups([2, 3], 100)) == [(0, 2, 3)]


def test_decoded_rows_are_written_where_they_belong_and_no_others() -> None:
    keys, values = cache(16, 1, 32, torch.float32)
    q, table = draw(4, 2, 32, seed=3), torch.tensor([7, 2, 5], dtype=torch.int32)
    batch = AttentionPlan(torch.tensor([[0, 3, 30, 0]], dtype=torch.int32), table)
    expected = floating.paged_attention(q[[3, 1, 2]], keys, values, batch, 0.2)
    rows = rows_of([0, 0, 0], [31, 32, 33], table, 3, [3, 1, 2])
    out = torch.full((4, 64), 9.0, device=DEVICE)
    workspace = Workspace.empty(decode_floats(3, 3, 2, 32, 16), DEVICE)
    launch_decode_attention(q.to(DEVICE), keys.to(DEVICE), values.to(DEVICE), rows, 0.2, out, workspace)
    assert same_bits(out.cpu()[[3, 1, 2]], expected)
    assert (out[0] == 9).all()


def test_a_row_that_sees_nothing_gets_zeros_and_a_larger_bound_changes_nothing() -> None:
    keys, values = cache(16, 1, 32, torch.float32)
    q, table = draw(2, 2, 32, seed=3), torch.tensor([7, 2], dtype=torch.int32)
    batch = AttentionPlan(torch.tensor([[0, 1, 19, 0]], dtype=torch.int32), table)
    expected = floating.paged_attention(q[1:], keys, values, batch, 0.2)
    rows = rows_of([0, 0], [0, 20], table, 5)
    out = torch.full((2, 64), 9.0, device=DEVICE)
    workspace = Workspace.empty(decode_floats(2, 5, 2, 32, 16), DEVICE)
    workspace.memory.fill_(torch.nan)
    launch_decode_attention(q.to(DEVICE), keys.to(DEVICE), values.to(DEVICE), rows, 0.2, out, workspace)
    assert same_bits(out.cpu(), torch.cat((torch.zeros(1, 64), expected)))


@pytest.mark.parametrize("spans", [[(3, 30)], [(16, 30)]])
def test_keys_beyond_a_row_change_nothing(spans: list[tuple[int, int]]) -> None:
    keys, values = cache(16, 1, 32, torch.float32)
    batch, q = plan(spans, 16), draw(spans[0][0], 2, 32, seed=3)
    expected = floating.paged_attention(q, keys, values, batch, 0.2)
    last, used = batch.block_table[-1], (spans[0][0] + 30) % 16
    keys[last, :, :, used:], values[last, :, used:] = 1e30, -1e30
    made = paged_attention(q.to(DEVICE), keys.to(DEVICE), values.to(DEVICE), moved(batch), 0.2)
    assert same_bits(made.cpu(), expected)
