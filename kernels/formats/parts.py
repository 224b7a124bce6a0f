"""Matrices from integers and scales, and back; put above each other, and cut into row blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kernels.formats.layout import layout_of
from kernels.formats.matrix import FLOATS, ROW_BLOCK, Format, FormatError, Matrix

ZERO_LIMIT = 8


def blank(format: Format, rows: int, columns: int, device: torch.device | str = "cpu") -> Matrix:
    """A matrix whose bytes are all 0, padding included, for its planes to be written."""
    data = torch.zeros(format.nbytes(rows, columns), dtype=torch.uint8, device=device)
    return Matrix(format, rows, columns, data)


def assemble(format: Format, q: Tensor, scales: Tensor, zeros: Tensor | None = None) -> Matrix:
    """A quantised matrix of just these numbers: nothing is rounded.

    q int8 [N, K]; scales [N, K/G] in the format's own dtype; zeros int8 [N, K/G], -8 to 8, where the format has them.
    Raises FormatError.
    """
    _check_integers(format, q)
    _check_scales(format, q, scales)
    _check_zeros(format, scales, zeros)
    matrix = blank(format, q.shape[0], q.shape[1], q.device)
    write_rows(matrix, 0, q, scales, zeros)
    return matrix


def write_rows(matrix: Matrix, first: int, q: Tensor, scales: Tensor, zeros: Tensor | None = None) -> None:
    """Writes whole row blocks, from row `first` on, as in `assemble` but unchecked."""
    blocks = slice(first // ROW_BLOCK, (first + q.shape[0]) // ROW_BLOCK)
    matrix.weight_plane[blocks] = layout_of(matrix.format).pack(q)
    matrix.scale_plane[blocks] = _interleaved(scales)
    if matrix.zero_plane is not None and zeros is not None:
        matrix.zero_plane[blocks] = _interleaved(zeros)


def integers(matrix: Matrix) -> Tensor:
    """q of a quantised matrix: int8 [N, K]."""
    return layout_of(matrix.format).unpack(matrix.weight_plane)


def scales(matrix: Matrix) -> Tensor:
    """Scales of a quantised matrix in their own dtype: [N, K/G]."""
    return _by_row(matrix.scale_plane)


def zeros(matrix: Matrix) -> Tensor | None:
    """Zero points of a quantised matrix, int8 [N, K/G]; None where it is symmetric."""
    return None if matrix.zero_plane is None else _by_row(matrix.zero_plane)


def centred(matrix: Matrix) -> Tensor:
    """q - z of a quantised matrix, by group: fp32 [N, K/G, G]."""
    q = integers(matrix).float().view(matrix.rows, -1, matrix.format.group)
    z = zeros(matrix)
    return q if z is None else q - z[..., None]


def dequantise(matrix: Matrix) -> Tensor:
    """The weights fp32 [N, K]: (q - z) times its scale, or the floats that an unquantised matrix keeps."""
    if not matrix.format.is_quantised:
        return matrix.floats.float()
    return (centred(matrix) * scales(matrix).float()[..., None]).view(matrix.rows, matrix.columns)


def stack_rows(matrices: Sequence[Matrix]) -> Matrix:
    """One matrix with the rows of all, in order. Raises FormatError where formats or columns differ."""
    first = matrices[0]
    for other in matrices[1:]:
        if (other.format, other.columns) != (first.format, first.columns):
            raise FormatError(
                f"rows of {other.columns} columns in {other.format} can't go below {first.columns} in {first.format}: "
                "give both the same format"
            )
    stacked = blank(first.format, sum(matrix.rows for matrix in matrices), first.columns, first.device)
    for into, *parts in zip(_planes(stacked), *map(_planes, matrices), strict=True):
        into.copy_(torch.cat(parts))
    return stacked


def split_rows(matrix: Matrix, rows: int) -> Iterator[Matrix]:
    """The matrix as consecutive ones of at most `rows` rows, a multiple of 16; floats are views, the others copies."""
    if matrix.rows <= rows:
        yield matrix
    elif not matrix.format.is_quantised:
        yield from map(Matrix.identity, matrix.floats.split(rows))
    else:
        for first in range(0, matrix.rows, rows):
            yield _block(matrix, first, min(rows, matrix.rows - first))


def _block(matrix: Matrix, first: int, rows: int) -> Matrix:
    part = blank(matrix.format, rows, matrix.columns, matrix.device)
    for into, plane in zip(_planes(part), _planes(matrix), strict=True):
        into.copy_(plane[first // ROW_BLOCK :][: rows // ROW_BLOCK])
    return part


def _planes(matrix: Matrix) -> list[Tensor]:
    """All that a matrix holds, each in order of rows."""
    if not matrix.format.is_quantised:
        return [matrix.floats]
    planes = [matrix.weight_plane, matrix.scale_plane]
    return planes if matrix.zero_plane is None else [*planes, matrix.zero_plane]


def _interleaved(by_row: Tensor) -> Tensor:
    """[N, K/G] as a plane [N/16, K/G, 16]."""
    return by_row.view(-1, ROW_BLOCK, by_row.shape[1]).transpose(1, 2)


def _by_row(plane: Tensor) -> Tensor:
    """A plane [N/16, K/G, 16] as [N, K/G]."""
    return plane.transpose(1, 2).reshape(-1, plane.shape[1])


def _check_integers(format: Format, q: Tensor) -> None:
    layout = layout_of(format)
    if q.dtype != torch.int8 or q.dim() != 2:
        raise FormatError(f"weights of {format} are int8 [rows, columns], not {q.dtype} {list(q.shape)}: give integers")
    format.check(*q.shape)
    low, high = (int(bound) for bound in q.aminmax())
    if low < layout.lowest or high > layout.highest:
        raise FormatError(
            f"integers from {low} to {high} don't fit {format}, which holds {layout.lowest} to {layout.highest}: "
            "take off the source's offset first"
        )


def _check_scales(format: Format, q: Tensor, scales: Tensor) -> None:
    wanted = (q.shape[0], q.shape[1] // format.group)
    if scales.dtype != FLOATS[format.scale] or scales.shape != wanted:
        raise FormatError(
            f"scales of {format} for {q.shape[0]} x {q.shape[1]} are {format.scale} {list(wanted)}, "
            f"not {scales.dtype} {list(scales.shape)}: choose the format of the source"
        )
    if not scales.isfinite().all():
        row, group = (int(place) for place in scales.isfinite().logical_not().nonzero()[0])
        raise FormatError(f"the scale of row {row}, group {group} is not finite: the source is damaged, fetch it again")


def _check_zeros(format: Format, scales: Tensor, zeros: Tensor | None) -> None:
    if (zeros is not None) != format.zeros:
        remedy = "give the zero points" if format.zeros else f"use {format}:zeros"
        raise FormatError(f"{format} {'has' if format.zeros else 'has no'} zero points: {remedy}")
    if zeros is None:
        return
    if zeros.dtype != torch.int8 or zeros.shape != scales.shape:
        raise FormatError(
            f"zero points are int8 {list(scales.shape)}, not {zeros.dtype} {list(zeros.shape)}: one for each scale"
        )
    if int(zeros.min()) < -ZERO_LIMIT or int(zeros.max()) > ZERO_LIMIT:
        raise FormatError(f"zero points go from {-ZERO_LIMIT} to {ZERO_LIMIT}: take off the source's offset first")
