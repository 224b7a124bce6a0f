"""What is in a model is counted alike in every form, and known models are told by their published counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.checkpoint import expected_tensors
from runtime.config import ModelConfig
from runtime.errors import CheckpointError
from runtime.examination.fingerprint import KNOWN, Count, count, examine_model, fingerprint
from runtime.packing import write_pack
from tests.runtime.stored import Int4, block_fp8, encoded, gptq
from tests.runtime.tiny import make_tiny_checkpoint, tiny_config

# Section 2 of the model's reference; what is not named is the same in both.
FLASH: dict[str, Any] = {
    "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 9216, "moe_intermediate_size": 1024,
    "moe_shared_expert_intermediate_size": 1024, "num_attention_heads": 32,
}  # fmt: skip
MINI: dict[str, Any] = {
    "hidden_size": 2048, "num_hidden_layers": 20, "intermediate_size": 5120, "moe_intermediate_size": 512,
    "moe_shared_expert_intermediate_size": 512, "num_attention_heads": 16,
}  # fmt: skip
BOTH: dict[str, Any] = {
    "num_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "num_key_value_heads": 4, "head_dim": 128,
    "vocab_size": 157_184, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0, "partial_rotary_factor": 0.5,
    "pad_token_id": 156_892, "eos_token_id": 156_895,
}  # fmt: skip


@pytest.mark.parametrize(("shape", "name"), [(FLASH, "Ling-flash-2.0"), (MINI, "Ling-mini-2.0")])
def test_a_known_shape_has_the_published_counts(shape: dict[str, Any], name: str) -> None:
    config = ModelConfig.from_dict(tiny_config(**BOTH, **shape))
    decoder = count(expected_tensors(config))
    assert fingerprint(config, decoder) == f"matches {name}"
    (known,) = (model for model in KNOWN if model.name == name)
    assert f"differs from {name}, which has {known.count}" == fingerprint(config, decoder + Count(1, 5))


def test_a_flash_mtp_layer_has_the_published_number_of_tensors() -> None:
    config = ModelConfig.from_dict(tiny_config(**BOTH, **FLASH))
    assert count(expected_tensors(replace(config, num_nextn_predict_layers=1))).tensors == 24_944


def test_every_form_of_a_model_holds_the_same(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "model", moe_intermediate_size=128)
    write_pack(checkpoint, tmp_path / "pack")
    plain, packed = examine_model(checkpoint), examine_model(tmp_path / "pack")
    stored = load_file(checkpoint / "model.safetensors")
    biases = sum(tensor.numel() for name, tensor in stored.items() if name.endswith(".expert_bias"))
    numbers = sum(tensor.numel() for tensor in stored.values()) - biases
    assert plain.found == packed.found == plain.expected == packed.expected == Count(len(stored), numbers, biases)
    assert (plain.kind, packed.kind) == ("checkpoint, F32", "pack")
    assert plain.mtp_layers == packed.mtp_layers == 1
    assert plain.fingerprint == packed.fingerprint == "no known model of this shape"


def test_a_quantised_checkpoint_counts_the_weights_it_stands_for(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq", "sym": True, "desc_act": False}
    int4 = encoded(tmp_path / "int4", gptq(Int4(64, torch.float16, symmetric=True), "gptq"), settings)
    fp8 = encoded(tmp_path / "fp8", block_fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    held = [examine_model(stored.path) for stored in (int4, fp8)]
    assert held[0].found == held[1].found == held[0].expected
    assert "GPTQ" in held[0].kind
    assert "FP8" in held[1].kind


def test_a_tied_head_is_counted_once(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "model", tie_word_embeddings=True, moe_intermediate_size=128)
    write_pack(checkpoint, tmp_path / "pack")
    assert (
        examine_model(checkpoint).found == examine_model(tmp_path / "pack").found == examine_model(checkpoint).expected
    )


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "model")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].contiguous()
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: expected"):
        examine_model(checkpoint)
