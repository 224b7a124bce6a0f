"""An examination of the machine: what it has, and which kernels its processor gets."""

from __future__ import annotations

import platform
from typing import Any

import torch

from kernels.cpu import best_first, cpu_features
from kernels.cpu.build import cache_directory
from kernels.registry import Announce, choose
from runtime.hardware import processor_name, usable_cores, usable_memory


def examine(announce: Announce | None = None) -> dict[str, Any]:
    """Machine, kernels by op, and refused kernels with the reason, each told once."""
    choice = choose("cpu", announce=announce)
    return {
        "machine": _machine(),
        "kernels": choice.names,
        "refused": {refusal.name: refusal.reason for refusal in choice.refusals},
    }


def _machine() -> dict[str, Any]:
    known = frozenset().union(*(variant.needs for variant in best_first))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "usable_cores": usable_cores(),
        "usable_memory_GiB": round(usable_memory() / 2**30, 1),
        "instruction_sets": " ".join(sorted(known & cpu_features())) or "none of those with kernels",
        "gpus": ", ".join(gpus) or "none",
        "torch": torch.__version__,
        "kernel_cache": str(cache_directory()),
    }
