"""Logits and greedy tokens against those that an independent implementation stored (tests/golden)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from runtime.config import ModelConfig
from runtime.model import DecoderModel
from tests.golden.shapes import DATA, GREEDY_TOKENS, SHAPES, config_of, weights_of
from tests.runtime.model_steps import greedy_tokens, load, make_cache, run, save_checkpoint

TOLERANCE = 1e-4


def stored(name: str) -> dict[str, Tensor]:
    return load_file(DATA / f"{name}.safetensors")


def golden_model(name: str, path: Path, weights: dict[str, Tensor] | None = None) -> DecoderModel:
    save_checkpoint(path, weights_of(name) if weights is None else weights)
    return load(path, ModelConfig.from_dict(config_of(name)))


@pytest.mark.parametrize("name", SHAPES)
def test_logits_agree(name: str, tmp_path: Path) -> None:
    golden, model = stored(name), golden_model(name, tmp_path)
    logits = run(model, make_cache(model), [(0, golden["input_ids"].tolist(), 0)])
    error = (logits - golden["logits"]).abs().max().item()
    assert error < TOLERANCE


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_tokens_agree(name: str, tmp_path: Path) -> None:
    golden, model = stored(name), golden_model(name, tmp_path)
    assert greedy_tokens(model, golden["input_ids"].tolist(), GREEDY_TOKENS) == golden["greedy"].tolist()


def test_permuted_query_heads_are_seen(tmp_path: Path) -> None:
    name = "one_dense_layer"
    golden, weights = stored(name), weights_of(name)
    fused = weights["model.layers.1.attention.query_key_value.weight"]
    fused[:32] = torch.cat((fused[16:32], fused[:16]))
    model = golden_model(name, tmp_path, weights)
    logits = run(model, make_cache(model), [(0, golden["input_ids"].tolist(), 0)])
    assert (logits - golden["logits"]).abs().max() > 100 * TOLERANCE


def test_data_is_small() -> None:
    assert sum(file.stat().st_size for file in DATA.iterdir()) < 1_500_000
