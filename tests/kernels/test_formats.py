"""Number formats: their names, their bytes, and that nothing is lost between integers and bytes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kernels.formats import (
    FLOATS,
    Format,
    FormatError,
    Layout,
    Matrix,
    assemble,
    dequantise,
    integers,
    layout_of,
    layouts,
    scales,
    split_rows,
    stack_rows,
    zeros,
)

LAYOUTS = [pytest.param(layout, id=layout.name) for layout in layouts()]
SHAPES = [(16, 128), (48, 384), (32, 1024)]
OPTIONS = ["", ":fp16", ":zeros", ":fp16:zeros:p2", ":p4"]
FORMATS = [f"{layout.name}:{group}{options}" for layout in layouts() for group in (32, 64, 128) for options in OPTIONS]


def random_integers(layout: Layout, rows: int, columns: int, seed: int = 0) -> Tensor:
    """All values of the range, both ends included."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(layout.lowest, layout.highest + 1, (rows, columns), generator=generator).to(torch.int8)
    q[0, :2] = torch.tensor([layout.lowest, layout.highest], dtype=torch.int8)
    return q


def random_matrix(
    text: str, rows: int = 48, columns: int = 384, seed: int = 0
) -> tuple[Matrix, Tensor, Tensor, Tensor | None]:
    """A matrix, and the integers, scales and zeros that it was assembled of."""
    format = Format.parse(text)
    generator = torch.Generator().manual_seed(seed)
    q = random_integers(layout_of(format), rows, columns, seed)
    s = torch.randn(rows, columns // format.group, generator=generator).to(FLOATS[format.scale])
    z = torch.randint(-8, 9, s.shape, generator=generator).to(torch.int8) if format.zeros else None
    return assemble(format, q, s, z), q, s, z


@given(
    st.sampled_from([layout.name for layout in layouts()]),
    st.sampled_from([32, 64, 128]),
    st.sampled_from(["bf16", "fp16"]),
    st.booleans(),
    st.sampled_from([1, 2, 4]),
)
def test_names_read_back(name: str, group: int, scale: str, asymmetric: bool, partials: int) -> None:
    format = Format(int(name[1]), group, scale, asymmetric, partials)
    assert Format.parse(str(format)) == format
    assert str(format).startswith(f"{name}:{group}")


def test_names_of_floats_and_defaults() -> None:
    assert [str(Format.parse(name)) for name in FLOATS] == list(FLOATS)
    assert Format.parse("w4a8") == Format(4, 64, "bf16", False, 1)


@pytest.mark.parametrize("text", ["", "w5a8:64", "w4a8:48", "w4a8:64:fp32", "w8a8:64:p3", "int4", "w4a8:64:", "w4a8:0"])
def test_what_is_no_format(text: str) -> None:
    with pytest.raises(FormatError):
        Format.parse(text)


def test_four_bit_bytes() -> None:
    """Byte 4r + b of 64: row r, low nibble column b, high nibble column 4 + b, as q + 8."""
    matrix, q, _, _ = random_matrix("w4a8:32", 32, 64)
    for row in range(32):
        for column in range(64):
            block, r, step, b = row // 16, row % 16, column // 8, column % 4
            byte = int(matrix.data[((block * 8 + step) * 16 + r) * 4 + b])
            assert (byte >> (column % 8 // 4 * 4) & 15) - 8 == q[row, column]


def test_eight_bit_bytes() -> None:
    """Byte 4r + b of 64: row r, column b, in two's complement."""
    matrix, q, _, _ = random_matrix("w8a8:32", 32, 64)
    for row in range(32):
        for column in range(64):
            block, r, step, b = row // 16, row % 16, column // 4, column % 4
            byte = int(matrix.data[((block * 16 + step) * 16 + r) * 4 + b])
            assert byte - 256 * (byte > 127) == q[row, column]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_pack_and_unpack(layout: Layout, rows: int, columns: int) -> None:
    q = random_integers(layout, rows, columns)
    plane = layout.pack(q)
    assert plane.dtype == torch.uint8
    assert plane.shape == (rows // 16, columns * layout.bits // 32, 16, 4)
    assert torch.equal(layout.unpack(plane), q)


@pytest.mark.parametrize("text", FORMATS)
def test_a_matrix_gives_back_what_it_was_assembled_of(text: str) -> None:
    matrix, q, s, z = random_matrix(text)
    assert torch.equal(integers(matrix), q)
    assert torch.equal(scales(matrix).view(torch.int16), s.view(torch.int16))
    read = zeros(matrix)
    assert torch.equal(read, z) if z is not None and read is not None else read is z is None
    centred = q.int() - (0 if z is None else z.int().repeat_interleave(matrix.format.group, 1))
    expected = centred.float() * s.float().repeat_interleave(matrix.format.group, 1)
    assert torch.equal(dequantise(matrix), expected)


@pytest.mark.parametrize("text", FORMATS)
def test_planes_are_aligned_and_disjoint(text: str) -> None:
    matrix, *_ = random_matrix(text, 16, 128)
    planes, groups = matrix.format.planes(16, 128), 16 * 128 // matrix.format.group
    assert planes.scales % 64 == planes.zeros % 64 == planes.nbytes % 64 == 0
    assert matrix.weight_plane.numel() <= planes.scales
    assert planes.scales + 2 * groups <= planes.zeros
    assert planes.zeros + groups * matrix.format.zeros <= planes.nbytes == matrix.nbytes


@pytest.mark.parametrize("dtype", list(FLOATS.values()))
def test_floats_are_kept_as_they_are(dtype: torch.dtype) -> None:
    weight = torch.randn(16, 34, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrix = Matrix.identity(weight)
    assert matrix.data.data_ptr() == weight.data_ptr()
    assert torch.equal(matrix.floats, weight)
    assert torch.equal(dequantise(matrix), weight.float())


@pytest.mark.parametrize("text", ["w4a8:64", "w4a8:32:fp16:zeros", "w8a8:64:zeros", "w8a8:128:p2"])
def test_rows_stack_and_split(text: str) -> None:
    parts = [random_matrix(text, rows, seed=seed)[0] for seed, rows in enumerate((16, 48, 32))]
    stacked = stack_rows(parts)
    assert torch.equal(dequantise(stacked), torch.cat([dequantise(part) for part in parts]))
    assert stacked.data[stacked.weight_plane.numel() : stacked.format.planes(96, 384).scales].eq(0).all()
    again = list(split_rows(stacked, 32))
    assert [part.rows for part in again] == [32, 32, 32]
    assert torch.equal(torch.cat([dequantise(part) for part in again]), dequantise(stacked))
    assert torch.equal(stack_rows(again).data, stacked.data)
    assert next(split_rows(stacked, 96)) is stacked


def test_rows_of_floats_stack_and_split() -> None:
    weight = torch.randn(80, 36, generator=torch.Generator().manual_seed(0))
    stacked = stack_rows([Matrix.identity(weight[:32]), Matrix.identity(weight[32:])])
    assert torch.equal(stacked.floats, weight)
    assert torch.equal(torch.cat([part.floats for part in split_rows(stacked, 32)]), weight)


def test_only_like_goes_below_like() -> None:
    one, other = random_matrix("w4a8:64")[0], random_matrix("w4a8:32")[0]
    with pytest.raises(FormatError, match="same format"):
        stack_rows([one, other])


def broken(**changes: Tensor | None) -> None:
    q, s = random_integers(layout_of(Format.parse("w4a8")), 16, 64), torch.ones(16, 1, dtype=torch.bfloat16)
    assemble(Format.parse("w4a8:64:zeros"), **({"q": q, "scales": s, "zeros": s.to(torch.int8)} | changes))  # type: ignore[arg-type]


def test_what_cannot_be_assembled() -> None:
    broken()
    infinite = torch.ones(16, 1, dtype=torch.bfloat16)
    infinite[7] = torch.inf
    for error, changes in [
        ("int8", {"q": torch.zeros(16, 64)}),
        ("rows come in 16s", {"q": torch.zeros(15, 64, dtype=torch.int8)}),
        ("0 to 8 don't fit", {"q": torch.arange(64, dtype=torch.int8).clamp(0, 8).expand(16, 64)}),
        ("choose the format", {"scales": torch.ones(16, 1)}),
        ("choose the format", {"scales": torch.ones(16, 2, dtype=torch.bfloat16)}),
        ("row 7, group 0", {"scales": infinite}),
        ("give the zero points", {"zeros": None}),
        ("int8", {"zeros": torch.ones(16, 1)}),
        ("from -8 to 8", {"zeros": torch.full((16, 1), 9, dtype=torch.int8)}),
    ]:
        with pytest.raises(FormatError, match=error):
            broken(**changes)


def test_symmetric_formats_have_no_zeros() -> None:
    q, s = torch.zeros(16, 64, dtype=torch.int8), torch.ones(16, 1, dtype=torch.bfloat16)
    with pytest.raises(FormatError, match="w4a8:64:zeros"):
        assemble(Format.parse("w4a8:64"), q, s, torch.zeros(16, 1, dtype=torch.int8))


def test_eight_bit_never_holds_minus_128() -> None:
    q, s = torch.full((16, 64), -128, dtype=torch.int8), torch.ones(16, 1, dtype=torch.bfloat16)
    with pytest.raises(FormatError, match="-127 to 127"):
        assemble(Format.parse("w8a8:64"), q, s)


def test_bytes_must_be_as_many_as_the_format_says() -> None:
    matrix = random_matrix("w4a8:64")[0]
    with pytest.raises(FormatError, match="contiguous bytes"):
        Matrix(matrix.format, matrix.rows, matrix.columns, matrix.data[1:])
    with pytest.raises(FormatError, match="has no integers"):
        integers(Matrix.identity(torch.ones(16, 64)))
