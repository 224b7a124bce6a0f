"""Number formats of weight matrices."""

from kernels.formats import w4a8, w8a8
from kernels.formats.layout import Layout, layout_of, layouts
from kernels.formats.matrix import FLOATS, ROW_BLOCK, Format, FormatError, Matrix, Planes
from kernels.formats.parts import assemble, centred, dequantise, integers, scales, split_rows, stack_rows, zeros
from kernels.formats.quantise import QuantisationError, quantise

__all__ = [
    "FLOATS",
    "ROW_BLOCK",
    "Format",
    "FormatError",
    "Layout",
    "Matrix",
    "Planes",
    "QuantisationError",
    "assemble",
    "centred",
    "dequantise",
    "integers",
    "layout_of",
    "layouts",
    "quantise",
    "scales",
    "split_rows",
    "stack_rows",
    "w4a8",
    "w8a8",
    "zeros",
]
