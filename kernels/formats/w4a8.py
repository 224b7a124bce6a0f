"""4-bit weights, -8 to 7, two to a byte."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.formats.layout import Layout, register
from kernels.formats.matrix import ROW_BLOCK

OFFSET = 8

# 64 bytes are 16 rows of 8 columns, of which the first half is in the low nibbles.
COLUMNS = 8


def pack(q: Tensor) -> Tensor:
    """Integers int8 [N, K] as the bytes uint8 [N/16, K/8, 16, 4]."""
    low, high = (q + OFFSET).view(torch.uint8).view(q.shape[0], -1, 2, 4).unbind(2)
    words = (low | (high << 4)).view(torch.int32).view(-1, ROW_BLOCK, q.shape[1] // COLUMNS)
    return words.transpose(1, 2).contiguous().view(torch.uint8).view(*words.mT.shape, 4)


def unpack(plane: Tensor) -> Tensor:
    """The integers int8 [N, K] of uint8 [N/16, K/8, 16, 4]."""
    words = plane.contiguous().view(torch.int32)[..., 0].transpose(1, 2).contiguous()  # [N/16, 16, K/8]
    nibbles = words[..., None].view(torch.uint8)  # [N/16, 16, K/8, 4]
    both = torch.stack((nibbles & 0xF, nibbles >> 4), dim=-2).view(torch.int8)
    return (both - OFFSET).view(plane.shape[0] * ROW_BLOCK, -1)


# -8 reaches an eighth further than 7, so the extreme weight of a group is best there, whatever its sign: the scale is
# negative where it is positive. Beyond 8 the extreme is cut short for the good of the others; 7 is for groups whose two
# ends are equally far.
DIVISORS = (-8.0, 7.0, -7.5, -8.45, -9.0, -9.7)

register(Layout("w4a8", 4, -8, 7, DIVISORS, pack, unpack))
