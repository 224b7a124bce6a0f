"""Weights to integers: for each group the scale with the least squared error of those worth trying."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats.layout import Layout, layout_of
from kernels.formats.matrix import FLOATS, ROW_BLOCK, Format, FormatError, Matrix
from kernels.formats.parts import blank, write_rows

# Weights that are searched at once. Three such tensors fit a core's L2, and torch keeps to one thread below 32768,
# so the sums, and the scales chosen by them, don't depend on the thread count.
PIECE = 32640

# Weights that become bytes at once.
CHUNK = 1 << 20

# Each takes the scale that is best for the integers that the last one gave.
REFINEMENTS = 2


@dataclass(frozen=True)
class QuantisationError:
    """Sums over weights of (w - W)^2, W being what the matrix holds, and of w^2. They add up."""

    squared_error: float = 0.0
    squared_norm: float = 0.0

    def __add__(self, other: QuantisationError) -> QuantisationError:
        return QuantisationError(
            self.squared_error + other.squared_error,
            self.squared_norm + other.squared_norm,
        )

    @property
    def relative(self) -> float:
        """Error over norm, both as root of the sum of squares; 0 for no weights."""
        return math.sqrt(self.squared_error / self.squared_norm) if self.squared_norm else 0.0


def quantise(weight: Tensor, format: Format) -> tuple[Matrix, QuantisationError]:
    """The symmetric matrix nearest to weight [N, K] of any float dtype. Raises FormatError.

    The same bits whatever the thread count. 30 million weights a second on one busy core of a Zen 3.
    """
    layout_of(format)
    if format.zeros:
        raise FormatError(f"{format} has zero points, which only an import brings: quantise to a symmetric format")
    rows, columns = weight.shape
    matrix = blank(format, rows, columns, weight.device)
    error = QuantisationError()
    step = max(CHUNK // columns // ROW_BLOCK, 1) * ROW_BLOCK
    for first in range(0, rows, step):
        part = weight[first : first + step]
        _refuse_non_finite(part, first)
        q, scales, part_error = _quantise_groups(part.reshape(-1, format.group), format)
        write_rows(matrix, first, q.view(part.shape), scales.view(part.shape[0], -1))
        error += part_error
    return matrix, error


def _quantise_groups(groups: Tensor, format: Format) -> tuple[Tensor, Tensor, QuantisationError]:
    """Groups [n, G] as int8 [n, G] and scales [n, 1] in the format's dtype."""
    layout, dtype = layout_of(format), FLOATS[format.scale]
    q = torch.empty(groups.shape, dtype=torch.int8, device=groups.device)
    scales = torch.empty((groups.shape[0], 1), dtype=dtype, device=groups.device)
    step, error = PIECE // format.group, QuantisationError()
    for piece, q_piece, scale_piece in zip(groups.split(step), q.split(step), scales.split(step), strict=True):
        wide = piece.float()
        scale = _search(wide, layout, dtype)
        rounded = _round(wide, scale, layout)
        q_piece.copy_(rounded)
        scale_piece.copy_(scale.masked_fill(_extreme(wide) == 0, 0))
        error += QuantisationError(_squares(rounded.mul_(scale).sub_(wide)), _squares(wide))
    return q, scales, error


def _search(groups: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """The best scale, not 0, of each of the groups [n, G]: fp32 [n, 1], each exact in `dtype`."""
    divisors = groups.new_tensor(layout.divisors)[:, None, None]
    scales = _representable(_extreme(groups) / divisors, dtype)  # [divisors, n, 1]
    least, choice = torch.stack([_distance(groups, scale, layout) for scale in scales]).min(dim=0)
    best = scales.gather(0, choice[None])[0]
    for _ in range(REFINEMENTS):
        scale = _representable(_least_squares(groups, best, layout), dtype)
        distance = _distance(groups, scale, layout)
        best = torch.where(distance < least, scale, best)
        least = torch.minimum(distance, least)
    return best


def _extreme(groups: Tensor) -> Tensor:
    """The weight farthest from 0 in each group [n, G], with its sign: [n, 1]."""
    high, low = groups.amax(-1, keepdim=True), groups.amin(-1, keepdim=True)
    return torch.where(-low > high, low, high)


def _representable(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The scale that will be stored, back in fp32: finite, and not 0 so that it can divide."""
    limits = torch.finfo(dtype)
    stored = scale.clamp(-limits.max, limits.max).to(dtype).float()
    return stored.masked_fill_(stored == 0, limits.tiny * limits.eps)


def _round(groups: Tensor, scale: Tensor, layout: Layout) -> Tensor:
    """q of the groups [n, G] at the scales [n, 1], as floats."""
    return (groups / scale).round_().clamp_(layout.lowest, layout.highest)


def _distance(groups: Tensor, scale: Tensor, layout: Layout) -> Tensor:
    """Root of the squared error of each group: [n, 1]."""
    left = _round(groups, scale, layout).mul_(scale).sub_(groups)
    norms: Tensor = torch.linalg.vector_norm(left, dim=-1, keepdim=True)
    return norms


def _least_squares(groups: Tensor, scale: Tensor, layout: Layout) -> Tensor:
    """The real scale [n, 1] that is best for the integers that the given one leads to."""
    q = _round(groups, scale, layout)
    products, squares = (q * groups).sum(-1, keepdim=True), q.square_().sum(-1, keepdim=True)
    return torch.div(products, squares.clamp_min_(1.0))


def _squares(x: Tensor) -> float:
    return float(x.double().square_().sum())


def _refuse_non_finite(weight: Tensor, first: int) -> None:
    for start, piece in enumerate(weight.split(ROW_BLOCK)):
        if not math.isfinite(float(piece.abs().max())):
            row, column = (int(place) for place in piece.isfinite().logical_not().nonzero()[0])
            raise FormatError(
                f"the weight at row {first + start * ROW_BLOCK + row}, column {column} is not finite: "
                "the checkpoint is damaged, fetch it again"
            )
