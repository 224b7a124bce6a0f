"""What copies of experts launch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from kernels.gpu.page_in import launch_page_in
from kernels.gpu.tables import Fetches
from tests.kernels.gpu.cases.route import BLOB, ints, placement
from tests.kernels.gpu.compiling import Case


def _page_in(blob: int, most: int, *, exclusive: bool = False, staged: bool = False) -> None:
    slots = torch.empty(300, blob, dtype=torch.uint8, device="meta")
    ring = ints(most, blob, dtype=torch.uint8) if staged else None
    launch_page_in(Fetches(ints(1), ints(most, 3)), replace(placement(300, exclusive), slots=slots), ring)


# 16 bytes at a time, each way.
_WIDE = (r"ld\.global.*\.v2\.b64|ld\.global.*\.v4\.b32", r"st\.global.*\.v2\.b64|st\.global.*\.v4\.b32")

CASES = [
    Case("page_in", partial(_page_in, BLOB, 8), _WIDE),
    Case("page_in:small", partial(_page_in, 3088, 1), _WIDE, (86,)),
    Case("page_in:staged", partial(_page_in, BLOB, 8, staged=True), _WIDE, (90,)),
    Case("page_in:swap", partial(_page_in, BLOB, 8, exclusive=True), _WIDE),
]
