"""The models whose logits are stored: their configs, and weights made from names alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.checkpoint import TensorSpec, expected_tensors
from runtime.config import ModelConfig

DATA = Path(__file__).parent / "data"
PROMPT_TOKENS = 70
GREEDY_TOKENS = 20

COMMON: dict[str, Any] = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "model_type": "bailing_moe",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 48,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 2.5,
    "partial_rotary_factor": 0.5,
    "rope_theta": 600000,
    "rope_scaling": None,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "num_nextn_predict_layers": 0,
}

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

SHAPES: dict[str, dict[str, Any]] = {
    "one_dense_layer": {},
    "two_dense_layers_yarn": {
        "num_hidden_layers": 4,
        "first_k_dense_replace": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "rope_theta": 10000,
        "rope_scaling": YARN,
        "max_position_embeddings": 64,
    },
    "one_group_full_rotary": {
        "hidden_size": 96,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "n_group": 1,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-5,
    },
    "eight_groups_mtp": {
        "num_experts": 32,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "num_key_value_heads": 1,
        "num_nextn_predict_layers": 1,
    },
    "yarn_mtp_no_dense_layer": {
        "num_hidden_layers": 2,
        "first_k_dense_replace": 0,
        "num_attention_heads": 2,
        "head_dim": 32,
        "rope_theta": 10000,
        "rope_scaling": YARN,
        "num_nextn_predict_layers": 1,
    },
}


def config_of(name: str) -> dict[str, Any]:
    return COMMON | SHAPES[name]


def weights_of(name: str) -> dict[str, Tensor]:
    """All tensors of a shape in fp32: the same on every machine, since only their names are hashed."""
    specs = expected_tensors(ModelConfig.from_dict(config_of(name)))
    return {spec.name: _tensor(f"{name}/{spec.name}", spec) for spec in specs}


def prompt_of(name: str) -> list[int]:
    return (_noise(f"{name}/prompt", PROMPT_TOKENS).abs() * config_of(name)["vocab_size"]).long().tolist()


def _noise(seed: str, count: int) -> Tensor:
    """Uniform in [-1, 1), from a hash: no random generator promises the same numbers in its next version."""
    digest = bytearray(hashlib.shake_256(seed.encode()).digest(4 * count))
    return torch.frombuffer(digest, dtype=torch.int32).double().div(2**31).clamp(max=1 - 2**-20).float()


def _tensor(seed: str, spec: TensorSpec) -> Tensor:
    noise = _noise(seed, spec.elements).view(spec.shape)
    if spec.name.endswith("expert_bias"):
        return 0.3 * noise
    if spec.name.endswith("word_embeddings.weight"):
        return 1.7 * noise
    if len(spec.shape) == 1:
        return 1 + 0.4 * noise
    gain = 5.0 if spec.name == "lm_head.weight" else 2.0
    return gain * noise / spec.shape[1] ** 0.5
