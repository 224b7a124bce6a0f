"""An examination of the GPUs: what each is, and whether it computes the bits that are defined."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from kernels.gpu import runs_on_gpu
from kernels.registry import Announce, choose

# Where Linux says which NVIDIA driver is loaded.
DRIVER_VERSION = Path("/sys/module/nvidia/version")

AGREES = "every Triton kernel agrees with the reference, bit for bit"


def examine_gpus(announce: Announce | None = None) -> list[dict[str, Any]]:
    """Each GPU, its versions, whether it `agrees` and what its `examination` said, and kernels as of the processor.

    Sizes are in bytes. A GPU that doesn't answer has a `problem` in the place of its sizes.
    """
    return [_examined(index, announce) for index in range(torch.cuda.device_count())]


def summary(gpus: list[dict[str, Any]]) -> str:
    """Their names, or why there is none, in one line."""
    if gpus:
        return ", ".join(gpu["name"] for gpu in gpus)
    if torch.version.cuda is None:
        return f"none: torch {torch.__version__} is no build for CUDA"
    return f"none that torch finds, which is built for CUDA {torch.version.cuda}: check that nvidia-smi lists one"


def triton_version() -> str:
    """The version, or why there is none."""
    try:
        return str(importlib.import_module("triton").__version__)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"none: {error}"


def _examined(index: int, announce: Announce | None) -> dict[str, Any]:
    device = torch.device("cuda", index)
    found = {"device": str(device), **_described(index), **_versions()}
    # Once this has told what takes a while, it is known what comes of it.
    reason = runs_on_gpu(device, torch.float32, announce)
    choice = choose(device)
    return found | {
        "agrees": reason is None,
        "examination": reason or AGREES,
        "kernels": choice.names,
        "refused": {refusal.name: refusal.reason for refusal in choice.refusals},
    }


def _described(index: int) -> dict[str, Any]:
    try:
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        return {"name": "a GPU that does not answer", "problem": str(error).partition("\n")[0]}
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory": total,
        "memory_free": free,
    }


def _versions() -> dict[str, str]:
    try:
        driver = DRIVER_VERSION.read_text(encoding="ascii").strip()
    except OSError:
        driver = "unknown"
    return {"driver": driver, "cuda": str(torch.version.cuda), "triton": triton_version()}
