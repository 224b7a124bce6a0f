"""Experts at rest: read past the page cache, checked when they first come, and never a wrong byte."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import ExpertReadError
from runtime.experts.store import ExpertStore
from tests.runtime.experts.blobs import BLOB, GEOMETRY, pattern, stored, write_blobs

OPEN = os.open


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experts.bin"


@pytest.fixture
def store(path: Path) -> Iterator[ExpertStore]:
    opened = stored(path)
    yield opened
    opened.close()


def place() -> memoryview:
    """Memory as a slot is: at a page's start."""
    return memoryview(mmap.mmap(-1, BLOB))


def read(store: ExpertStore, expert: int) -> bytes:
    slot = place()
    store.read(expert, slot)
    return bytes(slot)


def damage(path: Path, expert: int, at: int = 100) -> None:
    with path.open("r+b") as file:
        file.seek(expert * BLOB + at)
        file.write(b"\xff")


def without_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no O_DIRECT."""

    def refuse(name: str, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return OPEN(name, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)


def in_page_cache(path: Path) -> int:
    """Pages of a file that the system holds, by the way of mincore."""
    with path.open("rb") as file:
        region = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE)
    pages = len(region) // mmap.PAGESIZE
    held = (ctypes.c_ubyte * pages)()
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(region)), held) == 0
    return sum(byte & 1 for byte in held)


def give_back(path: Path) -> None:
    """The system holds no page of this file any more."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert in_page_cache(path) == 0


def need_page_cache(path: Path) -> None:
    """Skips where the file system does not tell which pages it holds: there is nothing to see."""
    path.write_bytes(bytes(BLOB))
    if in_page_cache(path) == 0:
        pytest.skip("this file system does not tell which of its pages are held")


def test_every_expert_is_read_as_it_was_written(store: ExpertStore) -> None:
    for expert in range(GEOMETRY.blobs):
        assert read(store, expert) == pattern(expert).tobytes()
    assert store.verified == GEOMETRY.blobs


def test_where_there_is_no_direct_reading_it_is_said_once_and_bytes_are_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_direct(monkeypatch)
    said: list[str] = []
    store = ExpertStore(path, GEOMETRY, write_blobs(path), said.append)
    assert not store.is_direct
    for expert in (0, 7, GEOMETRY.blobs - 1):
        assert read(store, expert) == pattern(expert).tobytes()
    assert len(said) == 1
    assert str(path) in said[0]
    assert "O_DIRECT" in said[0]
    store.close()


def test_without_direct_reading_pages_are_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the edges: the system holds several pages as one, which may reach into the next expert."""
    need_page_cache(path)
    without_direct(monkeypatch)
    large = replace(GEOMETRY, hidden=256, inner=128)
    blob = bytes(large.blob_bytes)
    path.write_bytes(blob * large.blobs)
    give_back(path)
    store = ExpertStore(path, large, [hashlib.sha256(blob).hexdigest()] * large.blobs)
    for expert in range(0, large.blobs, 2):
        store.read(expert, memoryview(bytearray(len(blob))))
    assert in_page_cache(path) < large.nbytes // mmap.PAGESIZE // 4
    store.close()


def test_direct_reading_leaves_nothing_in_the_page_cache(path: Path) -> None:
    need_page_cache(path)
    store = stored(path)
    if not store.is_direct:
        pytest.skip("this file system has no O_DIRECT")
    give_back(path)
    assert read(store, 5) == pattern(5).tobytes()
    assert in_page_cache(path) == 0
    store.close()


def problem(store: ExpertStore, expert: int) -> ExpertReadError:
    with pytest.raises(ExpertReadError) as caught:
        read(store, expert)
    return caught.value


def is_located(error: ExpertReadError, path: Path, offset: int) -> bool:
    """Whether it names the second layer's expert 1, which is number 7, the file and the place, and has a remedy."""
    where = f"layer 2, expert 1 in {path} at byte {offset:,}:"
    return error.message.startswith(where) and "antangel pack --check" in error.remedy


def test_a_changed_byte_is_found_and_named(store: ExpertStore, path: Path) -> None:
    damage(path, 7)
    error = problem(store, 7)
    assert is_located(error, path, 7 * BLOB)
    assert "not those that were packed" in error.message
    assert read(store, 6) == pattern(6).tobytes()
    assert store.verified == 1
    assert is_located(problem(store, 7), path, 7 * BLOB), "it is not taken for good the second time"


def test_another_expert_in_its_place_is_found(path: Path) -> None:
    """Good bytes at the wrong place are as wrong as bad ones."""
    checksums = write_blobs(path)
    content = bytearray(path.read_bytes())
    content[7 * BLOB : 8 * BLOB] = pattern(8).tobytes()
    path.write_bytes(bytes(content))
    store = ExpertStore(path, GEOMETRY, checksums)
    assert is_located(problem(store, 7), path, 7 * BLOB)
    store.close()


def test_a_checksum_is_compared_when_an_expert_first_comes(store: ExpertStore, path: Path) -> None:
    """What changes on the disk of a running process afterwards is read as it is: hashing each time costs too much."""
    assert read(store, 7) == pattern(7).tobytes()
    damage(path, 7, at=0)
    assert read(store, 7) == b"\xff" + pattern(7).tobytes()[1:]
    assert store.verified == 1


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("kept", [0, 1000, 2048])
def test_a_short_file_is_an_error_not_a_wrong_answer(
    path: Path, kept: int, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not direct:
        without_direct(monkeypatch)
    checksums = write_blobs(path)
    os.truncate(path, 7 * BLOB + kept)
    store = ExpertStore(path, GEOMETRY, checksums)
    assert read(store, 6) == pattern(6).tobytes()
    error = problem(store, 7)
    assert is_located(error, path, 7 * BLOB + kept)
    assert f"the file ends, and {BLOB - kept:,} bytes are missing" in error.message
    store.close()


def test_a_file_truncated_while_it_is_open(store: ExpertStore, path: Path) -> None:
    assert read(store, 7) == pattern(7).tobytes()
    os.truncate(path, 7 * BLOB)
    assert is_located(problem(store, 7), path, 7 * BLOB)
    assert read(store, 6) == pattern(6).tobytes()


def test_a_read_that_comes_in_parts_is_put_together(store: ExpertStore, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = OPEN(store.path, os.O_RDONLY)

    def halves(file: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(plain, [buffers[0][: max(1, len(buffers[0]) // 2)]], offset)

    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", halves)
    assert read(store, 7) == pattern(7).tobytes()
    os.close(plain)


def test_what_the_system_says_is_passed_on(store: ExpertStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    error = problem(store, 7)
    assert is_located(error, path, 7 * BLOB)
    assert error.message.endswith("Input/output error")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(ExpertReadError, match="cannot be opened: No such file"):
        ExpertStore(tmp_path / "none", GEOMETRY, [], said.append)
    assert said == [], "a file that is missing says nothing about its file system"


def test_many_threads_read_at_once(store: ExpertStore) -> None:
    got: dict[int, bytes] = {}

    def read_some(experts: range) -> None:
        for expert in experts:
            got[expert] = read(store, expert)

    threads = [threading.Thread(target=read_some, args=(range(i, GEOMETRY.blobs, 3),)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {expert: pattern(expert).tobytes() for expert in range(GEOMETRY.blobs)}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_closing_gives_the_file_back_once(path: Path) -> None:
    before = open_files()
    store = stored(path)
    assert open_files() == before + 1
    store.close()
    store.close()
    assert open_files() == before
    with pytest.raises(ExpertReadError, match="Bad file descriptor"):
        read(store, 0)
