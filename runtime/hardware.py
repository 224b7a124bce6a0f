"""What this machine has: memory that may be used, cores, and the number type to compute in."""

from __future__ import annotations

import errno
import mmap
import os
import platform
from pathlib import Path

import torch

from kernels import cpu
from kernels.gpu import runs_on_gpu
from kernels.registry import Announce
from runtime.errors import CapacityError, gib

# Where a container's memory limit and use are kept: version 2 of cgroups, then version 1.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def usable_memory() -> int:
    """Bytes of RAM that can be had without swapping, within the container's limit."""
    available = _available_memory()
    limits = [limit for paths in CGROUPS if (limit := _cgroup_room(*map(Path, paths))) is not None]
    return min([available, *limits])


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name for people, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def large_pages(count: int) -> mmap.mmap:
    """Anonymous memory at a page's start, in large pages where there are any; taken only as it is touched.

    A disk reads into them about twice as fast: a request has a limited number of pages.
    """
    region = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            region.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    return region


def large_pages_for(use: str, count: int, remedy: str) -> mmap.mmap:
    """The same for a named use. Raises CapacityError, with the remedy, where that much memory is refused."""
    try:
        return large_pages(count)
    except (OSError, OverflowError, MemoryError) as error:
        raise CapacityError(f"{gib(count)} of memory for {use} are refused: {error}", remedy) from error


def set_threads(threads: int | None) -> None:
    """Threads of all kernels: as told, else OMP_NUM_THREADS, else one for each usable core."""
    count = threads or _told_threads() or usable_cores()
    torch.set_num_threads(count)
    cpu.set_threads(count)


def _told_threads() -> int | None:
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(told) if told.isdecimal() and int(told) > 0 else None


def best_device(announce: Announce | None = None) -> str:
    """The first GPU that our kernels run on, else the CPU. `announce` is told when finding out takes seconds."""
    if torch.cuda.is_available() and runs_on_gpu(torch.device("cuda:0"), torch.float32, announce) is None:
        return "cuda:0"
    return "cpu"


def number_type(name: str, device: torch.device | str) -> torch.dtype:
    """The residual stream's dtype for EngineConfig.dtype.

    auto is float32 on every device: kernels compute in it, and a GPU then gives the bits that a CPU gives.
    """
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _available_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if platform.system() == "Windows":
        raise OSError("the free memory of this system is unknown: /proc/meminfo is missing")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_room(limit_path: Path, use_path: Path) -> int | None:
    try:
        limit, used = limit_path.read_text(encoding="utf-8").strip(), use_path.read_text(encoding="utf-8")
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))
