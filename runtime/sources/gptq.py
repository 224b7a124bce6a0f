"""int4 as GPTQ stores it: transposed, eight input rows to a word, unsigned; version 1 stores zero points less one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

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

# What is added to a stored zero point, by `checkpoint_format`.
ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


@dataclass(frozen=True)
class GPTQ(IntegerWeight):
    """q, scales and zero points; where the checkpoint is symmetric every zero point is 8, which is 0 once signed."""

    kind: ClassVar[str] = "GPTQ int4"

    qweight: StoredTensor  # [K/8, N]
    scales: StoredTensor  # [K/G, N]
    qzeros: StoredTensor  # [K/G, N/8]
    zero_offset: int

    def rows(self, start: int, stop: int) -> Matrix:
        q = signed(low_nibbles_first(self.qweight.read_columns(start, stop).T))
        scales = self.scales.read_columns(start, stop).T.contiguous()
        zeros = signed(low_nibbles_first(self.qzeros.read_columns(start // 8, stop // 8)) + self.zero_offset)
        if self.format.zeros:
            return assemble(self.format, q, scales, zeros.T.contiguous())
        if torch.count_nonzero(zeros):
            raise unsupported(self.spec, f"{self.qzeros.name} holds other zero points than 8, and sym is true")
        return assemble(self.format, q, scales, None)


def claim(spec: TensorSpec, stored: Stored, settings: Settings) -> GPTQ | None:
    """The weight, where it is stored so. Raises CheckpointError where it is not 4 bit, or in another order."""
    base = spec.name.removesuffix(".weight")
    qweight = stored.get(f"{base}.qweight")
    if qweight is None:
        return None
    if settings.get("quant_method") == "awq":
        raise unsupported(spec, "it is AWQ int4")
    rows, columns = spec.shape
    require_shape(spec, qweight, (columns // 8, rows), ("I32",))
    scales, qzeros = (require(spec, stored, f"{base}.{part}") for part in ("scales", "qzeros"))
    groups = scales.shape[0] if scales.shape else 0
    format = int4_format(spec, scales, groups, zeros=settings.get("sym") is not True)
    require_shape(spec, scales, (groups, rows), (scales.dtype,))
    require_shape(spec, qzeros, (groups, rows // 8), ("I32",))
    order = stored.get(f"{base}.g_idx")
    require_no_order(spec, order, format.group)
    used = (qweight, scales, qzeros) if order is None else (qweight, scales, qzeros, order)
    return GPTQ(spec, used, format, qweight, scales, qzeros, _zero_offset(spec, settings))


def _zero_offset(spec: TensorSpec, settings: Settings) -> int:
    version = settings.get("checkpoint_format") or "gptq"
    if version not in ZERO_OFFSETS:
        raise unsupported(spec, f"quantization_config has checkpoint_format {version!r}")
    return ZERO_OFFSETS[version]
