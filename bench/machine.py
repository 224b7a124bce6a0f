"""What the figures depend on: the commit, the machine, and how busy it was."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.place import ROOT
from kernels.cpu import cpu_features
from runtime.hardware import processor_name, usable_cores

# Instructions that decide how fast integers are multiplied and summed.
FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
)


def surroundings() -> dict[str, Any]:
    return {
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "changed_files": len(_output("git", "status", "--porcelain", "--untracked-files=no").splitlines()),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor_name(),
            "architecture": platform.machine(),
            "cores": usable_cores(),
            "flags": [flag for flag in FLAGS if flag in cpu_features()],
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": platform.platform(),
        },
        "compiler": _output(os.environ.get("CXX", "g++"), "--version").partition("\n")[0],
    }


def busy_cores(window_s: float = 2.0) -> float:
    """How many cores were at work during a pause of ours."""
    before, started = _busy_seconds(), time.perf_counter()
    time.sleep(window_s)
    return round((_busy_seconds() - before) / (time.perf_counter() - started), 2)


def _busy_seconds() -> float:
    user, nice, system = Path("/proc/stat").read_text(encoding="utf-8").split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
