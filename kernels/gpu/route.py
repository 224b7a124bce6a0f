"""The router; and in one launch all that a layer step decides: experts of rows, what is fetched, and what leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.float_linear import float_product_tile, launch_float_linear
from kernels.gpu.launch import launch
from kernels.gpu.plan_step import next_step, plan_ahead, plan_experts
from kernels.gpu.policy import Policy, rank_slots, slot_blocks, slot_chunks
from kernels.gpu.router import arrive, choose_row
from kernels.gpu.tables import Fetches, Groups, InPlace, Placement

# Rows of a layer step, each a bit of a word that stays positive.
MOST_ROWS = 63

# Experts whose products one program of a step computes, by so many steps of sixteen columns at once. Many programs,
# each with nearly all that it reads on its way from the start: a layer step waits for memory once.
TILE, STEPS, STAGES = 2, 32, 8


@dataclass(frozen=True)
class RouterShape:
    """How many experts a row goes to, of which of the groups, and what their weights add up to."""

    experts_per_token: int
    groups: int
    groups_kept: int
    scale: float

    def blocks(self, experts: int) -> dict[str, Any]:
        """What choosing among so many experts is compiled for."""
        members = experts // self.groups
        return {
            "K": self.experts_per_token,
            "K_BLOCK": triton.next_power_of_2(self.experts_per_token),
            "GROUPS": self.groups,
            "KEPT": self.groups_kept,
            "GROUP_BLOCK": triton.next_power_of_2(self.groups),
            "MEMBER_BLOCK": triton.next_power_of_2(members),
            "SINGLES": members == 1,
        }


@dataclass(frozen=True)
class RouteScratch:
    """What launches of steps of up to T rows work in, one after another; what they leave there must be kept."""

    products: Tensor  # fp32 [T, E]
    rows_of: Tensor = field(repr=False)  # int64 [E], bits of the rows that use an expert, 0 between steps
    tickets: Tensor = field(repr=False)  # int32 [1 + T], 0 between launches
    words: Tensor = field(repr=False)  # int32 [E]
    standings: Tensor = field(repr=False)  # int64 [N]
    summaries: Tensor = field(repr=False)  # int64 [3, chunks]
    coming: Tensor = field(repr=False)  # int32 [D]
    protects: Tensor = field(repr=False)  # int32 [D]
    chosen: Tensor = field(repr=False)  # int32 [D]
    guessed: Tensor = field(repr=False)  # int32 [B], 1 for what was guessed since its layer's last step

    @classmethod
    def empty(cls, rows: int, policy: Policy, experts_per_token: int, slots: int, device: torch.device) -> Self:
        experts = policy.experts
        most = min(rows * experts_per_token, experts)

        def ints(count: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(count, dtype=dtype, device=device)

        return cls(
            products=torch.zeros(rows, experts, device=device),
            rows_of=ints(experts, torch.int64),
            tickets=ints(1 + rows),
            words=ints(experts),
            standings=ints(slots, torch.int64),
            summaries=ints(3 * slot_chunks(slots), torch.int64),
            coming=ints(most),
            protects=ints(most),
            chosen=ints(most),
            guessed=ints(policy.layers * experts),
        )


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
    router = RouterShape(experts_per_token, groups, groups_kept, scale)
    ids = torch.empty(x.shape[0], experts_per_token, dtype=torch.int64, device=x.device)
    weights = torch.empty(ids.shape, dtype=torch.float32, device=x.device)
    products = torch.empty(x.shape[0], weight.shape[0], dtype=torch.float32, device=x.device)
    launch_route(x.float().contiguous(), weight, bias, router, weights, ids, products)
    return ids, weights


def launch_route(
    x: Tensor, weight: Tensor, bias: Tensor, router: RouterShape, weights: Tensor, ids: Tensor, products: Tensor
) -> None:
    """The experts of each row of x fp32 [T, M]: ids int32 or int64 [T, K] and weights fp32 [T, K].

    weight [E, M], bias fp32 [E]; products fp32 [T, E] are scratch.
    """
    launch_float_linear(x, weight, products[: x.shape[0]])
    experts = weight.shape[0]
    blocks = router.blocks(experts)
    launch(_choose, (x.shape[0],), products, bias, ids, weights, experts, router.scale, warps=1, **blocks)


@triton.jit
def _choose(
    p_products, p_bias, p_ids, p_weights, experts, scale,
    K: tl.constexpr, K_BLOCK: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, GROUP_BLOCK: tl.constexpr,
    MEMBER_BLOCK: tl.constexpr, SINGLES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    choose_row(
        p_products + row * experts, p_bias, None, p_ids + row * K, p_weights + row * K, experts, scale,
        K, K_BLOCK, GROUPS, KEPT, GROUP_BLOCK, MEMBER_BLOCK, SINGLES, False,
    )  # fmt: skip


def launch_route_step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    router: RouterShape,
    layer: int,
    placement: Placement,
    fetch_of: Tensor,
    groups: Groups,
    weights: Tensor,
    ids: Tensor,
    fetches: Fetches,
    in_place: InPlace,
    policy: Policy,
    scratch: RouteScratch,
    forced_ids: Tensor | None = None,
) -> None:
    """Routes x fp32 [T, M], T up to 63, through a layer, counted among those with experts; fills the step's tables.

    Of m missing experts the first fetch_of[m], int32 [D + 1], get a slot, as far as something may leave for them, and
    the others are computed in place. weights fp32 and ids int32 [T, K] come out. With forced_ids [T, K], ascending,
    those are the experts. Raises ValueError for more rows, slots or layers than are provided for.
    """
    rows, experts, slots = x.shape[0], weight.shape[0], placement.owner.numel()
    if not 0 < rows <= MOST_ROWS:
        raise ValueError(f"{rows} rows in a layer step: from 1 to {MOST_ROWS} can be")
    _check_moves(placement, fetches)
    tokens = min(rows, 2)
    tiles, blocks = triton.cdiv(experts, TILE), triton.cdiv(rows, tokens)
    most = min(rows * router.experts_per_token, experts)
    launch(
        _route_step, (tiles * blocks + slot_chunks(slots),),
        x, weight, bias, forced_ids, weights, ids,
        scratch.products, scratch.rows_of, scratch.tickets, scratch.words, scratch.standings, scratch.summaries,
        scratch.coming, scratch.protects, scratch.chosen, scratch.guessed,
        placement.location, placement.owner, placement.last_used, placement.frequency, placement.now,
        placement.counters, placement.slots, fetch_of,
        groups.count, groups.experts, groups.starts, groups.pairs, groups.addresses, groups.kinds, groups.pair_kinds,
        fetches.count, fetches.moves, in_place.words, in_place.pairs,
        layer, rows, x.shape[1], experts, slots, min(fetches.most, most), policy.layers, policy.most_protected(slots),
        policy.decay, placement.blob_bytes, router.scale,
        **router.blocks(experts),
        TOKENS=tokens, TILE=TILE, STEPS=STEPS, STAGES=STAGES,
        EXPERTS=triton.next_power_of_2(experts), PAIRS=triton.next_power_of_2(rows * router.experts_per_token),
        COMING=triton.next_power_of_2(most), **slot_blocks(slots), COLUMNS=fetches.moves.shape[1],
        EXCLUSIVE=placement.exclusive, POLICY=policy.name, FORCED=forced_ids is not None, ONE_BLOCK=blocks == 1,
    )  # fmt: skip


@triton.jit(do_not_specialize=["layer"])
def _route_step(
    p_x, p_weight, p_bias, p_forced, p_weights, p_ids,
    p_products, p_rows_of, p_tickets, p_words, p_standings, p_summaries, p_coming, p_protects, p_chosen, p_guessed,
    p_location, p_owner, p_last_used, p_frequency, p_now, p_counters, p_slots, p_fetch_of,
    p_count, p_experts, p_starts, p_pairs, p_addresses, p_kinds, p_pair_kinds,
    p_fetch_count, p_moves, p_host_words, p_host_pairs,
    layer, rows, columns, experts, slots, most, layers, most_protected, decay, blob_bytes, scale,
    K: tl.constexpr, K_BLOCK: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, GROUP_BLOCK: tl.constexpr,
    MEMBER_BLOCK: tl.constexpr, SINGLES: tl.constexpr,
    TOKENS: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
    EXPERTS: tl.constexpr, PAIRS: tl.constexpr, COMING: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EXCLUSIVE: tl.constexpr, POLICY: tl.constexpr, FORCED: tl.constexpr, ONE_BLOCK: tl.constexpr,
):  # fmt: skip
    """Programs compute products of TILE experts with TOKENS rows, others how CHUNK slots stand.

    The last to bring a row's products chooses its experts, and the last of all plans the step.
    """
    tiles, blocks = tl.cdiv(experts, TILE), tl.cdiv(rows, TOKENS)
    chunks = tl.cdiv(slots, CHUNK)
    i_program = tl.program_id(0)
    now = next_step(p_now, layer, layers)
    block = i_program // tiles
    is_tile = block < blocks
    if is_tile:
        o_tokens, o_experts = block * TOKENS + tl.arange(0, TOKENS), i_program % tiles * TILE + tl.arange(0, TILE)
        m_tokens, m_experts = o_tokens < rows, o_experts < experts
        products = float_product_tile(
            p_x, p_weight, o_tokens, m_tokens, o_experts, m_experts, columns, TOKENS, TILE, STEPS, STAGES
        )
        p_tile = p_products + o_tokens[:, None] * experts + o_experts[None, :]
        tl.store(p_tile, products, mask=m_tokens[:, None] & m_experts[None, :])
    else:
        rank_slots(
            p_owner, p_last_used, p_frequency, p_standings, p_summaries,
            now, slots, layers, experts, decay, i_program - tiles * blocks, CHUNK, POLICY,
        )  # fmt: skip
    if ONE_BLOCK:
        block = 0
        is_last = arrive(p_tickets, tiles + chunks)
        completes_block = is_last
    else:
        completes_block = is_tile
        if is_tile:
            completes_block = arrive(p_tickets + 1 + block, tiles)
        is_last = completes_block
    if completes_block:
        for row in range(block * TOKENS, tl.minimum(rows, block * TOKENS + TOKENS)):
            chosen = choose_row(
                p_products + row * experts, p_bias, p_forced + row * K if FORCED else None, p_ids + row * K,
                p_weights + row * K, experts, scale,
                K, K_BLOCK, GROUPS, KEPT, GROUP_BLOCK, MEMBER_BLOCK, SINGLES, FORCED,
            )  # fmt: skip
            bit = tl.full([K_BLOCK], 1, tl.int64) << row
            tl.atomic_or(p_rows_of + chosen, bit, mask=tl.arange(0, K_BLOCK) < K, sem="relaxed")
        tl.debug_barrier()
    if not ONE_BLOCK:
        arrives = completes_block | (is_tile == 0)
        if arrives:
            is_last = arrive(p_tickets, blocks + chunks)
    if is_last:
        plan_experts(
            p_rows_of, p_ids, p_words, p_standings, p_summaries, p_coming, p_protects, p_chosen, p_guessed,
            p_location, p_owner, p_last_used, p_frequency, p_now, p_counters, p_slots, p_fetch_of,
            p_count, p_experts, p_starts, p_pairs, p_addresses, p_kinds, p_pair_kinds,
            p_fetch_count, p_moves, p_host_words, p_host_pairs,
            now, layer, rows, experts, slots, most, most_protected, decay, blob_bytes,
            K, EXPERTS, PAIRS, COMING, CHUNK, CHUNKS, COLUMNS, EXCLUSIVE, POLICY,
        )  # fmt: skip


@dataclass(frozen=True)
class Guesses:
    """What a router made of a state before its layer, which is counted as in a step: its `surest` are meant."""

    layer: int
    ids: Tensor  # int32 [T, K]
    weights: Tensor  # fp32 [T, K]
    surest: int


def launch_ahead(
    placement: Placement,
    layer: int,
    groups: Groups,
    guesses: Guesses | None,
    fetches: Fetches,
    policy: Policy,
    scratch: RouteScratch,
    most_ahead: int,
) -> None:
    """Gives up to `most_ahead` experts a slot, after the step of a layer and before the next.

    They are guesses for a layer to come, or without these what the step computed in place; in order of id, as far as
    something may leave for them: nothing that the step used or that was guessed.
    """
    _check_moves(placement, fetches)
    slots, experts, most_used = placement.owner.numel(), policy.experts, groups.experts.numel()
    ids, weights = (None, None) if guesses is None else (guesses.ids, guesses.weights)
    rows, per_token = (1, 1) if guesses is None else guesses.ids.shape
    most = min(fetches.most, scratch.coming.numel())
    launch(
        _ahead, (slot_chunks(slots),),
        scratch.tickets, scratch.standings, scratch.summaries,
        scratch.coming, scratch.protects, scratch.chosen, scratch.guessed,
        placement.location, placement.owner, placement.last_used, placement.frequency, placement.now,
        placement.counters, groups.count, groups.experts, groups.kinds, ids, weights, fetches.count, fetches.moves,
        layer, 0 if guesses is None else guesses.layer, rows, experts, slots, min(most, most_ahead), policy.layers,
        policy.most_protected(slots), policy.decay,
        K=per_token, SUREST=0 if guesses is None else guesses.surest, EXPERTS=triton.next_power_of_2(experts),
        PAIRS=triton.next_power_of_2(rows * per_token), USED=triton.next_power_of_2(most_used),
        COMING=triton.next_power_of_2(most), **slot_blocks(slots), COLUMNS=fetches.moves.shape[1],
        EXCLUSIVE=placement.exclusive, POLICY=policy.name, GUESSING=guesses is not None,
    )  # fmt: skip


@triton.jit(do_not_specialize=["layer", "guessed_layer"])
def _ahead(
    p_tickets, p_standings, p_summaries, p_coming, p_protects, p_chosen, p_guessed,
    p_location, p_owner, p_last_used, p_frequency, p_now, p_counters, p_used_count, p_used, p_kinds, p_ids, p_weights,
    p_fetch_count, p_moves,
    layer, guessed_layer, rows, experts, slots, most, layers, most_protected, decay,
    K: tl.constexpr, SUREST: tl.constexpr, EXPERTS: tl.constexpr, PAIRS: tl.constexpr,
    USED: tl.constexpr, COMING: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
    COLUMNS: tl.constexpr, EXCLUSIVE: tl.constexpr,
    POLICY: tl.constexpr, GUESSING: tl.constexpr,
):  # fmt: skip
    """Programs say how CHUNK slots stand, and the last one plans."""
    rank_slots(
        p_owner, p_last_used, p_frequency, p_standings, p_summaries,
        tl.load(p_now), slots, layers, experts, decay, tl.program_id(0), CHUNK, POLICY,
    )  # fmt: skip
    is_last = arrive(p_tickets, tl.cdiv(slots, CHUNK))
    if is_last:
        plan_ahead(
            p_standings, p_summaries, p_coming, p_protects, p_chosen, p_guessed,
            p_location, p_owner, p_frequency, p_counters, p_used_count, p_used, p_kinds, p_ids, p_weights,
            p_fetch_count, p_moves, layer, guessed_layer, rows, experts, slots, most, most_protected,
            K, SUREST, EXPERTS, PAIRS, USED, COMING, CHUNK, CHUNKS, COLUMNS, EXCLUSIVE, POLICY, GUESSING,
        )  # fmt: skip


def _check_moves(placement: Placement, fetches: Fetches) -> None:
    if placement.exclusive and fetches.moves.shape[1] < 3:
        raise ValueError("an exclusive placement needs moves of three columns: what leaves a slot goes to the frame")
