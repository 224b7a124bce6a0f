"""What this machine has: memory that may be used, cores, and fast number types."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

import torch

# Where a container's memory limit and use are kept: version 2 of cgroups, then version 1.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

# CPU features that multiply bfloat16 natively; without one torch emulates it, five times slower than float32.
FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


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


@lru_cache
def cpu_features() -> frozenset[str]:
    """Names of the instruction sets in /proc/cpuinfo; empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(features.partition(":")[2].split())


def fast_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 is at least as fast as float32 there."""
    if torch.device(device).type == "cuda":
        return True
    return bool(cpu_features() & FAST_BFLOAT16)


def number_type(name: str, device: torch.device | str) -> torch.dtype:
    """The dtype for EngineConfig.dtype; auto is bfloat16 where that is fast, else float32."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    automatic = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    return named.get(name, automatic)


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
