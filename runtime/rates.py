"""How fast this machine reads: memory with all threads, and a disk in pieces of the size of an expert."""

from __future__ import annotations

import errno
import mmap
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from runtime.hardware import large_pages
from runtime.pack_layout import PAGE, aligned

# Far more than any cache near the cores holds, and less than any machine that runs a model has.
MEMORY_BYTES = 512 << 20
MEMORY_PASSES = 9

DISK_SECONDS = 2.0
DISK_BYTES = 3000 << 20


@dataclass(frozen=True)
class Rate:
    """Bytes a second, and where the number comes from: measured and in which way, told, or assumed after what."""

    bytes_per_s: float
    how: str

    @property
    def origin(self) -> str:
        """The first word or two of it: `measured here`, `told`, `assumed`."""
        return self.how.partition(":")[0]


def memory_rate(threads: int) -> Rate:
    """Sustained reads of anonymous memory, each thread its own run; the upper quartile, as others may be at work too.

    A sum of 64-bit integers reads as fast as memory gives: as fast as bench/bandwidth.cpp, within 5 %.
    """
    region = large_pages(MEMORY_BYTES)
    numbers = torch.frombuffer(region, dtype=torch.int64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Memory that was never written is one page of zeros, which comes from a cache.
        numbers.fill_(1)
        passes = [_seconds(numbers.sum) for _ in range(MEMORY_PASSES)]
    finally:
        torch.set_num_threads(before)
    rate = MEMORY_BYTES / statistics.quantiles(passes, n=4)[0]
    return Rate(rate, f"measured here: {MEMORY_BYTES >> 20} MiB read by {threads} threads")


def disk_rate(path: str | Path, blob_bytes: int, readers: int) -> Rate:
    """Reads of `blob_bytes` at random places of a file, `readers` in flight, past the page cache where it may.

    At most DISK_SECONDS and DISK_BYTES. Where the file system refuses O_DIRECT, pages are dropped from the cache
    first, and the result says so. Raises OSError, and ValueError for a file below one blob.
    """
    size = Path(path).stat().st_size
    blobs = [start * blob_bytes for start in range(size // blob_bytes)]
    if not blobs:
        raise ValueError(f"{path} has {size} bytes, and a read takes {blob_bytes}")
    chosen = random.sample(blobs, min(len(blobs), max(1, DISK_BYTES // blob_bytes)))
    file, way = _open_uncached(path)
    try:
        read, seconds = _timed_reads(file, chosen, blob_bytes, readers)
    finally:
        os.close(file)
    how = f"measured here: {read >> 20} MiB in random reads of {blob_bytes / 2**20:.2f} MiB, {readers} in flight, {way}"
    return Rate(read / seconds, how)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _open_uncached(path: str | Path) -> tuple[int, str]:
    """A descriptor whose reads come from the disk, and in which way."""
    if hasattr(os, "O_DIRECT"):
        file = -1
        try:
            file = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            with mmap.mmap(-1, PAGE) as probe:
                os.preadv(file, [probe], 0)
        except OSError as error:
            if file >= 0:
                os.close(file)
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        else:
            return file, "O_DIRECT"
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return file, "through the page cache, emptied before: O_DIRECT is refused here"


def _timed_reads(file: int, offsets: Sequence[int], blob_bytes: int, readers: int) -> tuple[int, float]:
    """Bytes read and seconds taken, by readers that share the offsets."""
    started = time.perf_counter()

    # One region for all, as the slots are: reads into pages that lie apart are cut into many requests.
    region, slot_bytes = large_pages(readers * aligned(blob_bytes, PAGE)), aligned(blob_bytes, PAGE)

    def reader(number: int) -> int:
        read, slot = 0, memoryview(region)[number * slot_bytes :][:blob_bytes]
        for offset in offsets[number::readers]:
            if read and time.perf_counter() - started > DISK_SECONDS:
                break
            read += os.preadv(file, [slot], offset)
        return read

    with ThreadPoolExecutor(readers) as pool:
        read = sum(pool.map(reader, range(readers)))
    return read, time.perf_counter() - started
