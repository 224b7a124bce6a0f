"""Where the Triton kernels run in tests: in the interpreter on tensors in host memory, or on a GPU where there is one."""

from __future__ import annotations

import torch

from kernels.gpu.launch import INTERPRETING

DEVICE = torch.device("cpu" if INTERPRETING else "cuda")
