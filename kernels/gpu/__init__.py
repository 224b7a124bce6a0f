"""Triton kernels. Triton is imported where a GPU is examined or an op is used, so that a CPU runs without it."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from kernels.gpu import probe
from kernels.registry import Announce, register

# The module of each op here.
OPS = {
    "rms_norm": "norm",
    "linear": "linear",
    "swiglu": "feed_forward",
    "route": "route",
    "experts": "feed_forward",
    "query_key_value": "query_key_value",
    "paged_attention": "prefill_attention",
    "head": "head",
}

# Integer tensor cores with groups of 32, and copies that run beside arithmetic.
OLDEST = (8, 0)


@dataclass
class _Lazy:
    """An op that imports its module when it is called first."""

    module: str
    name: str
    _found: Callable[..., Any] | None = field(default=None, init=False, repr=False)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._found is None:
            self._found = getattr(importlib.import_module(f"kernels.gpu.{self.module}"), self.name)
        return self._found(*arguments, **named)


def runs_on_gpu(device: torch.device, dtype: torch.dtype, announce: Announce | None) -> str | None:
    """Why a device can't have the Triton kernels, or None: what can be asked for, then whether it computes their bits.

    A GPU is examined once in a process. `announce` is told when that takes more than a moment.
    """
    reason = _unsupported(device, dtype)
    if reason is not None:
        return reason
    return probe.finding(device, announce)


def _unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return "the device is no GPU"
    if dtype is not torch.float32:
        return f"they compute in float32, not in {str(dtype).removeprefix('torch.')}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET is 1, with which Triton computes on the processor: unset it"
    if torch.version.hip is not None:
        return "the GPU is AMD's, on which these kernels were never tried"
    if not torch.cuda.is_available():
        return "torch finds no GPU: check that nvidia-smi lists one, and that torch is a build for CUDA"
    try:
        capability = torch.cuda.get_device_capability(device)
    except (RuntimeError, AssertionError) as error:
        return f"the GPU does not answer: {str(error).partition(chr(10))[0]}: check that nvidia-smi runs"
    if capability < OLDEST:
        return f"the GPU is older than compute capability {OLDEST[0]}.{OLDEST[1]}"
    return None


def runs_interpreted(device: torch.device, dtype: torch.dtype, announce: Announce | None) -> str | None:
    """Why the Triton interpreter can't have the kernels, or None: it is slow, and there for tests."""
    if device.type != "cpu" or dtype is not torch.float32:
        return "the interpreter computes on the CPU in float32"
    is_on = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None
    return None if is_on else "TRITON_INTERPRET is not 1, or triton is not installed"


for _op, _module in OPS.items():
    register(_op, "triton", _Lazy(_module, _op), rank=30, supports=runs_on_gpu)
    register(_op, "triton interpreted", _Lazy(_module, _op), rank=-1, supports=runs_interpreted)
