"""8-bit weights, -127 to 127: never -128, so that |q| fits a signed byte."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.formats.layout import Layout, register
from kernels.formats.matrix import ROW_BLOCK

# 64 bytes are 16 rows of 4 columns.
COLUMNS = 4


def pack(q: Tensor) -> Tensor:
    """Integers int8 [N, K] as the bytes uint8 [N/16, K/4, 16, 4]."""
    words = q.contiguous().view(torch.int32).view(-1, ROW_BLOCK, q.shape[1] // COLUMNS)
    return words.transpose(1, 2).contiguous().view(torch.uint8).view(*words.mT.shape, 4)


def unpack(plane: Tensor) -> Tensor:
    """The integers int8 [N, K] of uint8 [N/16, K/4, 16, 4]."""
    words = plane.contiguous().view(torch.int32)[..., 0].transpose(1, 2).contiguous()  # [N/16, 16, K/4]
    return words.view(torch.int8).view(plane.shape[0] * ROW_BLOCK, -1)


# A bf16 scale is coarse beside a step of 8 bit: those just below the extreme over 127 are often nearer than it.
DIVISORS = (127.0, 127.45, 127.9, 128.4, 129.0, 129.8)

register(Layout("w8a8", 8, -127, 127, DIVISORS, pack, unpack))
