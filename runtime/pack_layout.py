"""Where everything lies in a pack: dense entries in one file, expert blobs of one size in another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import FLOATS, Format
from kernels.ops import ExpertPool

# First byte, and the one behind the last.
Range = tuple[int, int]

PAGE = 4096

# Matrices in a blob start at multiples of this many bytes.
BLOB_ALIGNMENT = 64


def aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


@dataclass(frozen=True)
class DenseEntry:
    """A plain tensor or a matrix in the file of dense tensors. A plain tensor's format is its number type."""

    name: str
    is_matrix: bool
    format: Format
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        if self.is_matrix:
            return self.format.nbytes(*self.shape)
        return torch.Size(self.shape).numel() * FLOATS[self.format.scale].itemsize

    @property
    def end(self) -> int:
        """Where the next entry may start."""
        return aligned(self.offset + self.nbytes, PAGE)

    @property
    def rows(self) -> int:
        return self.shape[0]

    def ranges(self, start: int, stop: int) -> list[Range]:
        """Where rows from `start` to `stop` lie in the file: one range in each plane."""
        if self.is_matrix:
            rows, columns = self.shape
            ranges = row_ranges(self.format, rows, columns, start, stop)
        else:
            width = self.nbytes // self.rows
            ranges = [(start * width, stop * width)]
        return [(self.offset + first, self.offset + last) for first, last in ranges]

    def gaps(self) -> list[Range]:
        """Where it is padding, which is all 0, counted from its own start."""
        within = matrix_gaps(self.format, *self.shape) if self.is_matrix else []
        return within + [gap for gap in [(self.nbytes, self.end - self.offset)] if _is_some(gap)]


def place(entries: Iterable[tuple[str, bool, Format, tuple[int, ...]]]) -> tuple[DenseEntry, ...]:
    """Name, is it a matrix, format and shape of each: one behind the other, each at a page's start."""
    placed: list[DenseEntry] = []
    for entry in entries:
        placed.append(DenseEntry(*entry, offset=placed[-1].end if placed else 0))
    return tuple(placed)


@dataclass(frozen=True)
class ExpertGeometry:
    """The blobs of all routed experts: layer by layer, expert by expert, each at a page's start."""

    layers: tuple[int, ...]
    count: int
    gate_up: Format
    down: Format
    hidden: int
    inner: int

    @property
    def is_quantised(self) -> bool:
        return self.gate_up.is_quantised and self.down.is_quantised

    @property
    def gate_up_bytes(self) -> int:
        return self.gate_up.nbytes(2 * self.inner, self.hidden)

    @property
    def down_bytes(self) -> int:
        return self.down.nbytes(self.hidden, self.inner)

    @property
    def down_offset(self) -> int:
        """Where down starts in a blob."""
        return aligned(self.gate_up_bytes, BLOB_ALIGNMENT)

    @property
    def content(self) -> int:
        """Bytes of a blob before its padding."""
        return self.down_offset + self.down_bytes

    @property
    def blob_bytes(self) -> int:
        return aligned(self.content, PAGE)

    @property
    def blobs(self) -> int:
        return len(self.layers) * self.count

    @property
    def nbytes(self) -> int:
        return self.blobs * self.blob_bytes

    def named(self, blob: int) -> str:
        """What a blob is, in words."""
        return f"layer {self.layers[blob // self.count]}, expert {blob % self.count}"

    def pool(self, blobs: Tensor) -> ExpertPool:
        """The experts of one layer, whose blobs are the rows of uint8 [count, blob_bytes]."""
        return ExpertPool(
            gate_up=self.gate_up,
            down=self.down,
            hidden=self.hidden,
            inner=self.inner,
            down_offset=self.down_offset,
            blobs=blobs.unbind(),
            addresses=blobs.data_ptr() + self.blob_bytes * torch.arange(self.count),
        )

    def blob_gaps(self) -> list[Range]:
        """Where a blob is padding, which is all 0."""
        down = matrix_gaps(self.down, self.hidden, self.inner)
        gaps = [
            *matrix_gaps(self.gate_up, 2 * self.inner, self.hidden),
            (self.gate_up_bytes, self.down_offset),
            *((self.down_offset + start, self.down_offset + stop) for start, stop in down),
            (self.content, self.blob_bytes),
        ]
        return [gap for gap in gaps if _is_some(gap)]


def row_ranges(format: Format, rows: int, columns: int, start: int, stop: int) -> list[Range]:
    """Where rows from `start` to `stop` lie in a matrix: one range in each of its planes."""
    if not format.is_quantised:
        width = columns * format.bits // 8
        return [(start * width, stop * width)]
    planes, groups = format.planes(rows, columns), columns // format.group
    parts = [(0, columns * format.bits // 8), (planes.scales, 2 * groups)]
    parts += [(planes.zeros, groups)] if format.zeros else []
    return [(at + start * width, at + stop * width) for at, width in parts]


def matrix_gaps(format: Format, rows: int, columns: int) -> list[Range]:
    """Where a matrix is padding between its planes and behind them."""
    used = row_ranges(format, rows, columns, 0, rows)
    starts = [start for start, _ in used[1:]] + [format.nbytes(rows, columns)]
    return [gap for gap in zip((stop for _, stop in used), starts, strict=True) if _is_some(gap)]


def _is_some(gap: Range) -> bool:
    return gap[0] < gap[1]
