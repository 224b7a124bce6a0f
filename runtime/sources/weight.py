"""One weight matrix of a checkpoint, whatever its format: floats to be quantised, or integers to be kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kernels.formats import Format, FormatError, Matrix
from runtime.checkpoint import TensorSpec
from runtime.errors import CheckpointError
from runtime.shards import StoredTensor

# Every tensor of a checkpoint by name, and its quantization_config.
Stored = Mapping[str, StoredTensor]
Settings = Mapping[str, Any]

USE_ANOTHER = "Use another copy of the model: bf16, block FP8, or int4 of a kind that docs/pack.md lists."

SCALE_TYPES = {"BF16": "bf16", "F16": "fp16"}


@dataclass(frozen=True)
class FloatWeight(ABC):
    """A matrix [rows, columns] of floats, in the tensors `stored`."""

    kind: ClassVar[str]

    spec: TensorSpec
    stored: tuple[StoredTensor, ...]

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The number type that keeps these weights as they are, or nearly so."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Rows in fp32, or in their own type."""


@dataclass(frozen=True)
class IntegerWeight(ABC):
    """A matrix of 4-bit integers with scales, in the tensors `stored`: packed as it is, in `format`."""

    kind: ClassVar[str]

    spec: TensorSpec
    stored: tuple[StoredTensor, ...]
    format: Format

    @abstractmethod
    def rows(self, start: int, stop: int) -> Matrix:
        """Rows; both bounds are multiples of 16."""


Weight = FloatWeight | IntegerWeight


def unsupported(spec: TensorSpec, why: str) -> CheckpointError:
    return CheckpointError(f"{spec.name} cannot be packed: {why}", USE_ANOTHER)


def require_shape(spec: TensorSpec, tensor: StoredTensor, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    """Raises CheckpointError for a tensor of another shape or type."""
    if tensor.shape != shape or tensor.dtype not in dtypes:
        raise unsupported(
            spec,
            f"{tensor.name} is {list(tensor.shape)} {tensor.dtype}, expected {list(shape)} {' or '.join(dtypes)}",
        )


def require(spec: TensorSpec, stored: Stored, name: str) -> StoredTensor:
    """A tensor that this one does not go without. Raises CheckpointError."""
    if name not in stored:
        raise unsupported(spec, f"the checkpoint lacks {name}")
    return stored[name]


def int4_format(spec: TensorSpec, scale: StoredTensor, groups: int, *, zeros: bool) -> Format:
    """The format that keeps a matrix whose rows have `groups` scales each. Raises CheckpointError."""
    rows, columns = spec.shape
    if scale.dtype not in SCALE_TYPES:
        raise unsupported(spec, f"{scale.name} is {scale.dtype}, and scales are kept in BF16 or F16")
    if groups == 0 or columns % groups:
        raise unsupported(spec, f"its {columns} columns do not divide into {groups} groups")
    try:
        format = Format(4, columns // groups, SCALE_TYPES[scale.dtype], zeros=zeros)
        format.check(rows, columns)
    except FormatError as error:
        raise unsupported(spec, str(error)) from error
    return format


def require_no_order(spec: TensorSpec, order: StoredTensor | None, group: int) -> None:
    """Refuses columns whose groups are not consecutive; a g_idx that says j // group says nothing."""
    if order is None:
        return
    require_shape(spec, order, (spec.shape[1],), ("I32", "I64"))
    if not torch.equal(order.read().long(), torch.arange(spec.shape[1]) // group):
        raise unsupported(spec, f"{order.name} sorts its columns by activation (desc_act, actorder 'group')")


def low_nibbles_first(words: Tensor) -> Tensor:
    """The eight nibbles of each int32 along the last dimension, lowest first: uint8 [..., 8 x words]."""
    octets = words.contiguous().view(torch.uint8)
    return torch.stack((octets & 15, octets >> 4), dim=-1).flatten(-2)


def signed(nibbles: Tensor) -> Tensor:
    """Nibbles 0 to 15 as -8 to 7."""
    return nibbles.to(torch.int8) - 8
