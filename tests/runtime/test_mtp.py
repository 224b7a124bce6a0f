"""The layer that predicts the token after next, against golden logits; mistakes in it must not pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from runtime.config import ModelConfig
from runtime.model import DecoderModel
from tests.golden.shapes import DATA, SHAPES, config_of, weights_of
from tests.runtime.model_steps import BLOCKS_PER_SEQUENCE, load, make_batch, make_cache, save_checkpoint

TOLERANCE = 1e-4
WITH_MTP = [name for name in SHAPES if config_of(name)["num_nextn_predict_layers"]]


def golden_error(name: str, path: Path, weights: dict[str, Tensor], *, shift: int = 0) -> float:
    """Largest difference of the MTP logits; `shift` is added to the positions that the MTP layer is told."""
    golden = load_file(DATA / f"{name}.safetensors")
    model = load(save_checkpoint(path, weights), ModelConfig.from_dict(config_of(name)))
    ids = golden["input_ids"]
    cache, batch = make_cache(model), make_batch([(0, ids.tolist(), 0)])
    hidden = model.forward(batch, cache)
    following = torch.cat((ids[1:], golden["greedy"][:1]))
    shifted = replace(batch, positions=batch.positions + shift)
    drafted = model.mtp_forward(hidden, following, shifted, cache)
    return float((model.logits(drafted) - golden["mtp_logits"]).abs().max())


@pytest.mark.parametrize("name", WITH_MTP)
def test_logits_agree(name: str, tmp_path: Path) -> None:
    error = golden_error(name, tmp_path, weights_of(name))
    assert error < TOLERANCE


def swap_halves(weights: dict[str, Tensor], config: dict[str, int]) -> None:
    name = f"model.layers.{config['num_hidden_layers']}.eh_proj.weight"
    weights[name] = weights[name].roll(config["hidden_size"], 1)


@pytest.mark.parametrize("name", WITH_MTP)
def test_hidden_before_embedding_fails(name: str, tmp_path: Path) -> None:
    weights = weights_of(name)
    swap_halves(weights, config_of(name))
    assert golden_error(name, tmp_path, weights) > 100 * TOLERANCE


@pytest.mark.parametrize("name", WITH_MTP)
def test_swapped_norms_fail(name: str, tmp_path: Path) -> None:
    weights = weights_of(name)
    prefix = f"model.layers.{config_of(name)['num_hidden_layers']}"
    first, second = f"{prefix}.enorm.weight", f"{prefix}.hnorm.weight"
    weights[first], weights[second] = weights[second], weights[first]
    assert golden_error(name, tmp_path, weights) > 10 * TOLERANCE


def test_position_of_the_next_token_fails(tmp_path: Path) -> None:
    """Rotary attention sees differences only, so a shift shows where early and late rows are told apart:
    row t against cached keys of t + 1, as when drafting continues a cache written with true positions."""
    name = "eight_groups_mtp"
    golden = load_file(DATA / f"{name}.safetensors")
    model = load(save_checkpoint(tmp_path, weights_of(name)), ModelConfig.from_dict(config_of(name)))
    assert drafted_error(model, golden, shift=0) < TOLERANCE
    assert drafted_error(model, golden, shift=1) > 10 * TOLERANCE


def drafted_error(model: DecoderModel, golden: dict[str, Tensor], *, shift: int) -> float:
    """All but the last row at their own positions, then the last one, `shift` further."""
    ids, cache = golden["input_ids"], make_cache(model)
    following = torch.cat((ids[1:], golden["greedy"][:1]))
    batches = [make_batch([(0, ids[:-1].tolist(), 0)]), make_batch([(0, ids[-1:].tolist(), len(ids) - 1)])]
    hidden = [model.forward(batch, cache) for batch in batches]
    model.mtp_forward(hidden[0], following[:-1], batches[0], cache)
    last = replace(batches[1], positions=batches[1].positions + shift)
    drafted = model.mtp_forward(hidden[1], following[-1:], last, cache)
    return float((model.logits(drafted) - golden["mtp_logits"][-1:]).abs().max())


@pytest.mark.parametrize("declared", [0, 1])
def test_is_found_by_its_tensors(declared: int, tmp_path: Path) -> None:
    """Whatever config.json says: the files decide."""
    weights = weights_of("eight_groups_mtp")
    config = ModelConfig.from_dict(config_of("eight_groups_mtp") | {"num_nextn_predict_layers": declared})
    model = load(save_checkpoint(tmp_path / "with", weights), config)
    assert model.has_mtp
    assert model.config.num_nextn_predict_layers == 1
    assert model.cache_layers == config.num_hidden_layers + 1
    without = {k: v for k, v in weights.items() if not k.startswith(f"model.layers.{config.num_hidden_layers}.")}
    model = load(save_checkpoint(tmp_path / "without", without), config)
    assert not model.has_mtp
    assert model.cache_layers == config.num_hidden_layers


def test_drafting_leaves_the_decoder_cache_alone(tmp_path: Path) -> None:
    name = "eight_groups_mtp"
    model = load(save_checkpoint(tmp_path, weights_of(name)), ModelConfig.from_dict(config_of(name)))
    cache, batch = make_cache(model), make_batch([(0, [1, 2, 3], 0)])
    hidden = model.forward(batch, cache)
    before = cache.keys.clone()
    model.mtp_forward(hidden, torch.tensor([2, 3, 4]), batch, cache)
    assert torch.equal(cache.keys[:-1], before[:-1])
    assert not torch.equal(cache.keys[-1], before[-1])
    assert cache.keys.shape[1] == 4 * BLOCKS_PER_SEQUENCE
