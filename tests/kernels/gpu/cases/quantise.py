"""What quantising launches."""

from __future__ import annotations

import torch

from kernels.gpu.launch import fresh_fault
from kernels.gpu.quantise import Quantised, launch_quantise
from tests.kernels.gpu.compiling import Case


def _quantise(group: int) -> None:
    cpu = torch.device("cpu")
    launch_quantise(torch.empty(2, 4096), Quantised.empty(2, 4096, group, cpu), fresh_fault(cpu))


CASES = [Case(f"quantise:{group}", lambda group=group: _quantise(group)) for group in (32, 64, 128)]
