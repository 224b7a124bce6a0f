"""Rotary positions: the cosine and sine of every position's angles, plain or stretched by YaRN."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.config import ModelConfig, RopeScaling


@dataclass(frozen=True)
class RopeTable:
    """Cosines and sines, [positions, R/2] each, already times YaRN's attention factor."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def build(cls, config: ModelConfig, positions: int, dtype: torch.dtype, device: torch.device) -> RopeTable:
        """Angles are fp32 products of position and frequency."""
        factor = 1.0 if config.rope_scaling is None else config.rope_scaling.attention_factor
        angles = torch.arange(positions, dtype=torch.float32)[:, None] * inverse_frequencies(config)
        cos, sin = angles.cos() * factor, angles.sin() * factor
        return cls(cos.to(device, dtype), sin.to(device, dtype))


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each rotated pair: fp32 [R/2]."""
    width, base = config.rotary_dim, config.rope_theta
    plain = 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
    if config.rope_scaling is None:
        return plain
    ramp = _yarn_ramp(config.rope_scaling, width, base)
    return plain / config.rope_scaling.factor * ramp + plain * (1 - ramp)


def _yarn_ramp(scaling: RopeScaling, width: int, base: float) -> Tensor:
    """0 for pairs that turn often enough to be kept, 1 for those that are stretched."""
    low = max(math.floor(_pair_of_turns(scaling.beta_fast, scaling, width, base)), 0)
    high = min(math.ceil(_pair_of_turns(scaling.beta_slow, scaling, width, base)), width - 1)
    span = (high - low) or 0.001
    return ((torch.arange(width // 2, dtype=torch.float32) - low) / span).clamp(0, 1)


def _pair_of_turns(turns: float, scaling: RopeScaling, width: int, base: float) -> float:
    """The pair, as a real number, that makes this many turns within the original context."""
    length = scaling.original_max_position_embeddings
    return width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))
