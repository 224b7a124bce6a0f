"""Copies between host frames and slots move every byte that they should, and no other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.gpu import page_in
from kernels.gpu.page_in import launch_page_in
from kernels.gpu.tables import Counter, Fetches, Placement
from tests.kernels.gpu.lane import DEVICE

SLOTS, FRAMES = 5, 7


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    """So that a small blob is several blocks."""
    monkeypatch.setattr(page_in, "BLOCK", 64)


def host(*shape: int, seed: int) -> Tensor:
    """Random bytes in host memory that the device reads."""
    bytes_ = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return bytes_ if DEVICE.type == "cpu" else bytes_.pin_memory()


class Memory:
    """Frames and slots of random bytes, and a copy of them as they were."""

    def __init__(self, blob: int, exclusive: bool = False) -> None:
        self.frames = host(FRAMES + 2, blob, seed=1)  # the first and the last are no frames
        self.slots = host(SLOTS + 2, blob, seed=2).to(DEVICE)  # and no slots
        self.frames_before, self.slots_before = self.frames.clone(), self.slots.clone()
        none = torch.zeros(1, dtype=torch.int32, device=DEVICE)
        self.placement = Placement(
            location=none,
            owner=none,
            last_used=none,
            frequency=none.float(),
            now=none,
            counters=torch.zeros(len(Counter), dtype=torch.int64, device=DEVICE),
            slots=self.slots[1:-1],
            frames=torch.tensor([self.frames[1].data_ptr()], dtype=torch.int64, device=DEVICE),
            exclusive=exclusive,
        )

    def check(self, moved: list[tuple[int, Tensor]], left: list[tuple[int, Tensor]] = ()) -> None:
        """All is as it was but for slots and frames with their new bytes."""
        for slot, content in moved:
            self.slots_before[1 + slot] = content.to(DEVICE)
        for frame, content in left:
            self.frames_before[1 + frame] = content.cpu()
        assert torch.equal(self.slots, self.slots_before)
        assert torch.equal(self.frames, self.frames_before)


def fetches(count: int, *moves: tuple[int, ...]) -> Fetches:
    return Fetches(
        torch.tensor([count], dtype=torch.int32, device=DEVICE), torch.tensor(moves, dtype=torch.int32, device=DEVICE)
    )


# Less than a block, a whole one, and ends of one 16-byte part.
BLOBS = (48, 512, 1040, 3088)


@pytest.mark.parametrize("parts", [1, 3, 16])
@pytest.mark.parametrize("blob", BLOBS)
def test_blobs_come_from_their_frames(blob: int, parts: int) -> None:
    memory = Memory(blob)
    frames = memory.frames_before.clone()[1:]
    launch_page_in(fetches(2, (6, 0), (0, 4), (3, 3)), memory.placement, parts=parts)
    memory.check([(0, frames[6]), (4, frames[0])])


def test_nothing_is_copied_where_nothing_is_fetched() -> None:
    memory = Memory(512)
    launch_page_in(fetches(0, (6, 0), (0, 4)), memory.placement)
    memory.check([])


def test_all_moves_are_made() -> None:
    memory = Memory(48)
    frames = memory.frames_before.clone()[1:]
    launch_page_in(fetches(3, (6, 0, 1), (0, 4, 0), (2, 1, 1)), memory.placement)
    memory.check([(0, frames[6]), (4, frames[0]), (1, frames[2])])


@pytest.mark.parametrize("blob", BLOBS)
def test_staged_blobs_come_from_their_rows(blob: int) -> None:
    memory, staged = Memory(blob), host(3, blob, seed=3)
    launch_page_in(fetches(2, (6, 0), (0, 4), (3, 3)), memory.placement, staged, parts=2)
    memory.check([(0, staged[0]), (4, staged[1])])


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("blob", BLOBS)
def test_what_leaves_goes_to_the_frame_of_what_comes(blob: int, parts: int) -> None:
    memory = Memory(blob, exclusive=True)
    frames, slots = memory.frames_before.clone()[1:], memory.slots_before.clone()[1:]
    launch_page_in(fetches(3, (6, 0, 1), (0, 4, 0), (2, 1, 1), (3, 3, 1)), memory.placement, parts=parts)
    memory.check([(0, frames[6]), (4, frames[0]), (1, frames[2])], [(6, slots[0]), (2, slots[1])])


def test_blobs_that_are_not_copied_by_16_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        launch_page_in(fetches(1, (0, 0)), Memory(40).placement)


def test_an_exclusive_placement_is_not_staged() -> None:
    with pytest.raises(ValueError, match="staged"):
        launch_page_in(fetches(1, (0, 0, 1)), Memory(64, exclusive=True).placement, host(1, 64, seed=3))
