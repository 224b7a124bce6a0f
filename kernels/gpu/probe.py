"""Whether a GPU computes the bits that are defined: every op on small inputs, beside the plain torch reference."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.registry import Announce

if TYPE_CHECKING:
    from kernels.gpu.probe_cases import Case

# Seconds after which it is told that this takes a while: kernels that are kept compiled take less.
PATIENCE = 1.0

# What an error says, in lower case, and what to do about it.
REMEDIES = {
    "c compiler": "install gcc, with which Triton builds what launches a kernel",
    "python.h": "install Python's headers (python3-dev), with which Triton builds what launches a kernel",
    "permission denied": "set TRITON_CACHE_DIR to a folder that can be written",
    "no space left": "free disk space, or set TRITON_CACHE_DIR to a folder with some",
    "out of memory": "free some of the GPU's memory",
    "libcuda": "check that nvidia-smi runs, and that libcuda.so.1 can be found",
    "out of resource": "please report it with the GPU's name",
}
OTHERWISE = "update the NVIDIA driver, torch and triton, or compute on the processor"

# Bits of the numbers that are compared, by size.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# What was found, once a process: by the device's index.
_findings: dict[int, str | None] = {}


def finding(device: torch.device, announce: Announce | None = None) -> str | None:
    """`disagreement` of a GPU, found out once in a process."""
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _findings:
        _findings[index] = disagreement(torch.device(device.type, index), announce)
    return _findings[index]


def disagreement(
    device: torch.device, announce: Announce | None = None, ops: Collection[str] | None = None
) -> str | None:
    """Why the Triton kernels can't be trusted on a device, in one line; or None, where they compute what is defined.

    Each op is run as a decode step and as a prompt run it. `ops` are those examined, all where None. `announce` is told
    when it takes more than a moment, as it does before kernels are compiled.
    """
    name, started = "their import", time.monotonic()
    try:
        with torch.no_grad(), _on(device):
            for case in _cases(ops):
                name = case.name
                if announce is not None and time.monotonic() - started > PATIENCE:
                    announce("compiling and examining the Triton kernels, once")
                    announce = None
                if what := _difference(case, device):
                    return f"this GPU computes other bits in {name}: {what}: please report it with the GPU's name"
    # Whatever Triton, the driver or torch raise, others compute instead.
    except Exception as error:
        return f"the Triton kernels fail here, in {name}: {_complaint(error)}"
    return None


def _cases(ops: Collection[str] | None) -> Iterator[Case]:
    # Triton is imported here, where it may fail.
    from kernels.gpu.probe_cases import CASES

    for op, cases in CASES.items():
        if ops is None or op in ops:
            yield from cases()


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Where Triton launches kernels."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _difference(case: Case, device: torch.device) -> str:
    """What differs from the reference, in a few words; empty where every bit is the same."""
    for got, wanted in zip(case.got(device), case.wanted(), strict=True):
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            return f"{case.form}: {got.dtype} {list(got.shape)} for {wanted.dtype} {list(wanted.shape)}"
        if count := int((_bits(got) != _bits(wanted)).sum()):
            return f"{case.form}: {count:,} of {wanted.numel():,} numbers"
    return ""


def _bits(numbers: Tensor) -> Tensor:
    return numbers.contiguous().view(_BITS[numbers.element_size()])


def _complaint(error: Exception) -> str:
    """The first line of what went wrong, and a remedy."""
    said = str(error).strip()
    line = next(iter(said.splitlines()), "").strip().rstrip(".:") or type(error).__name__
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in said.lower()), OTHERWISE)
    return f"{line}: {remedy}"
