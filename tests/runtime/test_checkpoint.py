"""Checkpoints: the inventory of the real models, and every way in which a directory can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.checkpoint import Checkpoint, TensorSpec, expected_tensors
from runtime.config import ModelConfig
from runtime.errors import CheckpointError
from runtime.shards import INDEX
from tests.runtime.model_steps import load, make_cache, run
from tests.runtime.test_config import LING_FLASH
from tests.runtime.tiny import make_tiny_checkpoint

LING_MINI = LING_FLASH | {
    "num_hidden_layers": 20,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "moe_intermediate_size": 512,
    "moe_shared_expert_intermediate_size": 512,
    "num_attention_heads": 16,
}

# tensors, bf16 elements, fp32 elements
FINGERPRINTS = [
    (LING_FLASH, 24_161, 102_889_697_280, 7_936),
    (LING_FLASH | {"num_nextn_predict_layers": 1}, 24_944, 102_889_697_280 + 3_306_180_864, 7_936 + 256),
    (LING_MINI, 14_813, 16_255_638_528, 4_864),
]


@pytest.mark.parametrize(("config", "tensors", "bf16", "fp32"), FINGERPRINTS)
def test_inventory_of_the_real_models(config: dict[str, Any], tensors: int, bf16: int, fp32: int) -> None:
    specs = list(expected_tensors(ModelConfig.from_dict(config)))
    assert len({spec.name for spec in specs}) == len(specs) == tensors
    assert sum(spec.elements for spec in specs if not spec.float32) == bf16
    assert sum(spec.elements for spec in specs if spec.float32) == fp32


def test_names_and_shapes_of_the_real_model() -> None:
    specs = {s.name: s for s in expected_tensors(ModelConfig.from_dict(LING_FLASH | {"num_nextn_predict_layers": 1}))}
    for name, shape in {
        "model.word_embeddings.weight": (157184, 4096),
        "model.layers.0.mlp.up_proj.weight": (9216, 4096),
        "model.layers.31.attention.query_key_value.weight": (5120, 4096),
        "model.layers.31.attention.key_layernorm.weight": (128,),
        "model.layers.1.mlp.gate.weight": (256, 4096),
        "model.layers.1.mlp.experts.255.down_proj.weight": (4096, 1024),
        "model.layers.1.mlp.shared_experts.gate_proj.weight": (1024, 4096),
        "model.layers.32.eh_proj.weight": (4096, 8192),
        "model.layers.32.final_layernorm.weight": (4096,),
    }.items():
        assert specs[name] == TensorSpec(name, shape)
    assert specs["model.layers.1.mlp.gate.expert_bias"] == TensorSpec(
        "model.layers.1.mlp.gate.expert_bias", (256,), True
    )


Change = Callable[[dict[str, Tensor]], None]


def changed(path: Path, change: Change) -> tuple[Path, ModelConfig]:
    make_tiny_checkpoint(path)
    file = path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)
    return path, ModelConfig.from_directory(path)


def test_every_problem_is_listed_before_anything_is_read(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["model.norm.weight"]
        tensors["model.layers.1.mlp.gate.weight"] = torch.zeros(4, 128)
        tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int8)
        tensors["model.layers.9.odd.weight"] = torch.zeros(3)

    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(*changed(tmp_path, change))
    text = raised.value.message
    assert re.search(r"missing +model\.norm\.weight: expected \[128\], found none", text)
    assert re.search(r"shape +model\.layers\.1\.mlp\.gate\.weight: expected \[8, 128\], found \[4, 128\]", text)
    assert re.search(r"type +lm_head\.weight: expected one of BF16, F16, F32, found I8", text)
    assert re.search(r"extra +model\.layers\.9\.odd\.weight: found \[3\] F32", text)
    assert "Download" in raised.value.remedy


def test_a_partial_mtp_layer_is_missing_the_rest(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["model.layers.3.hnorm.weight"]

    with pytest.raises(CheckpointError, match=r"missing +model\.layers\.3\.hnorm\.weight"):
        Checkpoint.open(*changed(tmp_path, change))


def test_names_of_no_use_are_skipped(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.attention.rotary_emb.inv_freq"] = torch.zeros(4)
        tensors["v_head.weight"] = torch.zeros(4)
        tensors["model.layers.3.embed_tokens.weight"] = torch.zeros(4, 4)
        tensors["model.layers.3.shared_head.head.weight"] = torch.zeros(4, 4)

    assert Checkpoint.open(*changed(tmp_path, change)).config.num_nextn_predict_layers == 1


@pytest.mark.parametrize("cut", [-1, -1000, 5, 300])
def test_truncated_shard(tmp_path: Path, cut: int) -> None:
    make_tiny_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged") as raised:
        Checkpoint.open(tmp_path, ModelConfig.from_directory(tmp_path))
    assert raised.value.remedy == "Download model.safetensors again."


def test_corrupt_header(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[8:40] = b"\xff" * 32
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="header"):
        Checkpoint.open(tmp_path, ModelConfig.from_directory(tmp_path))


def sharded(path: Path) -> Path:
    make_tiny_checkpoint(path)
    tensors = load_file(path / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, chosen in halves.items():
        save_file({name: tensors[name].clone() for name in chosen}, path / file)
    weight_map = {name: file for file, chosen in halves.items() for name in chosen}
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (path / "model.safetensors").unlink()
    return path


def test_sharded_equals_single(tmp_path: Path) -> None:
    single = make_tiny_checkpoint(tmp_path / "single")
    models = [load(path, ModelConfig.from_directory(path)) for path in (single, sharded(tmp_path / "sharded"))]
    logits = [run(model, make_cache(model), [(0, [1, 2, 3], 0)]) for model in models]
    assert torch.equal(*logits)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    (sharded(tmp_path) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of 2 shards: model-00002-of-00002\.safetensors"):
        Checkpoint.open(tmp_path, ModelConfig.from_directory(tmp_path))


def test_damaged_index_and_empty_directory(tmp_path: Path) -> None:
    config = ModelConfig.from_directory(make_tiny_checkpoint(tmp_path / "model"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no safetensors file"):
        Checkpoint.open(tmp_path / "empty", config)
    (tmp_path / "model" / INDEX).write_text("{}")
    with pytest.raises(CheckpointError, match="index"):
        Checkpoint.open(tmp_path / "model", config)


QUANTISED = [
    ("weight_scale_inv", torch.float32, "block FP8"),
    ("weight_packed", torch.int32, "int4"),
    ("qweight", torch.int32, "GPTQ"),
]


@pytest.mark.parametrize(("suffix", "dtype", "named"), QUANTISED)
def test_quantised_weights_are_refused_by_name(tmp_path: Path, suffix: str, dtype: torch.dtype, named: str) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"model.layers.1.attention.dense.{suffix}"] = torch.zeros(1, 1, dtype=dtype)

    with pytest.raises(CheckpointError, match=named) as raised:
        Checkpoint.open(*changed(tmp_path, change))
    assert "bf16 checkpoint" in raised.value.remedy


def test_quantisation_that_only_the_config_declares_is_refused(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(CheckpointError, match="bitsandbytes"):
        Checkpoint.open(tmp_path, ModelConfig.from_directory(tmp_path))


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_number_types_are_taken_exactly_to_float32(tmp_path: Path, stored: torch.dtype) -> None:
    path = make_tiny_checkpoint(tmp_path / "stored", dtype=stored)
    tensors = {name: tensor.float() for name, tensor in load_file(path / "model.safetensors").items()}
    wide = make_tiny_checkpoint(tmp_path / "wide")
    save_file(tensors, wide / "model.safetensors")
    models = [load(p, ModelConfig.from_directory(p)) for p in (path, wide)]
    logits = [run(model, make_cache(model), [(0, [5, 6, 7], 0)]) for model in models]
    assert torch.equal(*logits)


def test_tied_embeddings_need_no_head(tmp_path: Path) -> None:
    path = make_tiny_checkpoint(tmp_path, tie_word_embeddings=True)
    tensors = dict(load_file(path / "model.safetensors"))
    head = tensors.pop("lm_head.weight")
    save_file({k: v.clone() for k, v in tensors.items()}, path / "model.safetensors")
    model = load(path, ModelConfig.from_directory(path))
    hidden = torch.randn(2, 128)
    assert torch.allclose(model.logits(hidden), hidden @ tensors["model.word_embeddings.weight"].T, atol=1e-4)
    assert not torch.allclose(model.logits(hidden), hidden @ head.T, atol=1e-4)
