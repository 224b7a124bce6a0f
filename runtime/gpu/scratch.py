"""The memory that a step works in, taken once by name: a graph replays with the same addresses."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.gpu.quantise import Quantised


class Scratch:
    """Tensors of up to `most` rows by name. Contents last until the name is written again; the first use allocates."""

    def __init__(self, most: int, device: torch.device) -> None:
        self.device = device
        self.most = most
        self._tensors: dict[str, Tensor] = {}

    def rows(self, name: str, rows: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The first rows of a tensor [most, *shape]."""
        if name not in self._tensors:
            self._tensors[name] = torch.zeros(self.most, *shape, dtype=dtype, device=self.device)
        return self._tensors[name][:rows]

    def pinned(self, name: str, rows: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The same in host memory that the device reads and writes too."""
        if name not in self._tensors:
            is_pinned = self.device.type == "cuda"
            self._tensors[name] = torch.zeros(self.most, *shape, dtype=dtype, pin_memory=is_pinned)
        return self._tensors[name][:rows]

    def quantised(self, name: str, rows: int, width: int, group: int) -> Quantised:
        """An activation [rows, width] in groups of so many columns."""
        return Quantised(
            self.rows(f"{name}:{group}", rows, width, dtype=torch.int8),
            self.rows(f"{name}:{group}:scales", rows, width // group),
        )
