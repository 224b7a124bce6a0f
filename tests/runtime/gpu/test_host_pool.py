"""All experts in host memory: every byte in its place once, and nothing left behind when something goes wrong."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from runtime.errors import CapacityError, ExpertReadError
from runtime.experts.store import ExpertStore
from runtime.gpu import host_pool
from runtime.gpu.host_pool import HostPool, initial_locations
from runtime.memory import process_memory
from tests.runtime.experts.blobs import BLOB, GEOMETRY, pattern, stored

BLOBS = GEOMETRY.blobs  # 18
ON_DEVICE = 1 << 40


class Driver:
    """Registers memory as a driver does, and keeps a record."""

    def __init__(self, refuse: int | None = None, apart: int = 0) -> None:
        self.held: dict[int, int] = {}
        self.registered: list[tuple[int, int]] = []
        self.before: Callable[[], None] = lambda: None
        self._refuse = refuse
        self._apart = apart

    def register(self, address: int, nbytes: int) -> None:
        self.before()
        if self._refuse == len(self.registered):
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY\nmore than a line")
        self.registered.append((address, nbytes))
        self.held[address] = nbytes

    def unregister(self, address: int) -> None:
        if address not in self.held:
            raise RuntimeError("CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED")
        del self.held[address]

    def device_pointer(self, address: int) -> int:
        return ON_DEVICE + address + self._apart * (len(self.registered) - 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experts.bin"


@pytest.fixture
def store(path: Path) -> Iterator[ExpertStore]:
    opened = stored(path)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four frames and a half: pieces are of four."""
    monkeypatch.setattr(host_pool, "PIECE", 4 * BLOB + BLOB // 2)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("experts-")]


def assert_holds(memory: Tensor, frame: int, expert: int) -> None:
    assert np.array_equal(memory[frame].numpy(), pattern(expert)), f"frame {frame} is not expert {expert}"


def test_every_expert_has_its_frame(store: ExpertStore) -> None:
    heard: list[tuple[int, int]] = []
    pool = HostPool.load(store, BLOBS, 5, readers=3, progress=lambda done, total: heard.append((done, total)))
    assert pool.location.tolist() == [-1 - blob for blob in range(BLOBS)]
    assert not pool.exclusive
    assert not pool.pinned
    assert (pool.frames, pool.blob_bytes, pool.nbytes) == (BLOBS, BLOB, BLOBS * BLOB)
    assert pool.base == pool.device_base == pool.memory.data_ptr()
    assert pool.base % 4096 == 0
    for blob in range(BLOBS):
        assert_holds(pool.memory, blob, blob)
        assert ctypes.string_at(pool.base + blob * BLOB, BLOB) == pattern(blob).tobytes()
    assert heard == sorted(set(heard))
    assert heard[-1] == (BLOBS * BLOB, BLOBS * BLOB)
    assert store.verified == BLOBS
    assert pool.owner(5).tolist() == [-1] * 5
    pool.close()


@pytest.mark.parametrize("totals", [None, np.array([5, 0, 9, 9] + [1] * 13 + [7])])
def test_with_fewer_frames_the_most_used_go_to_slots(store: ExpertStore, totals: np.ndarray | None) -> None:
    slots = torch.zeros(6, BLOB, dtype=torch.uint8)
    placed: dict[int, int] = {}
    inside = threading.Semaphore(1)

    def place(slot: int, blob: int, content: Tensor) -> None:
        assert inside.acquire(blocking=False), "one at a time"
        assert slot not in placed
        placed[slot] = blob
        slots[slot].copy_(content)
        inside.release()

    pool = HostPool.load(store, BLOBS - 6 + 2, 6, readers=4, place=place, totals=totals)
    assert pool.exclusive
    assert [placed[slot] for slot in range(6)] == ([0, 1, 2, 3, 4, 5] if totals is None else [2, 3, 17, 0, 4, 5])
    assert pool.owner(6).tolist() == [placed[slot] for slot in range(6)]
    assert pool.memory.shape == (BLOBS - 4, BLOB)
    for blob, location in enumerate(pool.location.tolist()):
        if location >= 0:
            assert_holds(slots, location, blob)
        else:
            assert_holds(pool.memory, -1 - location, blob)
    assert not pool.memory[-2:].any(), "the spare frames are the last"
    pool.close()


@given(
    experts=st.integers(1, 40),
    frames=st.integers(0, 40),
    slots=st.integers(0, 40),
    totals=st.none() | st.lists(st.integers(0, 3), min_size=40, max_size=40),
)
def test_each_expert_is_in_one_place(experts: int, frames: int, slots: int, totals: list[int] | None) -> None:
    used = None if totals is None else np.array(totals[:experts])
    if frames + slots < experts:
        with pytest.raises(ValueError, match="do not hold"):
            initial_locations(experts, frames, slots, used)
        return
    location = initial_locations(experts, frames, slots, used).tolist()
    assert len(location) == len(set(location)) == experts
    assert all(-frames <= place < slots for place in location)
    in_slots = [blob for blob in range(experts) if location[blob] >= 0]
    assert len(in_slots) == (0 if frames >= experts else min(slots, experts))
    if used is not None and in_slots:
        assert min(used[in_slots]) >= max((used[b] for b in range(experts) if location[b] < 0), default=0)


def test_with_a_slot_for_every_expert_there_is_no_frame(store: ExpertStore) -> None:
    driver, said = Driver(), list[str]()
    with torch.inference_mode():
        slots = torch.zeros(BLOBS, BLOB, dtype=torch.uint8)
    pool = HostPool.load(
        store, 0, BLOBS, place=lambda slot, _, blob: copy(slots, slot, blob), pinner=driver, announce=said.append
    )
    for blob in range(BLOBS):
        assert_holds(slots, blob, blob)
    assert pool.memory.shape == (0, BLOB)
    assert pool.owner(BLOBS).tolist() == pool.location.tolist() == list(range(BLOBS))
    assert (pool.pinned, driver.registered, said) == (False, [], [])
    pool.close()


def copy(slots: Tensor, slot: int, blob: Tensor) -> None:
    slots[slot].copy_(blob)


def test_what_holds_no_expert_is_refused(store: ExpertStore) -> None:
    with pytest.raises(ValueError, match="10 frames and 7 slots do not hold 18 experts"):
        HostPool.load(store, 10, 7, place=lambda *_: None)
    with pytest.raises(ValueError, match="nothing places"):
        HostPool.load(store, 10, 8)


def test_pieces_cover_the_pool_and_are_given_back(store: ExpertStore) -> None:
    driver = Driver()
    pool = HostPool.load(store, BLOBS, pinner=driver)
    assert pool.pinned
    assert pool.piece_frames == 4
    assert [address - pool.base for address, _ in driver.registered] == [4 * BLOB * i for i in range(5)]
    assert [nbytes // BLOB for _, nbytes in driver.registered] == [4, 4, 4, 4, 2]
    assert pool.device_base == ON_DEVICE + pool.base
    pool.close()
    assert driver.held == {}
    assert not pool.pinned
    assert pool.device_base == 0
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        _ = pool.memory


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (Driver(refuse=0), "(CUDA_ERROR_OUT_OF_MEMORY)"),
        (Driver(refuse=3), "(CUDA_ERROR_OUT_OF_MEMORY)"),
        (Driver(apart=4096), "(the driver sees parts of it at addresses"),
    ],
    ids=["the first", "the fourth", "apart"],
)
def test_where_pinning_is_refused_nothing_stays_pinned_and_it_is_said(
    store: ExpertStore, driver: Driver, reason: str
) -> None:
    said: list[str] = []
    pool = HostPool.load(store, BLOBS, pinner=driver, announce=said.append)
    assert driver.held == {}
    assert not pool.pinned
    assert pool.device_base == 0
    [line] = said
    assert reason in line
    for word in ("staging ring", "ulimit -l", "memlock"):
        assert word in line
    assert "\n" not in line
    for blob in range(BLOBS):
        assert_holds(pool.memory, blob, blob)
    pool.close()


def test_without_someone_to_tell_a_refusal_is_silent(store: ExpertStore) -> None:
    HostPool.load(store, BLOBS, pinner=Driver(refuse=1)).close()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("at", [0, 2, 4])
def test_ctrl_c_while_pinning_leaves_nothing(store: ExpertStore, at: int) -> None:
    driver = Driver()
    driver.before = lambda: interrupted() if len(driver.registered) == at else None
    with pytest.raises(KeyboardInterrupt):
        HostPool.load(store, BLOBS, pinner=driver)
    assert len(driver.registered) == at
    assert driver.held == {}


def test_ctrl_c_as_soon_as_a_piece_is_pinned_leaves_nothing(store: ExpertStore) -> None:
    class Slow(Driver):
        def register(self, address: int, nbytes: int) -> None:
            super().register(address, nbytes)
            interrupted()

    driver = Slow()
    with pytest.raises(KeyboardInterrupt):
        HostPool.load(store, BLOBS, pinner=driver)
    assert len(driver.registered) == 1
    assert driver.held == {}


def test_ctrl_c_while_reading_stops_the_readers(store: ExpertStore) -> None:
    driver, pools = Driver(), alive()
    with pytest.raises(KeyboardInterrupt):
        HostPool.load(store, BLOBS, readers=2, pinner=driver, progress=interrupted)
    assert driver.registered == []
    assert alive() == pools


def test_a_damaged_expert_is_named_and_stops_the_readers(path: Path, store: ExpertStore) -> None:
    with path.open("r+b") as file:
        file.seek(8 * BLOB + 7)
        file.write(b"\xff")
    driver, pools = Driver(), alive()
    with pytest.raises(ExpertReadError, match=r"layer 2, expert 2 .* not those that were packed"):
        HostPool.load(store, BLOBS, pinner=driver)
    assert driver.registered == []
    assert alive() == pools


def test_what_fails_to_be_placed_is_told(store: ExpertStore) -> None:
    def place(slot: int, blob: int, content: Tensor) -> None:
        raise RuntimeError("the card is gone")

    with pytest.raises(ExpertReadError, match="the card is gone"):
        HostPool.load(store, BLOBS - 3, 3, place=place)


def test_memory_that_is_refused_is_an_error_of_ours() -> None:
    with pytest.raises(CapacityError, match="are refused") as caught:
        HostPool(1 << 45, BLOB, initial_locations(BLOBS, BLOBS, 0))
    assert "ulimit -v" in caught.value.remedy


def alive() -> int:
    """Pools that have their memory, of all that anything still refers to."""
    gc.collect()
    return sum(type(one) is HostPool and one._region is not None for one in gc.get_objects())


# The system adds up what threads count on their own, some pages late; readers have stacks, and one blob each aside.
NOISE = 8 << 20


def test_memory_is_taken_once_and_given_back(tmp_path: Path) -> None:
    """Resident bytes as it is filled: of the pool itself, never of another copy; none of them when it is closed."""
    large = replace(GEOMETRY, hidden=1024, inner=512)
    assert large.nbytes > 50 << 20
    (tmp_path / "experts.bin").write_bytes(b"".join(bytes([blob]) * large.blob_bytes for blob in range(large.blobs)))
    store = Unchecked(tmp_path / "experts.bin", large, [""] * large.blobs)
    before, seen = process_memory(), [0]
    pool = HostPool.load(store, large.blobs, readers=2, progress=lambda *_: seen.append(process_memory() - before))
    assert large.nbytes - NOISE < seen[-1]
    assert max(seen) < large.nbytes + NOISE
    view = pool.memory[3]
    pool.close()
    assert process_memory() - before < NOISE, "a view that is held does not hold the memory"
    assert not view.any()
    seen[:] = [0]
    place = lambda *_: seen.append(process_memory() - before)  # noqa: E731
    HostPool.load(store, 4, large.blobs - 4, readers=2, place=place).close()
    assert max(seen) < 6 * large.blob_bytes + NOISE
    store.close()


class Unchecked(ExpertStore):
    """What is read is taken for right."""

    def _verify(self, blob: int, place: memoryview, start: int) -> None:
        pass
