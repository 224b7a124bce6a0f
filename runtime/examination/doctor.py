"""An examination of the machine: what it has, and which kernels its processor and its GPUs get."""

from __future__ import annotations

import platform
import subprocess
from typing import Any

import torch

from kernels.cpu import best_first, cpu_features
from kernels.cpu.build import BuildError, cache_directory, find_compiler
from kernels.registry import Announce, choose
from runtime.examination.gpus import examine_gpus, summary, triton_version
from runtime.hardware import processor_name, usable_cores, usable_memory

# Of those that a processor doesn't get: a word about each GPU says why.
GPU_KERNELS = "triton"


def examine(announce: Announce | None = None) -> dict[str, Any]:
    """Machine, kernels of the processor by op, refused ones with the reason, each told once; and the GPUs."""
    choice, gpus = choose("cpu", announce=announce), examine_gpus(announce)
    return {
        "machine": _machine(gpus),
        "kernels": choice.names,
        "refused": {one.name: one.reason for one in choice.refusals if one.name != GPU_KERNELS},
        "gpus": gpus,
    }


def _machine(gpus: list[dict[str, Any]]) -> dict[str, Any]:
    known = frozenset().union(*(variant.needs for variant in best_first))
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "usable_cores": usable_cores(),
        "usable_memory_GiB": round(usable_memory() / 2**30, 1),
        "instruction_sets": " ".join(sorted(known & cpu_features())) or "none of those with kernels",
        "gpus": summary(gpus),
        "torch": torch.__version__,
        "triton": triton_version(),
        "compiler": _compiler(),
        "kernel_cache": str(cache_directory()),
    }


def _compiler() -> str:
    """The compiler that makes the kernels, as it calls itself, or what is missing."""
    try:
        command = find_compiler()
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    except (BuildError, OSError) as error:
        return f"none: {error}"
    return (said.splitlines() or [command[0]])[0]
