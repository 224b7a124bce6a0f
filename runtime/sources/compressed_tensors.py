"""int4 as compressed-tensors packs it ("pack-quantized"): eight columns to a word, zero points packed along rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kernels.formats import Matrix, assemble
from runtime.checkpoint import TensorSpec
from runtime.shards import StoredTensor
from runtime.sources.weight import (
    IntegerWeight,
    Settings,
    Stored,
    int4_format,
    low_nibbles_first,
    require,
    require_no_order,
    require_shape,
    signed,
    unsupported,
)


@dataclass(frozen=True)
class PackQuantized(IntegerWeight):
    """Nibbles, scales and zero points where asymmetric; all are stored as value + 8."""

    kind: ClassVar[str] = "compressed-tensors int4"

    packed: StoredTensor  # [N, K/8]
    scale: StoredTensor  # [N, K/G]
    zero_point: StoredTensor | None  # [N/8, K/G]

    def rows(self, start: int, stop: int) -> Matrix:
        q = signed(low_nibbles_first(self.packed.read(start, stop)))
        return assemble(self.format, q, self.scale.read(start, stop), self._zeros(start, stop))

    def _zeros(self, start: int, stop: int) -> Tensor | None:
        if self.zero_point is None:
            return None
        words = self.zero_point.read(start // 8, stop // 8)
        return signed(low_nibbles_first(words.T)).T.contiguous()


def claim(spec: TensorSpec, stored: Stored, settings: Settings) -> PackQuantized | None:
    """The weight, where it is stored so. Raises CheckpointError where it is not 4 bit, or in another order."""
    name = spec.name
    packed = stored.get(f"{name}_packed")
    if packed is None:
        return None
    rows, columns = spec.shape
    require_shape(spec, packed, (rows, -(-columns // 8)), ("I32",))
    scale, zero_point = require(spec, stored, f"{name}_scale"), stored.get(f"{name}_zero_point")
    groups = scale.shape[1] if len(scale.shape) == 2 else 0
    format = int4_format(spec, scale, groups, zeros=zero_point is not None)
    require_shape(spec, scale, (rows, groups), (scale.dtype,))
    if zero_point is not None:
        require_shape(spec, zero_point, (rows // 8, groups), ("I32",))
    order, shape = stored.get(f"{name}_g_idx"), stored.get(f"{name}_shape")
    require_no_order(spec, order, format.group)
    _require_true_shape(spec, shape)
    used = tuple(tensor for tensor in (packed, scale, zero_point, order, shape) if tensor is not None)
    return PackQuantized(spec, used, format, packed, scale, zero_point)


def _require_true_shape(spec: TensorSpec, shape: StoredTensor | None) -> None:
    if shape is None:
        return
    require_shape(spec, shape, (2,), ("I64", "I32"))
    if tuple(shape.read().tolist()) != spec.shape:
        raise unsupported(spec, f"{shape.name} says {shape.read().tolist()}, the config calls for {list(spec.shape)}")
