"""What leaves a full cache, on the device: the policies of the runtime as functions of arrays.

Layer steps are counted from 1 on the device, and 0 says that an expert was never used. The policies count from 0, where
never and the first step are one, so that last uses are taken one lower here.

`frequency` is what a policy counts of a blob. With slru: uses since it came. With lfu and lfru: the logarithm to base 2
of its uses, each worth half for every half-life that it was older than the last one, and one more at the very start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.language import rint
from kernels.gpu.launch import launch

POLICIES = ("lru", "lfu", "lfru", "slru", "least-stale")

# A standing is a policy's rank of a slot, lowest first, above the number of the slot, which breaks ties.
SLOT_BITS = tl.constexpr(16)
FREE = tl.constexpr(-(1 << 62))
NEVER = tl.constexpr(1 << 62)
# Of slru: what was used again since it came.
PROTECTED = tl.constexpr(1 << 48)

MOST_SLOTS = 1 << 16
MOST_LAYERS = 1 << 10

# Slots that one program ranks: one to a thread.
SLOT_CHUNK = 128

_SLOT_MASK = tl.constexpr((1 << 16) - 1)
_PROTECTED_RANK = tl.constexpr(1 << 32)
_LAST_LAYER = tl.constexpr(MOST_LAYERS - 1)
_SQRT_HALF = tl.constexpr(0x3F3504F3)
_TO_LOG2 = tl.constexpr(2 / math.log(2))
_E1, _E2, _E3, _E4, _E5, _E6 = (tl.constexpr(math.log(2) ** i / math.factorial(i)) for i in range(1, 7))
_L3, _L5, _L7, _L9 = (tl.constexpr(1 / i) for i in (3, 5, 7, 9))


@dataclass(frozen=True)
class Policy:
    """An eviction policy for a model of `layers` with so many `experts` each.

    A use counts half after `half_life` layer steps. What was used again holds at most the part `protected` of slots.
    Raises ValueError for a name that is no policy.
    """

    name: str
    layers: int
    experts: int
    half_life: float
    protected: float

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            raise ValueError(f"there is no policy {self.name!r}: use one of {', '.join(POLICIES)}")
        if not 0 < self.layers <= MOST_LAYERS:
            raise ValueError(f"{self.layers} layers with experts: from 1 to {MOST_LAYERS} can be")

    @property
    def decay(self) -> float:
        """What a logarithm to base 2 loses in a layer step."""
        return 1 / self.half_life

    def most_protected(self, slots: int) -> int:
        return math.floor(self.protected * slots)


def slot_chunks(slots: int) -> int:
    """Into how many chunks the slots are divided. Raises ValueError where there are too many slots."""
    if not 0 < slots <= MOST_SLOTS:
        raise ValueError(f"{slots} slots: from 1 to {MOST_SLOTS} can be")
    return triton.cdiv(slots, SLOT_CHUNK)


def slot_blocks(slots: int) -> dict[str, int]:
    """What choosing among so many slots is compiled for."""
    return {"CHUNK": SLOT_CHUNK, "CHUNKS": triton.next_power_of_2(slot_chunks(slots))}


@triton.jit
def since(now, last_used):
    """Layer steps from the last use to `now`, both as the device counts them."""
    return now - tl.maximum(last_used, 1)


@triton.jit
def touched(last_used, frequency, now, decay, POLICY: tl.constexpr):
    """The frequency of blobs that are used at `now`, which afterwards is their last use."""
    if POLICY == "slru":
        return frequency + 1.0
    if POLICY == "lfu" or POLICY == "lfru":
        faded = frequency - since(now, last_used).to(tl.float32) * decay
        # log2(2^faded + 1)
        return tl.maximum(faded, 0.0) + log2(exp2(-tl.abs(faded)) + 1.0)
    return frequency


@triton.jit
def standing(owner, last_used, frequency, now, layers, experts, decay, o_slot, POLICY: tl.constexpr):
    """An int64 for each slot, lower for what leaves sooner and FREE + slot where there is nothing."""
    last = tl.maximum(last_used, 1) - 1
    if POLICY == "lru":
        rank = last.to(tl.int64)
    elif POLICY == "slru":
        rank = last.to(tl.int64) + (frequency > 1.0).to(tl.int64) * _PROTECTED_RANK
    elif POLICY == "least-stale":
        rank = _staleness(owner, last_used, last, now - 1, layers, experts)
    else:
        age = since(now, last_used)
        score = frequency - age.to(tl.float32) * decay
        if POLICY == "lfru":
            score = score - log2((age + layers).to(tl.float32))
        rank = ordered(score).to(tl.int64)
    key = (rank << SLOT_BITS) | o_slot.to(tl.int64)
    return tl.where(owner < 0, o_slot.to(tl.int64) + FREE, key)


@triton.jit
def _staleness(owner, last_used, last, now, layers, experts):
    """First of layers that are done, then of layers ahead, then of this pass; the highest layer, the longest unused."""
    here = now % layers
    layer = tl.where(last_used > 0, owner // experts, 0)
    kind = tl.where(last < now - here, tl.where(layer <= here, 0, 1), 2)
    return ((kind * (_LAST_LAYER + 1) + _LAST_LAYER - layer).to(tl.int64) << 31) + last.to(tl.int64)


@triton.jit
def ordered(t):
    """An int32 of the order of fp32 t, NaN above all."""
    bits = t.to(tl.int32, bitcast=True)
    return tl.where(t == t, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)


@triton.jit
def exp2(t):
    """2^t of fp32 t from -126 to 126, within 3 units in the last place; lower as if it were -126."""
    clamped = tl.maximum(t, -126.0)
    n = rint(clamped)
    r = clamped - n
    series = r * _E6 + _E5
    series = series * r + _E4
    series = series * r + _E3
    series = series * r + _E2
    series = series * r + _E1
    series = series * r + 1.0
    return series * ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def log2(t):
    """The logarithm to base 2 of a normal fp32 t, within 2^-22 and 2 units in the last place."""
    bits = t.to(tl.int32, bitcast=True)
    exponent = (bits - _SQRT_HALF) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    s = tl.div_rn(f, f + 2.0)
    square = s * s
    series = square * _L9 + _L7
    series = series * square + _L5
    series = series * square + _L3
    series = series * square + 1.0
    return exponent.to(tl.float32) + s * series * _TO_LOG2


@triton.jit
def rank_slots(
    p_owner, p_last_used, p_frequency, p_standings, p_summaries,
    now, slots, layers, experts, decay, chunk, CHUNK: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """Writes the standings of a chunk of slots, as they are before anything is used at `now`, and its summary.

    A summary, int64 [3, chunks], is the lowest standing, the lowest were nothing protected, and how many are protected.
    """
    o_slot = chunk * CHUNK + tl.arange(0, CHUNK)
    m_slot = o_slot < slots
    owner = tl.load(p_owner + o_slot, mask=m_slot, other=-1)
    blob = tl.maximum(owner, 0)
    m_held = owner >= 0
    last_used = tl.load(p_last_used + blob, mask=m_held, other=0)
    frequency = tl.load(p_frequency + blob, mask=m_held, other=0.0)
    key = standing(owner, last_used, frequency, now, layers, experts, decay, o_slot, POLICY)
    key = tl.where(m_slot, key, NEVER)
    tl.store(p_standings + o_slot, key, mask=m_slot)
    p_summary, chunks = p_summaries + chunk, tl.cdiv(slots, CHUNK)
    tl.store(p_summary, tl.min(key, axis=0))
    if POLICY == "slru":
        tl.store(p_summary + chunks, tl.min(key & ~PROTECTED, axis=0))
        tl.store(p_summary + 2 * chunks, tl.sum((key & PROTECTED) // PROTECTED, axis=0))


@triton.jit
def choose_slots(
    p_standings, p_summaries, p_chosen, p_protects, count, slots, newly_protected, most_protected,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """Writes the `count` slots that are taken, one after another: what is free, then what leaves.

    Standings of slots that must not be taken have become NEVER since they were summarised. With slru, so many of these
    are newly protected, and p_protects says of each that comes whether it was used more than once.
    """
    chunks, i_chunk = tl.cdiv(slots, CHUNK), tl.arange(0, CHUNKS)
    m_chunk = i_chunk < chunks
    lowest = tl.load(p_summaries + i_chunk, mask=m_chunk, other=NEVER, cache_modifier=".cg")
    lowest_of_all, protected = lowest, newly_protected
    if POLICY == "slru":
        p_summary = p_summaries + chunks + i_chunk
        lowest_of_all = tl.load(p_summary, mask=m_chunk, other=NEVER, cache_modifier=".cg")
        counts = tl.load(p_summary + chunks, mask=m_chunk, other=0, cache_modifier=".cg")
        protected += tl.sum(counts, axis=0).to(tl.int32)
    done = tl.full([], 0, tl.int32)
    while done < count:
        # All that a pass compares is of one kind: with what is protected, or as if nothing were.
        mask = _every_bit(protected, most_protected, POLICY)
        best = tl.min(tl.where(mask == -1, lowest, lowest_of_all), axis=0)
        slot = (best & _SLOT_MASK).to(tl.int32)
        chunk = slot // CHUNK
        o_slot = chunk * CHUNK + tl.arange(0, CHUNK)
        keys = tl.load(p_standings + o_slot, mask=o_slot < slots, other=NEVER, cache_modifier=".cg")
        # Where it has become NEVER, this only brings the summary up to date.
        if tl.min(keys & mask, axis=0) == best:
            tl.store(p_chosen + done, slot)
            tl.store(p_standings + slot, tl.full([], NEVER, tl.int64))
            is_taken = o_slot == slot
            if POLICY == "slru":
                left = tl.sum((is_taken & ((keys & PROTECTED) != 0)).to(tl.int32), axis=0)
                protected += (tl.load(p_protects + done) != 0).to(tl.int32) - left
            keys = tl.where(is_taken, NEVER, keys)
            done += 1
        lowest = tl.where(i_chunk == chunk, tl.min(keys, axis=0), lowest)
        if POLICY == "slru":
            lowest_of_all = tl.where(i_chunk == chunk, tl.min(keys & ~PROTECTED, axis=0), lowest_of_all)
        tl.debug_barrier()


@triton.jit
def _every_bit(protected, most_protected, POLICY: tl.constexpr):
    """The bits of standings that count."""
    mask = tl.full([], -1, tl.int64)
    if POLICY == "slru":
        mask = tl.where(protected > most_protected, ~PROTECTED, mask)
    return mask


def launch_touch(experts: Tensor, last_used: Tensor, frequency: Tensor, now: int, policy: Policy) -> None:
    """Distinct blobs, int32 [n], are used at layer step `now`, counted from 1."""
    block = triton.next_power_of_2(experts.numel())
    launch(
        _touch, (1,), experts, last_used, frequency, experts.numel(), now, policy.decay, BLOBS=block, POLICY=policy.name
    )


@triton.jit
def _touch(p_experts, p_last_used, p_frequency, count, now, decay, BLOBS: tl.constexpr, POLICY: tl.constexpr):
    o_blob = tl.arange(0, BLOBS)
    m_blob = o_blob < count
    blob = tl.load(p_experts + o_blob, mask=m_blob, other=0)
    last_used = tl.load(p_last_used + blob, mask=m_blob, other=0)
    frequency = tl.load(p_frequency + blob, mask=m_blob, other=0.0)
    tl.debug_barrier()
    tl.store(p_frequency + blob, touched(last_used, frequency, now, decay, POLICY), mask=m_blob)
    tl.store(p_last_used + blob, tl.zeros([BLOBS], tl.int32) + now, mask=m_blob)


def launch_victims(
    owner: Tensor,
    last_used: Tensor,
    frequency: Tensor,
    pinned: Tensor,
    protects: Tensor,
    now: int,
    policy: Policy,
    standings: Tensor,
    summaries: Tensor,
    victims: Tensor,
) -> None:
    """The slots, int32 [n], that leave one after another at layer step `now`; those `pinned`, bool [N], stay.

    `protects` int32 [n] says of each that comes whether it was used more than once; standings int64 [N] and summaries
    int64 [3, chunks] are scratch.
    """
    slots = owner.numel()
    launch(
        _victims,
        (1,),
        owner,
        last_used,
        frequency,
        pinned,
        protects,
        standings,
        summaries,
        victims,
        now,
        victims.numel(),
        slots,
        policy.layers,
        policy.experts,
        policy.decay,
        policy.most_protected(slots),
        POLICY=policy.name,
        **slot_blocks(slots),
    )


@triton.jit
def _victims(
    p_owner,
    p_last_used,
    p_frequency,
    p_pinned,
    p_protects,
    p_standings,
    p_summaries,
    p_victims,
    now,
    count,
    slots,
    layers,
    experts,
    decay,
    most_protected,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    POLICY: tl.constexpr,
):
    for chunk in range(tl.cdiv(slots, CHUNK)):
        rank_slots(
            p_owner, p_last_used, p_frequency, p_standings, p_summaries,
            now, slots, layers, experts, decay, chunk, CHUNK, POLICY,
        )  # fmt: skip
        o_slot = chunk * CHUNK + tl.arange(0, CHUNK)
        m_pinned = tl.load(p_pinned + o_slot, mask=o_slot < slots, other=0) != 0
        tl.debug_barrier()
        tl.store(p_standings + o_slot, tl.full([CHUNK], NEVER, tl.int64), mask=m_pinned)
    tl.debug_barrier()
    choose_slots(
        p_standings, p_summaries, p_victims, p_protects, count, slots, tl.full([], 0, tl.int32), most_protected,
        CHUNK, CHUNKS, POLICY,
    )  # fmt: skip
