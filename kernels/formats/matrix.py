"""A weight matrix in one of the number formats: what the format is, and where its planes lie in one run of bytes.

Defined in docs/exact-experts.md. The bytes are the same in a file, in host memory and on a GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

# Rows that are interleaved in a quantised plane.
ROW_BLOCK = 16

# Every plane starts at a multiple of this many bytes.
PLANE_ALIGNMENT = 64

GROUPS = (32, 64, 128)
PARTIALS = (1, 2, 4)
FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SCALES = ("bf16", "fp16")

_QUANTISED = re.compile(r"w(?P<bits>[48])a8(:(?P<group>\d+))?(?P<options>(:[a-z0-9]+)*)")


class FormatError(ValueError):
    """A format that does not exist, or that a matrix cannot have."""


@dataclass(frozen=True)
class Format:
    """How a matrix is stored, and so what its product with an activation means.

    `bits` 4 and 8 are quantised: integers in groups of `group` columns, each with a scale and, where `zeros`, a
    zero point; the product has `partials` accumulators. `bits` 16 and 32 keep the floats named by `scale` as
    they are ("bf16", "fp16" or "fp32"), row by row.
    """

    bits: int
    group: int = 64
    scale: str = "bf16"
    zeros: bool = False
    partials: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads w4a8:64, w8a8:128:fp16:zeros:p2, bf16 and the like. Raises FormatError."""
        if text in FLOATS:
            return cls(FLOATS[text].itemsize * 8, group=1, scale=text)
        found = _QUANTISED.fullmatch(text)
        if not found:
            raise FormatError(f"{text!r} is no number format: use w4a8:64, w8a8:64, bf16 or the like")
        parsed = cls(int(found["bits"]), int(found["group"] or 64))
        for option in filter(None, found["options"].split(":")):
            parsed = parsed._with(option)
        return parsed

    def _with(self, option: str) -> Self:
        if option in SCALES:
            return replace(self, scale=option)
        if option == "zeros":
            return replace(self, zeros=True)
        if option in ("p1", "p2", "p4"):
            return replace(self, partials=int(option[1:]))
        raise FormatError(f"{option!r} is no option of a number format: use bf16, fp16, zeros, p1, p2 or p4")

    def __post_init__(self) -> None:
        if self.is_quantised and (
            self.group not in GROUPS or self.scale not in SCALES or self.partials not in PARTIALS
        ):
            raise FormatError(f"{self}: groups are of 32, 64 or 128, scales bf16 or fp16, partials 1, 2 or 4")

    def __str__(self) -> str:
        if not self.is_quantised:
            return self.scale
        options = [f":{self.scale}"] if self.scale != "bf16" else []
        options += [":zeros"] if self.zeros else []
        options += [f":p{self.partials}"] if self.partials != 1 else []
        return f"w{self.bits}a8:{self.group}" + "".join(options)

    @property
    def is_quantised(self) -> bool:
        return self.bits < 16

    def check(self, rows: int, columns: int) -> None:
        """Raises FormatError for a shape that this format cannot hold."""
        if self.is_quantised and (rows % ROW_BLOCK or columns % self.group):
            raise FormatError(
                f"a matrix of {rows} x {columns} cannot be {self}: rows come in {ROW_BLOCK}s, columns in {self.group}s"
            )

    def planes(self, rows: int, columns: int) -> Planes:
        """Where the planes of a matrix [rows, columns] lie. Raises FormatError."""
        self.check(rows, columns)
        weights = rows * columns * self.bits // 8
        if not self.is_quantised:
            return Planes(weights, weights, weights)
        groups = rows * (columns // self.group)
        scales_at = _aligned(weights)
        zeros_at = _aligned(scales_at + 2 * groups)
        return Planes(scales_at, zeros_at, _aligned(zeros_at + groups * self.zeros))

    def nbytes(self, rows: int, columns: int) -> int:
        return self.planes(rows, columns).nbytes


@dataclass(frozen=True)
class Planes:
    """Byte offsets of the scale and zero planes behind the weights, which start at 0; and all bytes."""

    scales: int
    zeros: int
    nbytes: int


@dataclass(frozen=True)
class Matrix:
    """A matrix [rows, columns] as the bytes of its format.

    Quantised weights are blocks of 16 rows. In a block, 64 bytes hold 8 columns at 4 bit and 4 columns at 8 bit: byte
    4r + b is row r; at 4 bit its low nibble is column b and its high nibble column 4 + b, both as q + 8; at 8 bit it is
    column b, in two's complement. Scales (2 bytes) and zeros (1 byte) are planes [rows / 16, columns / group, 16].
    """

    format: Format
    rows: int
    columns: int
    data: Tensor  # uint8 [nbytes], contiguous

    def __post_init__(self) -> None:
        wanted = self.format.nbytes(self.rows, self.columns)
        if self.data.dtype != torch.uint8 or self.data.shape != (wanted,) or not self.data.is_contiguous():
            raise FormatError(f"a {self.format} matrix of {self.rows} x {self.columns} is {wanted} contiguous bytes")

    @classmethod
    def identity(cls, weight: Tensor) -> Self:
        """Floats [N, K] as they are: a view where they are contiguous."""
        name = next((name for name, dtype in FLOATS.items() if dtype == weight.dtype), None)
        if name is None:
            raise FormatError(f"{weight.dtype} is not kept as it is: bf16, fp16 and fp32 are")
        data = weight.contiguous().view(torch.uint8).flatten()
        rows, columns = weight.shape
        return cls(Format.parse(name), rows, columns, data)

    @property
    def device(self) -> torch.device:
        return self.data.device

    @property
    def nbytes(self) -> int:
        return self.data.numel()

    @property
    def floats(self) -> Tensor:
        """The weights [N, K] of an unquantised matrix."""
        return self.data.view(FLOATS[self.format.scale]).view(self.rows, self.columns)

    @property
    def weight_plane(self) -> Tensor:
        """Quantised weights as stored, uint8 [N/16, K / columns per 64 bytes, 16, 4]."""
        count = self.rows * self.columns * self.format.bits // 8
        return self.data[:count].view(self.rows // ROW_BLOCK, -1, ROW_BLOCK, 4)

    @property
    def scale_plane(self) -> Tensor:
        """Scales in their own dtype, [N/16, K/G, 16]."""
        start = self.format.planes(self.rows, self.columns).scales
        groups = self.columns // self.format.group
        plane = self.data[start : start + 2 * self.rows * groups].view(FLOATS[self.format.scale])
        return plane.view(self.rows // ROW_BLOCK, groups, ROW_BLOCK)

    @property
    def zero_plane(self) -> Tensor | None:
        """Zero points, int8 [N/16, K/G, 16]; None in a symmetric matrix."""
        if not self.format.zeros:
            return None
        start = self.format.planes(self.rows, self.columns).zeros
        groups = self.columns // self.format.group
        plane = self.data[start : start + self.rows * groups].view(torch.int8)
        return plane.view(self.rows // ROW_BLOCK, groups, ROW_BLOCK)


def _aligned(offset: int) -> int:
    return -(-offset // PLANE_ALIGNMENT) * PLANE_ALIGNMENT
