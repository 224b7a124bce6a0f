"""Measured rates are rates, and say how they were measured. Nothing here is timed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime import rates
from runtime.rates import disk_rate, memory_rate

BLOB = 64 << 10


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experts.bin"
    path.write_bytes(os.urandom(40 * BLOB + 100))
    return path


def test_memory_is_read_by_all_threads_and_their_number_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MEMORY_BYTES", 64 << 20)
    before = torch.get_num_threads()
    rate = memory_rate(1)
    assert torch.get_num_threads() == before
    assert rate.bytes_per_s > 100e6
    assert rate.how == "measured here: 64 MiB read by 1 threads"
    assert rate.origin == "measured here"


def test_the_disk_is_read_once_at_every_blob(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    preadv = os.preadv

    def counted(descriptor: int, buffers: list[Any], offset: int) -> int:
        read.append(offset)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    rate = disk_rate(file, BLOB, 3)
    blobs = read[1:] if "O_DIRECT" in rate.how and "refused" not in rate.how else read
    assert sorted(blobs) == [i * BLOB for i in range(40)]
    assert rate.bytes_per_s > 0
    assert "measured here: 2 MiB in random reads of 0.06 MiB, 3 in flight" in rate.how


def test_a_refused_o_direct_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refusing(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "refused")
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    assert "O_DIRECT is refused here" in disk_rate(file, BLOB, 2).how


def test_only_so_much_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "DISK_BYTES", 8 * BLOB)
    assert "0 MiB in random reads" in disk_rate(file, BLOB, 2).how


def test_a_file_below_one_blob_and_one_that_is_not_there_are_errors(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a read takes 67108864"):
        disk_rate(file, 64 << 20, 1)
    with pytest.raises(FileNotFoundError):
        disk_rate(tmp_path / "nothing", BLOB, 1)
