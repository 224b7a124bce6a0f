"""Which rows go through which expert, from the router's choices: integer ops on the device, unseen by the host."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.gpu.combine import SKIPPED
from kernels.gpu.tables import Groups, Kind


def group_pairs(ids: Tensor, addresses: Tensor, first: int = 0, stop: int | None = None) -> Groups:
    """The groups of ids int64 [T, K] ascending in a row, among experts `first` to `stop` - 1, all of them resident.

    addresses int64 [E] on the same device. Pairs of other experts are of kind SKIPPED and in no group.
    """
    stop = addresses.shape[0] if stop is None else stop
    flat = ids.flatten()
    is_within = (flat >= first) & (flat < stop)
    # Those outside go behind all others.
    keys, pairs = torch.where(is_within, flat, stop).sort(stable=True)
    most = max(min(stop - first, flat.numel()), 1)
    entries, starts, experts, count = _distinct(keys, stop, most)
    in_use = entries < count
    return Groups(
        count=count.to(torch.int32),
        experts=experts.to(torch.int32),
        starts=starts.to(torch.int32),
        pairs=pairs.to(torch.int32),
        addresses=torch.where(in_use, addresses[experts], 0),
        kinds=torch.full_like(experts, Kind.RESIDENT, dtype=torch.int32),
        pair_kinds=torch.where(is_within, int(Kind.RESIDENT), SKIPPED.value).to(torch.int32),
        most=most,
        most_rows=ids.shape[0],
        per_token=ids.shape[1],
    )


def _distinct(keys: Tensor, stop: int, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of ascending keys those below `stop`: entries 0 .. most - 1, starts, keys, and how many are used."""
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[1:] = keys[1:] != keys[:-1]
    is_within = keys < stop
    within = is_within.sum()
    # What isn't the first of its key goes to a last entry, which is cut off.
    place = torch.where(is_first & is_within, is_first.cumsum(0) - 1, most + 1)
    starts = within.expand(most + 2).clone().scatter_(0, place, torch.arange(len(keys), device=keys.device))
    experts = torch.zeros_like(starts).scatter_(0, place, keys)
    return (
        torch.arange(most, device=keys.device),
        starts[: most + 1],
        experts[:most],
        (is_first & is_within).sum().reshape(1),
    )
