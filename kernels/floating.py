"""The ops on floats in plain torch, as docs/exact-experts.md defines them: norm, router, attention, head.

Sums are loops over the definition's order, and each loop's step takes all rows and heads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.exact import exp, fold, lane_sums, lanes, sigmoid, sum_in_order
from kernels.formats import Matrix
from kernels.ops import AttentionPlan, AttentionWeights, Candidates, Restriction
from kernels.reference import linear, runs_anywhere
from kernels.registry import register

# Scores of a tile of query rows, over all heads and keys.
TILE_SCORES = 1 << 19

# Ids whose shares of a total are added in fp32.
TOTAL_CHUNK = 1024


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    mean = lanes(wide * wide) / torch.full_like(wide[..., 0], x.shape[-1])
    scale = torch.ones_like(mean) / square_root(mean + eps)
    normed = (wide * scale[..., None]).to(x.dtype)
    return (normed.float() * weight.float()).to(x.dtype)


def square_root(t: Tensor) -> Tensor:
    """Of fp32, correctly rounded: by way of fp64, since the library behind torch misrounds one root in six in fp32."""
    return torch.sqrt(t.double()).float()


def route(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    experts_per_token: int,
    groups: int,
    groups_kept: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    scores = sigmoid(linear(x.float(), Matrix.identity(weight)))  # [T, E]
    choices = scores + bias
    if groups_kept < groups:
        choices = choices.masked_fill(_outside_best_groups(choices, groups, groups_kept), -torch.inf)
    best = choices.sort(dim=-1, descending=True, stable=True).indices[:, :experts_per_token]
    ids = best.sort(dim=-1).values
    chosen = scores.gather(-1, ids)
    if experts_per_token > 1:
        chosen = chosen / (sum_in_order(chosen, dim=-1) + 1e-20)[:, None]
    return ids, chosen * scale


def _outside_best_groups(choices: Tensor, groups: int, kept: int) -> Tensor:
    """Which experts are not in the groups whose two best add up to the most: bool [T, E]."""
    grouped = torch.unflatten(choices, -1, (groups, -1))  # [T, groups, E / groups]
    strength = sum_in_order(grouped.sort(dim=-1, descending=True).values[..., :2], dim=-1)
    ranked = strength.sort(dim=-1, descending=True, stable=True).indices
    outside = torch.ones_like(strength, dtype=torch.bool).scatter(-1, ranked[:, :kept], False)
    return outside[..., None].expand_as(grouped).flatten(1)


def query_key_value(
    x: Tensor,
    weights: AttentionWeights,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
) -> Tensor:
    projected = linear(rms_norm(x, weights.input_norm, weights.eps), weights.query_key_value)
    heads = projected.unflatten(-1, (-1, weights.width))  # [T, H + 2G, D]
    h, g = weights.heads, weights.kv_heads
    rotated = rotate(rms_norm(heads[:, : h + g], weights.head_norm, weights.eps), cos, sin)
    block, offset = slots // keys.shape[-1], slots % keys.shape[-1]
    keys[block, :, :, offset] = rotated[:, h:].to(keys.dtype)
    values[block, :, offset] = heads[:, h + g :].to(values.dtype)
    return rotated[:, :h].contiguous()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first R dimensions of x [T, heads, D] by cos and sin [T, R/2], element i with i + R/2."""
    half = cos.shape[-1]
    a, b, rest = torch.split(x.float(), [half, half, x.shape[-1] - 2 * half], dim=-1)
    c, s = cos[:, None], sin[:, None]  # [T, 1, R/2]
    return torch.cat((a * c - b * s, b * c + a * s, rest), dim=-1).to(x.dtype)


def paged_attention(q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    out = torch.empty_like(q)
    size = keys.shape[-1]
    for start, length, context, first in plan.spans.tolist():
        count = -(-(context + length) // size)
        blocks = plan.block_table[first : first + count].long()
        k, v = keys[blocks].float(), values[blocks].float()  # [B, G, D, block_size], [B, G, block_size, D]
        rows = max(1, TILE_SCORES // (q.shape[1] * count * max(size, q.shape[2])))
        for row in range(0, length, rows):
            tile = slice(start + row, start + min(row + rows, length))
            seen = context + row + 1 + torch.arange(tile.stop - tile.start, device=q.device)
            out[tile] = _attend(q[tile].float() * scale, k, v, seen).to(q.dtype)
    return out.flatten(1)


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """What scaled queries [T, H, D] make of blocks of keys and values, of which each row sees the first `seen` [T]."""
    blocks, kv_heads, _, size = k.shape
    queries = q.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)  # [G, H/G, T, D]
    by_head = k.transpose(0, 1)[:, None, None]  # [G, 1, 1, B, D, block_size]
    scores = q.new_zeros(*queries.shape[:3], blocks, size)
    for d in range(q.shape[2]):
        scores = scores + queries[..., d, None, None] * by_head[..., d, :]
    position = torch.arange(blocks * size, device=q.device).view(blocks, size)
    shares = _shares(scores, position < seen[:, None, None])
    total = sum_in_order(fold(lane_sums(shares)), dim=-1)  # [G, H/G, T]
    out = sum_in_order(_weighted(shares, v), dim=-2) / total[..., None]
    return out.permute(2, 0, 1, 3).flatten(1, 2)


def _shares(scores: Tensor, visible: Tensor) -> Tensor:
    """exp(score - highest) over the last two dimensions, +0 where not visible."""
    highest = scores.masked_fill(~visible, -torch.inf).amax(dim=(-2, -1), keepdim=True)
    return exp(scores - highest).masked_fill(~visible, 0.0)


def _weighted(shares: Tensor, v: Tensor) -> Tensor:
    """Each block's sum of share x value, key by key: [G, H/G, T, B, D]."""
    by_head = v.transpose(0, 1)[:, None, None]  # [G, 1, 1, B, block_size, D]
    part = v.new_zeros(*shares.shape[:-1], v.shape[-1])
    for j in range(v.shape[2]):
        part = part + shares[..., j, None] * by_head[..., j, :]
    return part


def head(x: Tensor, matrix: Matrix, size: int, restrictions: Sequence[Restriction], count: int) -> Candidates:
    return candidates(linear(x, matrix), size, restrictions, count)


def candidates(logits: Tensor, size: int, restrictions: Sequence[Restriction], count: int) -> Candidates:
    """What `head` makes of the products [R, V]."""
    scores = logits[:, :size].float().clone()
    for row, restriction in zip(scores, restrictions, strict=True):
        _restrict(row, restriction)
    ranked, ids = scores.sort(dim=-1, descending=True, stable=True)
    totals = [_total(row, restriction) for row, restriction in zip(scores, restrictions, strict=True)]
    return Candidates(
        ids[:, :count].contiguous(),
        ranked[:, :count].contiguous(),
        torch.tensor(totals, dtype=torch.float64, device=scores.device),
        scores.contiguous(),
    )


def _restrict(scores: Tensor, restriction: Restriction) -> None:
    """Applies the mask, then the penalty, to scores [size]."""
    if restriction.allowed is not None:
        scores.masked_fill_(~restriction.allowed[: len(scores)], -torch.inf)
    if restriction.seen is not None:
        seen = restriction.seen[restriction.seen < len(scores)]
        before, penalty = scores[seen], scores.new_tensor(restriction.penalty)
        scores[seen] = torch.where(before > 0, before / penalty, before * penalty)


def _total(scores: Tensor, restriction: Restriction) -> float:
    if restriction.temperature == 0:
        return 0.0
    terms = exp((scores - scores.max()) / scores.new_tensor(restriction.temperature))
    if restriction.allowed is not None:
        terms = terms.masked_fill(~restriction.allowed[: len(scores)], 0.0)
    chunks = torch.nn.functional.pad(terms, (0, -len(scores) % TOTAL_CHUNK)).view(-1, TOTAL_CHUNK)
    return float(sum_in_order(lanes(chunks).double(), dim=0))


OPS: dict[str, Callable[..., Any]] = {
    "rms_norm": rms_norm,
    "route": route,
    "query_key_value": query_key_value,
    "paged_attention": paged_attention,
    "head": head,
}

for _name, _function in OPS.items():
    register(_name, "torch", _function, rank=0, supports=runs_anywhere)
