"""An examination of the machine: what it has, and which kernels its processor gets."""

from __future__ import annotations

import importlib
import platform
import subprocess
from typing import Any

import torch

from kernels.cpu import best_first, cpu_features
from kernels.cpu.build import BuildError, cache_directory, find_compiler
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
        "triton": _triton(),
        "compiler": _compiler(),
        "kernel_cache": str(cache_directory()),
    }


def _triton() -> str:
    """The version, or why there is none."""
    try:
        return str(importlib.import_module("triton").__version__)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"none: {error}"


def _compiler() -> str:
    """The compiler that makes the kernels, as it calls itself, or what is missing."""
    try:
        command = find_compiler()
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    except (BuildError, OSError) as error:
        return f"none: {error}"
    return (said.splitlines() or [command[0]])[0]
