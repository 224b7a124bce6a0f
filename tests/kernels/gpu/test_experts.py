"""The expert kernels equal the definition, pair by pair, and touch no pair that isn't theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels import reference
from kernels.gpu.combine import SKIPPED, launch_combine
from kernels.gpu.experts import launch_down, launch_gate_up
from kernels.gpu.grouping import group_pairs
from kernels.gpu.launch import fresh_fault
from kernels.gpu.quantise import Quantised, check_fault, launch_quantise
from kernels.gpu.tables import ExpertShape, Groups, Kind
from kernels.ops import ExpertPool, NonFiniteError
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits
from tests.kernels.test_cpu_products import random_pool, random_rows

FORMATS = [
    ("w4a8:64", "w4a8:64"),
    ("w4a8:32", "w8a8:128:fp16"),
    ("w8a8:128:p2", "w4a8:32:zeros"),
    ("w8a8:64:fp16:zeros", "w4a8:64:p4"),
    ("w4a8:128:zeros:p4", "w8a8:32"),
]
EXPERTS, CHOSEN = 5, 2


def pool_of(gate_up: str, down: str, hidden: int = 128, inner: int = 128) -> ExpertPool:
    """Random experts, on the device under test."""
    pool = random_pool(EXPERTS, gate_up, down, hidden, inner)
    blobs = tuple(blob.to(DEVICE) for blob in pool.blobs)
    return replace(pool, blobs=blobs, addresses=torch.tensor([blob.data_ptr() for blob in blobs]))


def shape_of(pool: ExpertPool) -> ExpertShape:
    return ExpertShape(pool.gate_up, pool.down, pool.hidden, pool.inner, pool.down_offset)


def choices(tokens: int, seed: int = 0, unused: int = 3) -> Tensor:
    """Two experts a token, ascending, never the unused one."""
    random = torch.Generator().manual_seed(seed)
    ranks = torch.rand(tokens, EXPERTS, generator=random)
    ranks[:, unused] = 2.0
    return ranks.argsort(-1)[:, :CHOSEN].sort(-1).values.contiguous()


def quantised_of(x: Tensor, group: int) -> Quantised:
    into, fault = Quantised.empty(*x.shape, group, DEVICE), fresh_fault(DEVICE)
    launch_quantise(x.to(DEVICE), into, fault)
    check_fault(fault)
    return into


def hidden_of(x: Tensor, pool: ExpertPool, expert: int) -> Tensor:
    gate, up = reference.product(x, pool.expert(expert).gate_up).chunk(2, dim=-1)
    return reference.silu(gate) * up


def check_layer(pool: ExpertPool, ids: Tensor, groups: Groups, computed: list[int]) -> None:
    """Both kernels on random rows: the pairs of the experts `computed` are as defined, the others as they were."""
    x, shape = random_rows(ids.shape[0], pool.hidden, seed=ids.shape[0]), shape_of(pool)
    a = quantised_of(x, pool.gate_up.group)
    hidden, fault = Quantised.empty(ids.numel(), pool.inner, pool.down.group, DEVICE), fresh_fault(DEVICE)
    hidden.q.fill_(99), hidden.scales.fill_(-7.0)
    y = torch.full((ids.numel(), pool.hidden), -7.0, device=DEVICE)
    launch_gate_up(a, groups, shape, hidden, fault, kinds=(Kind.RESIDENT,))
    launch_down(hidden, groups, shape, y, kinds=(Kind.RESIDENT,))
    check_fault(fault)
    flat, on_host = ids.flatten(), replace(pool, blobs=[blob.cpu() for blob in pool.blobs])
    for expert in flat.unique().tolist():
        pairs = (flat == expert).nonzero()[:, 0]
        got = hidden.q.cpu()[pairs], hidden.scales.cpu()[pairs], y.cpu()[pairs]
        if expert not in computed:
            assert all((part == left).all() for part, left in zip(got, (99, -7, -7), strict=True))
            continue
        h = hidden_of(x[pairs // CHOSEN], on_host, expert)
        q, scales = reference.quantise_activation(h, pool.down.group)
        assert same_bits(got[1], scales)
        assert torch.equal(got[0], q)
        assert same_bits(got[2], reference.product(h, on_host.expert(expert).down))


@pytest.mark.parametrize("formats", FORMATS, ids="/".join)
@pytest.mark.parametrize("tokens", [1, 17])
def test_pairs(tokens: int, formats: tuple[str, str]) -> None:
    hidden = 2 * int(formats[0].split(":")[1])
    pool, ids = pool_of(*formats, hidden, 128), choices(tokens)
    groups = group_pairs(ids.to(DEVICE), pool.addresses.to(DEVICE))
    check_layer(pool, ids, groups, list(range(EXPERTS)))


def test_tiles_of_every_size() -> None:
    """8, 16 and 32 pairs, found by search or not, with experts that have several tiles and one that has none."""
    pool = pool_of("w4a8:64:p2", "w4a8:32", hidden=192, inner=32)
    for tokens in (11, 36, 41):
        ids = choices(tokens, seed=tokens)
        ids[: tokens - tokens // 8] = torch.tensor([1, 4])
        check_layer(pool, ids, group_pairs(ids.to(DEVICE), pool.addresses.to(DEVICE)), list(range(EXPERTS)))


def test_a_wave_has_only_its_pairs() -> None:
    pool, ids = pool_of("w4a8:32", "w8a8:32", 64, 32), choices(9, seed=5)
    addresses = pool.addresses.to(DEVICE)
    for first, stop in ((0, 1), (1, 3), (3, 4), (2, 5)):
        check_layer(pool, ids, group_pairs(ids.to(DEVICE), addresses, first, stop), list(range(first, stop)))


def test_other_kinds_and_experts_without_address_are_left() -> None:
    pool, ids = pool_of("w4a8:64", "w4a8:64"), torch.tensor([[0, 1], [1, 2], [2, 4], [0, 4]])
    groups = group_pairs(ids.to(DEVICE), pool.addresses.to(DEVICE))
    groups.kinds[1], groups.kinds[2], groups.addresses[2] = Kind.FETCHED, Kind.IN_PLACE, 0
    check_layer(pool, ids, groups, [0, 4])
    groups.kinds[2] = Kind.RESIDENT
    check_layer(pool, ids, groups, [0, 4])


def test_entries_beyond_the_count_are_not_read() -> None:
    pool, ids = pool_of("w4a8:64", "w4a8:64", 64, 64), choices(20, seed=2)
    groups = group_pairs(ids.to(DEVICE), pool.addresses.to(DEVICE))
    more = [torch.cat([part, torch.full_like(part[:1], 7).expand(9)]) for part in (groups.experts, groups.starts)]
    addresses = torch.cat([groups.addresses, torch.full_like(groups.addresses[:1], 3).expand(9)])
    kinds = torch.cat([groups.kinds, torch.zeros_like(groups.kinds[:1]).expand(9)])
    longer = replace(groups, experts=more[0], starts=more[1], addresses=addresses, kinds=kinds, most=14)
    check_layer(pool, ids, longer, list(range(EXPERTS)))


def test_rows_of_down_by_parts() -> None:
    pool, ids = pool_of("w4a8:64", "w4a8:64", hidden=256), choices(3)
    groups = group_pairs(ids.to(DEVICE), pool.addresses.to(DEVICE))
    hidden = quantised_of(random_rows(ids.numel(), pool.inner, seed=4), pool.down.group)
    whole, part = torch.empty(ids.numel(), 256, device=DEVICE), torch.empty(ids.numel(), 64, device=DEVICE)
    launch_down(hidden, groups, shape_of(pool), whole)
    for first in (0, 64, 192):
        launch_down(hidden, groups, shape_of(pool), part, first=first)
        assert same_bits(part, whole[:, first : first + 64].contiguous())


def test_what_is_not_finite_sets_the_fault() -> None:
    pool, ids = pool_of("w4a8:64", "w4a8:64"), torch.tensor([[0, 1]])
    groups, fault = group_pairs(ids.to(DEVICE), pool.addresses.to(DEVICE)), fresh_fault(DEVICE)
    a = quantised_of(random_rows(1, 128, seed=1), 64)
    a.scales.fill_(1e38)
    into = Quantised.empty(2, 128, 64, DEVICE)
    launch_gate_up(a, groups, shape_of(pool), into, fault, kinds=(Kind.FETCHED,))
    check_fault(fault)
    launch_gate_up(a, groups, shape_of(pool), into, fault)
    with pytest.raises(NonFiniteError):
        check_fault(fault)


def combined(y: Tensor, weights: Tensor, kinds: Tensor, total: Tensor | None) -> Tensor:
    """In ascending place, one rounding an operation."""
    tokens, per_token = weights.shape
    acc = torch.zeros(tokens, y.shape[1]) if total is None else total.clone()
    for token in range(tokens):
        for k in range(per_token):
            if kinds[token * per_token + k] != SKIPPED.value:
                acc[token] = acc[token] + weights[token, k] * y[token * per_token + k]
    return acc


@pytest.mark.parametrize(("tokens", "per_token", "width"), [(1, 8, 288), (3, 3, 256), (5, 1, 96), (2, 2, 544)])
def test_combine(tokens: int, per_token: int, width: int) -> None:
    random = torch.Generator().manual_seed(tokens)
    y, theirs = (torch.randn(tokens * per_token, width, generator=random) for _ in range(2))
    shared, residual, total = (torch.randn(tokens, width, generator=random) for _ in range(3))
    weights = torch.rand(tokens, per_token, generator=random)
    kinds = torch.randint(-1, 3, (tokens * per_token,), generator=random).to(torch.int32)
    weights.view(-1)[kinds == SKIPPED.value] = torch.nan
    is_theirs = (kinds == Kind.IN_PLACE)[:, None]
    ours = torch.where(is_theirs | (kinds == SKIPPED.value)[:, None], torch.nan, y)
    theirs = torch.where(is_theirs, theirs, torch.nan)
    both = torch.where(is_theirs, theirs, y)
    on = [part.to(DEVICE) for part in (ours, weights, kinds, theirs, shared, residual, total.clone())]
    out = torch.full((tokens, width), torch.nan, device=DEVICE)

    launch_combine(on[0], on[1], out, pair_kinds=on[2], in_place=on[3], shared=on[4], residual=on[5])
    assert same_bits(out.cpu(), residual + (combined(both, weights, kinds, None) + shared))

    launch_combine(on[0], on[1], on[6], pair_kinds=on[2], in_place=on[3], total_in=on[6])
    assert same_bits(on[6].cpu(), combined(both, weights, kinds, total))

    weights = torch.rand(tokens, per_token, generator=random)
    launch_combine(y.to(DEVICE), weights.to(DEVICE), out)
    assert same_bits(out.cpu(), combined(y, weights, torch.zeros_like(kinds), None))


def test_combine_some_columns() -> None:
    y, weights = torch.randn(6, 32), torch.rand(3, 2)
    out = torch.full((3, 96), 9.0)
    on = out.to(DEVICE)
    launch_combine(y.to(DEVICE), weights.to(DEVICE), on, first=32)
    out[:, 32:64] = combined(y, weights, torch.zeros(6), None)
    assert same_bits(on.cpu(), out)


@pytest.mark.parametrize("tokens", [1, 4, 40])
def test_groups_of_choices(tokens: int) -> None:
    addresses = torch.arange(100, 100 + EXPERTS)
    ids = choices(tokens, seed=tokens)
    for first, stop in ((0, EXPERTS), (0, 2), (2, 3), (3, 4), (1, 5)):
        groups = group_pairs(ids.to(DEVICE), addresses.to(DEVICE), first, stop)
        count, starts, pairs = int(groups.count), groups.starts.tolist(), groups.pairs.tolist()
        flat = ids.flatten().tolist()
        used = sorted({expert for expert in flat if first <= expert < stop})
        assert groups.experts.tolist()[:count] == used
        for entry, expert in enumerate(used):
            theirs = [pair for pair, chosen in enumerate(flat) if chosen == expert]
            assert pairs[starts[entry] : starts[entry + 1]] == theirs
            assert len(theirs) <= groups.most_rows
            assert groups.addresses[entry] == 100 + expert
        assert not groups.addresses[count:].any()
        assert groups.pair_kinds.tolist() == [0 if expert in used else -1 for expert in flat]
        assert count <= groups.most == len(groups.experts) == len(groups.starts) - 1
