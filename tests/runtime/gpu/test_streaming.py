"""Experts stream through two buffers: every wave finds the bytes of what it needs, and nothing more is copied."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.formats import Format
from kernels.gpu.tables import Placement
from kernels.ops import Wave
from runtime.gpu.streaming import PASSING_ROWS, ExpertStream
from runtime.pack_layout import ExpertGeometry

W4 = Format.parse("w4a8:64")
GEOMETRY = ExpertGeometry((1, 2, 3), 8, W4, W4, hidden=64, inner=64)  # the last of them drafts
BLOBS, PASS_LAYERS = GEOMETRY.blobs, 2
IN_SLOTS = (3, 9, 10)


class Stream:
    """A stream whose experts are told apart by their bytes."""

    def __init__(self, width: int, piece: int = 100) -> None:
        frames = torch.arange(BLOBS, dtype=torch.uint8)[:, None].repeat(1, GEOMETRY.blob_bytes)
        slots = torch.zeros(len(IN_SLOTS), GEOMETRY.blob_bytes, dtype=torch.uint8)
        location = -1 - torch.arange(BLOBS, dtype=torch.int32)
        owner = torch.tensor(IN_SLOTS, dtype=torch.int32)
        for slot, blob in enumerate(IN_SLOTS):
            slots[slot], location[blob] = frames[blob], slot
            frames[blob] = 255  # not to be read from here
        nothing = torch.zeros(0)
        self.placement = Placement(
            location, owner, nothing, nothing, nothing, nothing, slots, torch.tensor([frames.data_ptr()]), False
        )
        self.addresses = torch.zeros(len(GEOMETRY.layers), GEOMETRY.count, dtype=torch.int64)
        self.buffers = torch.zeros(2, width, GEOMETRY.blob_bytes, dtype=torch.uint8)
        self.stream = ExpertStream(GEOMETRY, self.placement, self.addresses, frames, piece, self.buffers, PASS_LAYERS)
        self.waves: list[Wave] = []

    def layer(self, layer: int, needed: list[int]) -> Tensor:
        """Computes a layer; in each wave every needed expert has to be there."""
        visit = self.stream.visit(layer, torch.tensor([needed]))

        def compute(wave: Wave) -> Tensor:
            self.waves.append(wave)
            for expert in needed:
                if wave.first <= expert < wave.stop:
                    blob = self.stream.blob(int(self.addresses[layer, expert]))
                    assert blob is not None
                    assert blob.unique().tolist() == [layer * GEOMETRY.count + expert]
            return torch.tensor(float(len(self.waves)))

        return self.stream.compute(visit, compute)


@pytest.mark.parametrize("piece", [1, 3, 100])
@pytest.mark.parametrize("width", [1, 3, 8])
def test_every_wave_finds_what_it_needs(width: int, piece: int) -> None:
    stream = Stream(width, piece)
    for _ in range(2):
        stream.stream.begin(PASSING_ROWS)
        for layer in range(PASS_LAYERS):
            stream.waves.clear()
            stream.layer(layer, list(range(8)))
            parts = -(-8 // width)
            assert [(wave.first, wave.stop) for wave in stream.waves] == [
                (first, min(8, first + width)) for first in range(0, 8, width)
            ]
            assert [wave.last for wave in stream.waves] == [False] * (parts - 1) + [True]
            assert [wave.total is None for wave in stream.waves] == [True] + [False] * (parts - 1)
    counts = stream.stream.counts
    assert counts["streamed"] == 2 * (16 - len(IN_SLOTS))
    assert (counts["pass_uses"], counts["pass_hits"]) == (32, 6)


def test_a_total_goes_from_wave_to_wave() -> None:
    stream = Stream(4)
    stream.stream.begin(PASSING_ROWS)
    assert stream.layer(0, list(range(8))) == 2.0
    assert stream.waves[1].total == 1.0


def test_of_the_layer_at_hand_only_what_is_needed_is_copied() -> None:
    stream = Stream(4)
    stream.stream.begin(2)
    stream.layer(0, [0, 3, 7])
    assert stream.stream.counts["streamed"] == 2, "expert 3 has a slot"
    stream.layer(2, [5])
    assert stream.stream.counts["streamed"] == 3
    assert [(wave.first, wave.stop, wave.last) for wave in stream.waves] == [
        (0, 4, False),
        (4, 8, True),
        (0, 8, True),
    ]


def test_the_next_layer_is_asked_for_before_its_routing_is_known() -> None:
    stream = Stream(4)
    stream.stream.begin(PASSING_ROWS)
    stream.layer(0, [0])
    assert stream.stream.counts["streamed"] == 1 + 2, "experts 1 and 2 of the next layer have slots"
    stream.layer(1, [4])
    assert stream.stream.counts["streamed"] == 4, "no layer follows in a pass"


def test_what_has_been_computed_has_no_address() -> None:
    stream = Stream(8)
    stream.stream.begin(2)
    stream.layer(0, list(range(8)))
    in_slots = np.flatnonzero(stream.addresses[0].numpy())
    assert in_slots.tolist() == [3]
    assert stream.stream.blob(0) is None


def test_a_pass_that_was_broken_off_leaves_nothing_to_the_next() -> None:
    stream = Stream(4)
    stream.stream.begin(PASSING_ROWS)
    visit = stream.stream.visit(0, torch.arange(8)[None])

    def fail(wave: Wave) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream.stream.compute(visit, fail)
    stream.stream.begin(PASSING_ROWS)
    for layer in range(PASS_LAYERS):
        stream.layer(layer, list(range(8)))
