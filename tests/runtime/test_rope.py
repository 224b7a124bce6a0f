"""Rotary tables against the values of the model's reference (section 5)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from runtime.config import ModelConfig
from runtime.rope import RopeTable, inverse_frequencies
from tests.runtime.tiny import tiny_config

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
CPU = torch.device("cpu")

# pair: (plain, YaRN) for 64 rotated dimensions and base 600000
FREQUENCIES = {
    0: (1.0, 1.0),
    12: (6.810723999e-3, 6.810723999e-3),
    13: (4.493927426e-3, 4.119433473e-3),
    16: (1.290994449e-3, 8.606629658e-4),
    20: (2.447121138e-4, 8.157070461e-5),
    21: (1.614686603e-4, 4.036716507e-5),
    31: (2.525898972e-6, 6.314747431e-7),
}


def config(**overrides: Any) -> ModelConfig:
    return ModelConfig.from_dict(tiny_config(head_dim=128, max_position_embeddings=32768, **overrides))


@pytest.mark.parametrize(("pair", "expected"), FREQUENCIES.items())
def test_frequencies(pair: int, expected: tuple[float, float]) -> None:
    plain = inverse_frequencies(config())
    yarn = inverse_frequencies(config(rope_scaling=YARN))
    assert plain.shape == yarn.shape == (32,)
    assert plain[pair].item() == pytest.approx(expected[0], rel=1e-6)
    assert yarn[pair].item() == pytest.approx(expected[1], rel=1e-6)


def test_table_is_scaled_by_the_attention_factor() -> None:
    table = RopeTable.build(config(rope_scaling=YARN), 10, torch.float32, CPU)
    factor = 1.1386294361
    assert table.cos[0].tolist() == pytest.approx([factor] * 32, rel=1e-6)
    assert torch.allclose(table.cos**2 + table.sin**2, torch.tensor(factor**2), atol=1e-5)
    plain = RopeTable.build(config(), 10, torch.float32, CPU)
    assert plain.cos[3, 0].item() == pytest.approx(math.cos(3.0), abs=1e-6)
    assert plain.sin[3, 1].item() == pytest.approx(math.sin(3.0 * 600000 ** (-2 / 64)), abs=1e-6)


def test_factor_is_explicit_whatever_max_position_embeddings_says() -> None:
    for positions in (32768, 131072):
        scaled = ModelConfig.from_dict(tiny_config(head_dim=128, max_position_embeddings=positions, rope_scaling=YARN))
        assert inverse_frequencies(scaled)[31].item() == pytest.approx(FREQUENCIES[31][1], rel=1e-6)
        assert scaled.context == 131072


def test_original_length_defaults_to_max_position_embeddings() -> None:
    scaled = config(rope_scaling={"rope_type": "yarn", "factor": 4.0})
    assert torch.equal(inverse_frequencies(scaled), inverse_frequencies(config(rope_scaling=YARN)))
    assert scaled.context == 131072


def test_given_attention_factors() -> None:
    given = config(rope_scaling=YARN | {"attention_factor": 1.5}).rope_scaling
    assert given is not None
    assert given.attention_factor == 1.5
    both = config(rope_scaling=YARN | {"mscale": 2.0, "mscale_all_dim": 1.0}).rope_scaling
    growth = 0.1 * math.log(4.0)
    assert both is not None
    assert both.attention_factor == pytest.approx((2 * growth + 1) / (growth + 1))
