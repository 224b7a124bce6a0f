"""FP8 as the model's authors export it: e4m3 weights, and one fp32 factor per block of 128 by 128."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from runtime.checkpoint import TensorSpec
from runtime.sources.weight import FloatWeight, Settings, Stored, require_shape, unsupported

BLOCK = (128, 128)


@dataclass(frozen=True)
class BlockFP8(FloatWeight):
    """W[i, j] = fp8[i, j] * scale_inv[i // block rows, j // block columns]; scale_inv is a factor, despite its name."""

    kind: ClassVar[str] = "block FP8"

    block: tuple[int, int]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    def rows(self, start: int, stop: int) -> Tensor:
        weight, factors = self.stored
        high, wide = self.block
        first, last = start // high, -(-stop // high)
        per_row = factors.read(first, last).repeat_interleave(high, dim=0)[start - first * high : stop - first * high]
        return weight.read(start, stop).float() * per_row.repeat_interleave(wide, dim=1)[:, : self.spec.shape[1]]


def claim(spec: TensorSpec, stored: Stored, settings: Settings) -> BlockFP8 | None:
    """The weight, where it is stored as FP8. Raises CheckpointError where its factors are not per block."""
    weight, factors = stored.get(spec.name), stored.get(f"{spec.name}_scale_inv")
    if weight is None or not (weight.dtype.startswith("F8_") or factors is not None):
        return None
    if factors is None:
        raise unsupported(spec, f"it is {weight.dtype} without {spec.name}_scale_inv, so not FP8 in blocks")
    rows, columns = spec.shape
    high, wide = _block(spec, settings)
    require_shape(spec, weight, spec.shape, ("F8_E4M3",))
    require_shape(spec, factors, (-(-rows // high), -(-columns // wide)), ("F32",))
    return BlockFP8(spec, (weight, factors), (high, wide))


def _block(spec: TensorSpec, settings: Settings) -> tuple[int, int]:
    block = settings.get("weight_block_size") or BLOCK
    if len(block) != 2 or not all(isinstance(size, int) and size > 0 for size in block):
        raise unsupported(spec, f"quantization_config has weight_block_size {block!r}")
    return block[0], block[1]
