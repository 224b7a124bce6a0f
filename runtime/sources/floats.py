"""Weights in bf16, fp16 or fp32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from runtime.checkpoint import TensorSpec
from runtime.shards import NUMBER_TYPES
from runtime.sources.weight import FloatWeight, Settings, Stored, require_shape


@dataclass(frozen=True)
class PlainFloats(FloatWeight):
    """The rows of one tensor."""

    kind: ClassVar[str] = "floats"

    @property
    def dtype(self) -> torch.dtype:
        return NUMBER_TYPES[self.stored[0].dtype]

    def rows(self, start: int, stop: int) -> Tensor:
        return self.stored[0].read(start, stop)


def claim(spec: TensorSpec, stored: Stored, settings: Settings) -> PlainFloats | None:
    """The weight, where it is stored as floats. Raises CheckpointError for another shape or type."""
    tensor = stored.get(spec.name)
    if tensor is None:
        return None
    require_shape(spec, tensor, spec.shape, tuple(NUMBER_TYPES))
    return PlainFloats(spec, (tensor,))
