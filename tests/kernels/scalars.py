"""What several tests need of the definition, one fp32 operation a time; and equality to the bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

F32 = np.float32
WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits."""
    whole = WHOLE[a.element_size()]
    same_kind = a.dtype == b.dtype and a.shape == b.shape
    return same_kind and torch.equal(a.contiguous().view(whole), b.contiguous().view(whole))


def scalar_lanes(terms: Sequence[F32]) -> F32:
    sums = [F32(0)] * 16
    for i, term in enumerate(terms):
        sums[i % 16] = sums[i % 16] + term
    for half in (8, 4, 2, 1):
        sums = [sums[i] + sums[i + half] for i in range(half)]
    return sums[0]


def scalar_exp(t: F32) -> F32:
    t = min(max(t, F32(-87)), F32(88))
    n = np.rint(t * F32(float.fromhex("0x1.715476p+0")))
    r = (t - n * F32(float.fromhex("0x1.62e4p-1"))) - n * F32(float.fromhex("0x1.7f7d1cp-20"))
    series = F32(float.fromhex("0x1.6a233ep-10"))
    for c in ("0x1.123a76p-7", "0x1.5558f6p-5", "0x1.555490p-3", "0x1.fffffcp-2", "0x1p0", "0x1p0"):
        series = series * r + F32(float.fromhex(c))
    return series * np.array((int(n) + 127) << 23, np.int32).view(F32)[()]
