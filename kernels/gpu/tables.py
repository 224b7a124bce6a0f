"""What a layer step knows on the device: where every expert is, which rows go through which, and what is fetched.

Experts of a model are blobs of one size, numbered layer by layer. A blob is in a slot in VRAM or in a frame of host
memory, which the device reads too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from torch import Tensor

from kernels.formats import Format


class Kind(IntEnum):
    """How an expert is computed in a step."""

    RESIDENT = 0
    FETCHED = 1
    IN_PLACE = 2


class Counter(IntEnum):
    """What the device counts, in experts of layer steps."""

    USES = 0
    HITS = 1
    FETCHED = 2
    IN_PLACE = 3
    EVICTED = 4
    GUESSED = 5  # that a layer to come would need
    GUESSED_RIGHT = 6
    AHEAD = 7  # fetched before they were needed
    ADMITTED = 8  # of those that were computed in place


@dataclass(frozen=True)
class ExpertShape:
    """An expert's matrices within its blob: gate above up [2F, M] at the start, down [M, F] at `down_offset`."""

    gate_up: Format
    down: Format
    hidden: int
    inner: int
    down_offset: int


@dataclass(frozen=True)
class Groups:
    """The rows of each expert that a step uses, experts ascending.

    Pair t * K + k is token t with the k-th of its K experts. Of D entries the first `count` are used; an expert's pairs
    are `pairs[starts[i] : starts[i + 1]]`, ascending. `addresses` are those of blobs that the device computes with, 0
    for what is computed in place. `most` is the most experts that there may be, and `most_rows` the most pairs of one.
    """

    count: Tensor  # int32 [1]
    experts: Tensor  # int32 [D], ids within the layer
    starts: Tensor  # int32 [D + 1]
    pairs: Tensor  # int32 [T K]
    addresses: Tensor  # int64 [D]
    kinds: Tensor  # int32 [D], of Kind
    pair_kinds: Tensor  # int32 [T K], of Kind
    most: int
    most_rows: int
    per_token: int  # K


@dataclass(frozen=True)
class Fetches:
    """Blobs that are to be copied from a host frame into a slot: the first `count` rows of (frame, slot).

    An exclusive placement needs a third column: 1 where what was in the slot goes to the frame, 0 where it was free.
    """

    count: Tensor  # int32 [1]
    moves: Tensor  # int32 [most, 2 or 3]

    @property
    def most(self) -> int:
        return self.moves.shape[0]


@dataclass(frozen=True)
class Placement:
    """Where the B experts of a model are. `location` is a slot as it is, and host frame f as -1 - f.

    Not exclusive, every blob b has frame b for good. Exclusive, a blob is in a slot or in a frame, and one that is
    fetched leaves its frame to what made way for it.
    """

    location: Tensor  # int32 [B]
    owner: Tensor  # int32 [N], the blob in each slot, -1 for none
    last_used: Tensor  # int32 [B], the layer step of the last use, counted from 1; 0 for never
    frequency: Tensor  # fp32 [B], what a policy counts
    now: Tensor  # int32 [1], the layer step
    counters: Tensor  # int64 [len(Counter)]
    slots: Tensor = field(repr=False)  # uint8 [N, blob bytes]
    frames: Tensor = field(repr=False)  # int64 [1], the address of frame 0 as the device sees it
    exclusive: bool

    @property
    def blob_bytes(self) -> int:
        return self.slots.shape[1]


@dataclass(frozen=True)
class InPlace:
    """What the host computes in a layer step, in pinned memory that both sides see.

    `words` int32 are: how many experts, how many rows T, then for each expert its frame, and where its pairs start and
    stop in `pairs`. The host reads the quantised rows and writes the outputs of its pairs, no others.
    """

    words: Tensor  # int32 [2 + 3 D]
    pairs: Tensor  # int32 [T K]
    q: Tensor  # int8 [T, M]
    scales: Tensor  # fp32 [T, M / G]
    outputs: Tensor  # fp32 [T K, M], by pair
    fault: Tensor  # int32 [1], set where an activation is not finite
