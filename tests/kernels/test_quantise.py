"""Quantised weights: least squared error, honest about it, the same whatever the threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.formats import (
    FLOATS,
    Format,
    FormatError,
    QuantisationError,
    assemble,
    dequantise,
    integers,
    layout_of,
    layouts,
    quantise,
    scales,
)

FORMATS = [
    f"{layout.name}:{group}{scale}" for layout in layouts() for group in (32, 64, 128) for scale in ("", ":fp16")
]

# How far the squared error must be below that of the group's largest weight over the highest integer.
LOWER = {"w4a8": 0.28, "w8a8": 0.02}


def gaussian(rows: int = 64, columns: int = 1024, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def plain(weight: Tensor, format: Format) -> Tensor:
    """What quantising by amax over the highest integer, and nothing more, makes of the weights."""
    highest = layout_of(format).highest
    groups = weight.view(weight.shape[0], -1, format.group)
    scale = (groups.abs().amax(-1, keepdim=True) / highest).to(FLOATS[format.scale]).float()
    return (torch.round(groups / scale).clamp(-highest, highest) * scale).view(weight.shape)


def squared(x: Tensor) -> float:
    return float(x.double().square().sum())


@pytest.mark.parametrize("text", FORMATS)
def test_error_is_below_that_of_the_largest_weight(text: str) -> None:
    format, weight = Format.parse(text), gaussian()
    matrix, error = quantise(weight, format)
    assert error.squared_error < (1 - LOWER[text[:4]]) * squared(plain(weight, format) - weight)
    assert matrix.format == format


@pytest.mark.parametrize("text", FORMATS)
def test_the_error_reported_is_the_error_made(text: str) -> None:
    weight = gaussian(columns=2048) * 0.02
    matrix, error = quantise(weight, Format.parse(text))
    assert error.squared_error == pytest.approx(squared(weight - dequantise(matrix)), rel=1e-5)
    assert error.squared_norm == pytest.approx(squared(weight), rel=1e-9)
    assert error.relative == pytest.approx((error.squared_error / error.squared_norm) ** 0.5)


@pytest.mark.parametrize("text", FORMATS)
def test_each_integer_is_the_nearest_to_its_weight(text: str) -> None:
    format, weight = Format.parse(text), gaussian(32, 256)
    layout = layout_of(format)
    matrix, _ = quantise(weight, format)
    scale = scales(matrix).float().repeat_interleave(format.group, 1)
    assert torch.equal(integers(matrix).float(), torch.round(weight / scale).clamp(layout.lowest, layout.highest))


@pytest.mark.parametrize("text", FORMATS)
def test_quantised_weights_come_back_as_they_were(text: str) -> None:
    """Weights on a grid of the format, with an end of it in every group, lose nothing."""
    format = Format.parse(text)
    layout, generator = layout_of(format), torch.Generator().manual_seed(0)
    q = torch.randint(layout.lowest, layout.highest + 1, (32, 256), generator=generator).to(torch.int8)
    q[:, :: format.group] = layout.lowest
    scale = torch.rand(32, 256 // format.group, generator=generator).add(0.5).to(FLOATS[format.scale])
    source = assemble(format, q, scale)
    matrix, error = quantise(dequantise(source), format)
    assert torch.equal(dequantise(matrix), dequantise(source))
    assert error.relative == 0


@pytest.mark.parametrize("layout", [layout.name for layout in layouts()])
@pytest.mark.parametrize("dtype", list(FLOATS.values()))
def test_every_float_type_is_taken_exactly(layout: str, dtype: torch.dtype) -> None:
    weight, format = gaussian().to(dtype), Format.parse(f"{layout}:64")
    assert torch.equal(quantise(weight, format)[0].data, quantise(weight.float(), format)[0].data)


@pytest.mark.parametrize("text", ["w4a8:64", "w8a8:64", "w4a8:32:fp16"])
def test_groups_of_zeros(text: str) -> None:
    weight = gaussian(16, 256)
    weight[3, 64:128] = 0
    weight[4] = -0.0
    matrix, _ = quantise(weight, Format.parse(text))
    group = matrix.format.group
    assert integers(matrix)[3, 64:128].eq(0).all()
    assert integers(matrix)[4].eq(0).all()
    zero_scales = torch.cat((scales(matrix)[3, 64 // group : 128 // group], scales(matrix)[4]))
    assert zero_scales.view(torch.int16).eq(0).all()
    assert scales(matrix)[5].ne(0).all()


@pytest.mark.parametrize("text", ["w4a8:64", "w8a8:64", "w4a8:64:fp16", "w8a8:64:fp16"])
@pytest.mark.parametrize("magnitude", [1e-40, 1e-30, 1e-3, 1e4, 1e30])
def test_extreme_magnitudes_stay_finite(text: str, magnitude: float) -> None:
    weight = gaussian(16, 128) * magnitude
    matrix, _ = quantise(weight, Format.parse(text))
    assert dequantise(matrix).isfinite().all()
    if 1e-4 < magnitude < 1e5 or (matrix.format.scale == "bf16" and magnitude > 1e-39):
        assert (dequantise(matrix) / magnitude - gaussian(16, 128)).abs().max() < 0.5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("text", ["w4a8:64", "w8a8:32"])
def test_weights_that_are_not_finite_are_refused_by_place(text: str, bad: float) -> None:
    weight = gaussian(48, 256)
    weight[37, 201] = bad
    with pytest.raises(FormatError, match="row 37, column 201"):
        quantise(weight, Format.parse(text))


def test_place_is_right_far_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quantise.__globals__, "CHUNK", 1)
    weight = gaussian(80, 64)
    weight[79, 1] = torch.nan
    with pytest.raises(FormatError, match="row 79, column 1"):
        quantise(weight, Format.parse("w4a8"))


def test_what_cannot_be_quantised() -> None:
    for text, rows, columns, error in [
        ("bf16", 16, 64, "has no integers"),
        ("w4a8:64:zeros", 16, 64, "symmetric"),
        ("w4a8:64", 15, 64, "rows come in 16s"),
        ("w4a8:64", 16, 96, "columns in 64s"),
    ]:
        with pytest.raises(FormatError, match=error):
            quantise(gaussian(rows, columns), Format.parse(text))


@pytest.mark.parametrize("text", ["w4a8:64", "w8a8:128"])
def test_threads_change_nothing(text: str) -> None:
    weight, before = gaussian(256, 2048), torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            results.append(quantise(weight, Format.parse(text)))
        finally:
            torch.set_num_threads(before)
    for matrix, error in results[1:]:
        assert torch.equal(matrix.data, results[0][0].data)
        assert error == results[0][1]


@pytest.mark.parametrize("text", ["w4a8:32", "w8a8:64"])
def test_a_row_is_quantised_alone_as_among_others(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pieces and chunks that it falls into."""
    monkeypatch.setitem(quantise.__globals__, "CHUNK", 1 << 16)
    weight = gaussian(208, 1024)
    whole = dequantise(quantise(weight, Format.parse(text))[0])
    for rows in (slice(0, 16), slice(128, 208)):
        assert torch.equal(dequantise(quantise(weight[rows], Format.parse(text))[0]), whole[rows])
    assert torch.equal(dequantise(quantise(weight.t().contiguous().t(), Format.parse(text))[0]), whole)


def test_errors_add_up() -> None:
    assert QuantisationError(1, 4) + QuantisationError(8, 32) == QuantisationError(9, 36)
    assert QuantisationError(9, 36).relative == 0.5
    assert QuantisationError().relative == 0
