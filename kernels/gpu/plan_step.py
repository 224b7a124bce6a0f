"""What becomes of the experts that a layer step uses: they have a slot, get one, or are computed where they lie.

One program does this when all rows have their experts. A scratch list is written, and after a barrier read by index.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.policy import NEVER, choose_slots, touched
from kernels.gpu.tables import Counter, Kind

# Fields of a packed sum over experts: how many are used, their pairs, and how many of them are missing.
_FIELD = tl.constexpr((1 << 20) - 1)
_PAIRS = tl.constexpr(20)
_MISSING = tl.constexpr(40)
# A word about an expert: where its pairs start, below how it is computed.
_KIND = tl.constexpr(16)
_START = tl.constexpr((1 << 16) - 1)

_RESIDENT, _FETCHED, _IN_PLACE = (tl.constexpr(int(kind)) for kind in Kind)
_COUNTERS = tl.constexpr(16)
_C_USES, _C_HITS, _C_FETCHED, _C_IN_PLACE, _C_EVICTED, _C_GUESSED, _C_RIGHT, _C_AHEAD, _C_ADMITTED = (
    tl.constexpr(int(counter)) for counter in Counter
)


@triton.jit
def next_step(p_now, layer, layers):
    """The next layer step that is one of this layer's, counted from 1."""
    now = tl.load(p_now)
    here = (now + layers - 1) % layers
    gap = (layer - here + layers) % layers
    return now + tl.where(gap == 0, layers, gap)


@triton.jit
def plan_experts(
    p_rows_of, p_ids, p_words, p_standings, p_summaries, p_coming, p_protects, p_chosen, p_guessed,
    p_location, p_owner, p_last_used, p_frequency, p_now, p_counters, p_slots, p_fetch_of,
    p_count, p_experts, p_starts, p_pairs, p_addresses, p_kinds, p_pair_kinds,
    p_fetch_count, p_moves, p_host_words, p_host_pairs,
    now, layer, rows, experts, slots, most, most_protected, decay, blob_bytes,
    K: tl.constexpr, EXPERTS: tl.constexpr, PAIRS: tl.constexpr,
    COMING: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
    COLUMNS: tl.constexpr, EXCLUSIVE: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """Fills every table of a layer step from p_ids [rows, K] and from which rows use each expert."""
    i_expert = tl.arange(0, EXPERTS)
    m_expert = i_expert < experts
    blob = layer * experts + i_expert
    row_bits = tl.load(p_rows_of + i_expert, mask=m_expert, other=0, cache_modifier=".cg")
    is_used = row_bits != 0
    location = tl.load(p_location + blob, mask=is_used, other=0)
    last_used = tl.load(p_last_used + blob, mask=is_used, other=0)
    frequency = tl.load(p_frequency + blob, mask=is_used, other=0.0)
    guessed = tl.load(p_guessed + blob, mask=m_expert, other=0)
    i_pair = tl.arange(0, PAIRS)
    m_pair = i_pair < rows * K
    pair_expert = tl.load(p_ids + i_pair, mask=m_pair, other=0, cache_modifier=".cg")
    pair_bits = tl.load(p_rows_of + pair_expert, mask=m_pair, other=0, cache_modifier=".cg")

    is_there = is_used & (location >= 0)
    is_missing = is_used & (location < 0)
    pairs_of = _bits_set(row_bits)
    own = is_used.to(tl.int64) + (pairs_of << _PAIRS) + (is_missing.to(tl.int64) << _MISSING)
    before = tl.cumsum(own, axis=0) - own
    every = tl.sum(own, axis=0)
    index = (before & _FIELD).to(tl.int32)
    start = ((before >> _PAIRS) & _FIELD).to(tl.int32)
    place = (before >> _MISSING).to(tl.int32)  # among those missing
    count = (every & _FIELD).to(tl.int32)
    missing = (every >> _MISSING).to(tl.int32)
    hits = count - missing
    fetched = tl.minimum(tl.load(p_fetch_of + missing), tl.minimum(slots - hits, most))
    is_fetched = is_missing & (place < fetched)
    kind = tl.where(is_there, _RESIDENT, tl.where(is_fetched, _FETCHED, _IN_PLACE))

    # What several threads have loaded is not overwritten before all have.
    tl.debug_barrier()
    tl.store(p_last_used + blob, tl.zeros([EXPERTS], tl.int32) + now, mask=is_used)
    was_protected = frequency > 1.0
    frequency = touched(last_used, frequency, now, decay, POLICY)
    protects = frequency > 1.0
    tl.store(p_frequency + blob, frequency, mask=is_used)
    tl.store(p_now, now)
    tl.store(p_guessed + blob, tl.zeros([EXPERTS], tl.int32), mask=m_expert)

    tl.store(p_count, count)
    tl.store(p_experts + index, i_expert, mask=is_used)
    tl.store(p_starts + index, start, mask=is_used)
    tl.store(p_starts + count, rows * K)
    tl.store(p_kinds + index, kind, mask=is_used)
    tl.store(p_words + i_expert, start | (kind << _KIND), mask=is_used)

    tl.store(p_host_words, missing - fetched)
    tl.store(p_host_words + 1, rows)
    p_line = p_host_words + 2 + 3 * (place - fetched)
    is_in_place = is_missing & (is_fetched == 0)
    tl.store(p_line, -1 - location, mask=is_in_place)
    tl.store(p_line + 1, start, mask=is_in_place)
    tl.store(p_line + 2, start + pairs_of.to(tl.int32), mask=is_in_place)

    evicted = tl.full([], 0, tl.int32)
    tl.store(p_fetch_count, fetched)
    if fetched > 0:
        pin_slots(p_standings, location, is_there)
        tl.store(p_coming + place, blob, mask=is_fetched)
        tl.store(p_protects + place, protects.to(tl.int32), mask=is_fetched)
        newly_protected = tl.sum((is_there & protects & (was_protected == 0)).to(tl.int32), axis=0)
        tl.debug_barrier()
        evicted = make_room(
            p_standings, p_summaries, p_coming, p_protects, p_chosen, p_location, p_owner, p_frequency, p_moves,
            fetched, slots, newly_protected, most_protected, COMING, CHUNK, CHUNKS, COLUMNS, EXCLUSIVE, POLICY,
        )  # fmt: skip
    tl.debug_barrier()

    slot = tl.load(p_location + blob, mask=is_used & (kind != _IN_PLACE), other=0)
    address = p_slots.to(tl.int64) + slot.to(tl.int64) * blob_bytes
    tl.store(p_addresses + index, tl.where(kind == _IN_PLACE, 0, address), mask=is_used)
    tl.store(p_rows_of + i_expert, tl.zeros([EXPERTS], tl.int64), mask=m_expert)

    word = tl.load(p_words + pair_expert, mask=m_pair, other=0)
    earlier = (tl.full([PAIRS], 1, tl.int64) << (i_pair // K).to(tl.int64)) - 1
    position = (word & _START) + _bits_set(pair_bits & earlier).to(tl.int32)
    pair_kind = word >> _KIND
    tl.store(p_pairs + position, i_pair, mask=m_pair)
    tl.store(p_pair_kinds + i_pair, pair_kind, mask=m_pair)
    tl.store(p_host_pairs + position, i_pair, mask=m_pair & (pair_kind == _IN_PLACE))

    right = tl.sum((is_used & (guessed != 0)).to(tl.int32), axis=0)
    i_counter = tl.arange(0, _COUNTERS)
    amounts = tl.where(i_counter == _C_USES, count, 0)
    amounts = tl.where(i_counter == _C_HITS, hits, amounts)
    amounts = tl.where(i_counter == _C_FETCHED, fetched, amounts)
    amounts = tl.where(i_counter == _C_IN_PLACE, missing - fetched, amounts)
    amounts = tl.where(i_counter == _C_EVICTED, evicted, amounts)
    add_to_counters(p_counters, tl.where(i_counter == _C_RIGHT, right, amounts))


@triton.jit
def plan_ahead(
    p_standings, p_summaries, p_coming, p_protects, p_chosen, p_guessed,
    p_location, p_owner, p_frequency, p_counters, p_used_count, p_used, p_kinds, p_ids, p_weights,
    p_fetch_count, p_moves,
    layer, guessed_layer, rows, experts, slots, most, most_protected,
    K: tl.constexpr, SUREST: tl.constexpr, EXPERTS: tl.constexpr, PAIRS: tl.constexpr, USED: tl.constexpr,
    COMING: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
    COLUMNS: tl.constexpr, EXCLUSIVE: tl.constexpr, POLICY: tl.constexpr,
    GUESSING: tl.constexpr,
):  # fmt: skip
    """Gives slots to guessed experts, or to those that were computed in place: what the step used stays."""
    i_used = tl.arange(0, USED)
    m_used = i_used < tl.load(p_used_count)
    used = layer * experts + tl.load(p_used + i_used, mask=m_used, other=0)
    used_location = tl.load(p_location + used, mask=m_used, other=-1)
    used_protects = (tl.load(p_frequency + used, mask=m_used, other=0.0) > 1.0).to(tl.int32)
    stays = m_used & (used_location >= 0)
    pinned = tl.sum(stays.to(tl.int32), axis=0)
    pin_slots(p_standings, used_location, stays)
    if GUESSING:
        first = guessed_layer * experts
        blob = first + tl.arange(0, EXPERTS)
        m_blob = tl.arange(0, EXPERTS) < experts
        wanted = _note_guesses(p_guessed, p_ids, p_weights, blob, m_blob, first, rows, K, SUREST, PAIRS)
        location = tl.load(p_location + blob, mask=wanted, other=0)
        protects = (tl.load(p_frequency + blob, mask=wanted, other=0.0) > 1.0).to(tl.int32)
        is_there = wanted & (location >= 0)
        pinned += tl.sum(is_there.to(tl.int32), axis=0)
        pin_slots(p_standings, location, is_there)
        is_missing = wanted & (location < 0)
        guesses = tl.sum(wanted.to(tl.int32), axis=0)
    else:
        blob, protects = used, used_protects
        kind = tl.load(p_kinds + i_used, mask=m_used, other=0)
        is_missing = m_used & (kind == _IN_PLACE) & (used_location < 0)
        guesses = tl.full([], 0, tl.int32)

    place = tl.cumsum(is_missing.to(tl.int32), axis=0) - is_missing.to(tl.int32)
    missing = tl.sum(is_missing.to(tl.int32), axis=0)
    fetched = tl.minimum(tl.minimum(missing, slots - pinned), most)
    is_fetched = is_missing & (place < fetched)
    tl.store(p_fetch_count, fetched)
    evicted = tl.full([], 0, tl.int32)
    if fetched > 0:
        tl.store(p_coming + place, blob, mask=is_fetched)
        tl.store(p_protects + place, protects, mask=is_fetched)
        tl.debug_barrier()
        evicted = make_room(
            p_standings, p_summaries, p_coming, p_protects, p_chosen, p_location, p_owner, p_frequency, p_moves,
            fetched, slots, tl.full([], 0, tl.int32), most_protected, COMING, CHUNK, CHUNKS, COLUMNS, EXCLUSIVE, POLICY,
        )  # fmt: skip
    i_counter = tl.arange(0, _COUNTERS)
    amounts = tl.where(i_counter == _C_EVICTED, evicted, 0)
    amounts = tl.where(i_counter == _C_GUESSED, guesses, amounts)
    add_to_counters(p_counters, tl.where(i_counter == (_C_AHEAD if GUESSING else _C_ADMITTED), fetched, amounts))


@triton.jit
def pin_slots(p_standings, location, m_pinned):
    """Slots at `location` are not taken."""
    tl.store(p_standings + location, tl.full(location.shape, NEVER, tl.int64), mask=m_pinned)


@triton.jit
def make_room(
    p_standings, p_summaries, p_coming, p_protects, p_chosen, p_location, p_owner, p_frequency, p_moves,
    count, slots, newly_protected, most_protected,
    COMING: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
    COLUMNS: tl.constexpr, EXCLUSIVE: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """Gives each of the `count` blobs that come a slot, and lists what is to be copied; how many left for them."""
    choose_slots(
        p_standings, p_summaries, p_chosen, p_protects, count, slots, newly_protected, most_protected,
        CHUNK, CHUNKS, POLICY,
    )  # fmt: skip
    tl.debug_barrier()
    i_move = tl.arange(0, COMING)
    m_move = i_move < count
    blob = tl.load(p_coming + i_move, mask=m_move, other=0)
    slot = tl.load(p_chosen + i_move, mask=m_move, other=0)
    frame = -1 - tl.load(p_location + blob, mask=m_move, other=-1)
    left = tl.load(p_owner + slot, mask=m_move, other=-1)
    m_left = m_move & (left >= 0)
    tl.debug_barrier()
    tl.store(p_owner + slot, blob, mask=m_move)
    tl.store(p_location + blob, slot, mask=m_move)
    tl.store(p_location + left, -1 - (frame if EXCLUSIVE else left), mask=m_left)
    if POLICY == "slru":
        tl.store(p_frequency + left, tl.zeros([COMING], tl.float32), mask=m_left)
    p_move = p_moves + i_move * COLUMNS
    tl.store(p_move, frame, mask=m_move)
    tl.store(p_move + 1, slot, mask=m_move)
    if COLUMNS > 2:
        tl.store(p_move + 2, m_left.to(tl.int32), mask=m_move)
    return tl.sum(m_left.to(tl.int32), axis=0)


@triton.jit
def add_to_counters(p_counters, amounts):
    """Branches of a step may count at the same time."""
    i_counter = tl.arange(0, _COUNTERS)
    tl.atomic_add(p_counters + i_counter, amounts.to(tl.int64), mask=amounts != 0, sem="relaxed")


@triton.jit
def _note_guesses(
    p_guessed, p_ids, p_weights, blob, m_blob, first, rows,
    K: tl.constexpr, SUREST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Writes down the SUREST experts of each row by weight, ties to the lower id; which blobs they are."""
    i_pair = tl.arange(0, PAIRS)
    m_pair = i_pair < rows * K
    ids = tl.load(p_ids + i_pair, mask=m_pair, other=0)
    weights = tl.load(p_weights + i_pair, mask=m_pair, other=0.0)
    surer = tl.zeros([PAIRS], tl.int32)
    for k in tl.static_range(K):
        other = tl.load(p_weights + i_pair // K * K + k, mask=m_pair, other=0.0)
        surer += ((other > weights) | ((other == weights) & (k < i_pair % K))).to(tl.int32)
    tl.store(p_guessed + blob, tl.zeros(blob.shape, tl.int32), mask=m_blob)
    tl.debug_barrier()
    tl.store(p_guessed + first + ids, tl.full([PAIRS], 1, tl.int32), mask=m_pair & (surer < SUREST))
    tl.debug_barrier()
    return m_blob & (tl.load(p_guessed + blob, mask=m_blob, other=0) != 0)


@triton.jit
def _bits_set(words):
    """How many bits of each int64 are set, of which the highest is not."""
    pairs = words - ((words >> 1) & 0x5555555555555555)
    fours = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    eights = (fours + (fours >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (eights * 0x0101010101010101) >> 56
