"""Tiny checkpoints in every format that is packed, beside the weights they stand for, made the slow and plain way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.runtime.tiny import make_tiny_checkpoint

WIDE = {"moe_intermediate_size": 128, "moe_shared_expert_intermediate_size": 128}
LINEAR = ("query_key_value.weight", "dense.weight", "gate_proj.weight", "up_proj.weight", "down_proj.weight")

# Takes a weight's name and shape; gives what is stored in its place, by suffix of the name, and what it stands for.
Encode = Callable[[str, tuple[int, int]], tuple[dict[str, Tensor], Tensor]]


@dataclass(frozen=True)
class Stored:
    """A checkpoint, and the fp32 weights that its quantised matrices stand for, by name."""

    path: Path
    weights: dict[str, Tensor]


def encoded(path: Path, encode: Encode, settings: dict[str, Any], **overrides: Any) -> Stored:
    """A tiny checkpoint whose linear layers are stored by `encode`; `settings` are its quantization_config."""
    make_tiny_checkpoint(path, dtype=torch.bfloat16, **(WIDE | overrides))
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in load_file(path / "model.safetensors").items():
        if not name.endswith(LINEAR):
            tensors[name] = tensor
            continue
        rows, columns = tensor.shape
        parts, weights[name] = encode(name, (rows, columns))
        tensors |= {name.removesuffix("weight") + suffix: part.contiguous() for suffix, part in parts.items()}
    save_file(tensors, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return Stored(path, weights)


@dataclass(frozen=True)
class Int4:
    """What int4 weights are drawn as: group, scale type, and whether they have zero points."""

    group: int
    scale: torch.dtype
    symmetric: bool

    def draw(self, name: str, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Nibbles 0 to 15 [N, K], scales [N, K/G], zero nibbles 0 to 15 [N, K/G]."""
        rows, columns = shape
        generator = torch.Generator().manual_seed(sum(name.encode()))
        groups = (rows, columns // self.group)
        q = torch.randint(0, 16, shape, generator=generator)
        scales = (torch.rand(groups, generator=generator) * 0.02 + 1e-4).to(self.scale)
        zeros = torch.full(groups, 8) if self.symmetric else torch.randint(0, 16, groups, generator=generator)
        return q, scales, zeros

    def weight(self, q: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        """(q - z) * scale in fp32, whatever integers q and z start from."""
        wide = [part.float().repeat_interleave(self.group, 1) for part in (zeros, scales)]
        return (q.float() - wide[0]) * wide[1]


def words(nibbles: Tensor) -> Tensor:
    """int32 words of eight nibbles each along the last dimension, the first in the lowest bits."""
    packed = torch.zeros(*nibbles.shape[:-1], nibbles.shape[-1] // 8, dtype=torch.int64)
    for k in range(8):
        packed |= nibbles[..., k::8].long() << (4 * k)
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)


def compressed_tensors(int4: Int4, order: Callable[[int], Tensor] | None = None) -> Encode:
    """pack-quantized; `order` makes a g_idx of the number of columns."""

    def encode(name: str, shape: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
        q, scales, zeros = int4.draw(name, shape)
        parts = {
            "weight_packed": words(q),
            "weight_scale": scales,
            "weight_shape": torch.tensor(shape),
        }
        if not int4.symmetric:
            parts["weight_zero_point"] = words(zeros.T).T
        if order is not None:
            parts["weight_g_idx"] = order(shape[1])
        return parts, int4.weight(q, scales, zeros)

    return encode


def gptq(int4: Int4, version: str, order: Callable[[int], Tensor] | None = None) -> Encode:
    """`version` gptq stores zero points less one, gptq_v2 as they are."""

    def encode(name: str, shape: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
        q, scales, stored = int4.draw(name, shape)
        if version == "gptq" and int4.symmetric:
            stored = stored - 1
        parts = {"qweight": words(q).T, "scales": scales.T, "qzeros": words(stored.T)}
        if order is not None:
            parts["g_idx"] = order(shape[1])
        return parts, int4.weight(q, scales, stored + (version == "gptq"))

    return encode


def block_fp8(name: str, shape: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
    """Weights in e4m3 with a factor for each block of 128 by 128, cut off at the edges."""
    rows, columns = shape
    generator = torch.Generator().manual_seed(sum(name.encode()))
    weight = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    factors = torch.rand(-(-rows // 128), -(-columns // 128), generator=generator) * 0.02
    wide = torch.empty(shape)
    for i in range(rows):
        for j in range(0, columns, 128):
            wide[i, j : j + 128] = weight[i, j : j + 128].float() * factors[i // 128, j // 128]
    return {"weight": weight, "weight_scale_inv": factors}, wide
