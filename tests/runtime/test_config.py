"""What config.json may and must say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.config import EngineConfig, ModelConfig
from runtime.errors import AntangelError, ConfigError
from tests.runtime.tiny import tiny_config

LING_FLASH: dict[str, Any] = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "model_type": "bailing_moe",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "moe_shared_expert_intermediate_size": 1024,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "partial_rotary_factor": 0.5,
    "rope_theta": 600000,
    "rope_scaling": None,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "vocab_size": 157184,
    "pad_token_id": 156892,
    "eos_token_id": 156892,
}


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def test_ling_flash() -> None:
    config = ModelConfig.from_dict(LING_FLASH)
    assert (config.rotary_dim, config.context, config.hidden_size) == (64, 32768, 4096)
    assert config.stop_token_ids == (156892, 156895)
    assert config.is_dense(0)
    assert not config.is_dense(1)


REQUIRED = [
    "routed_scaling_factor",
    "partial_rotary_factor",
    "rope_theta",
    "n_group",
    "topk_group",
    "num_experts",
    "num_experts_per_tok",
    "hidden_size",
    "vocab_size",
    "max_position_embeddings",
    "first_k_dense_replace",
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=key) as raised:
        ModelConfig.from_dict(without(LING_FLASH, key))
    assert raised.value.remedy


def test_aliases() -> None:
    plain = ModelConfig.from_dict(LING_FLASH)
    scale = without(LING_FLASH, "routed_scaling_factor") | {"moe_router_topk_scaling_factor": 2.5}
    rotary = without(LING_FLASH, "partial_rotary_factor") | {"rotary_dim": 64}
    rope = {"rope_theta": 600000, "rope_type": "default", "partial_rotary_factor": 0.5}
    block = without(LING_FLASH, "rope_theta", "rope_scaling", "partial_rotary_factor") | {"rope_parameters": rope}
    for spelling in (scale, rotary, block, LING_FLASH | {"use_expert_bias": True}):
        assert ModelConfig.from_dict(spelling) == plain


def test_rope_parameters_with_yarn() -> None:
    block = {
        "rope_theta": 600000,
        "rope_type": "yarn",
        "partial_rotary_factor": 0.5,
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    }
    new = without(LING_FLASH, "rope_theta", "rope_scaling", "partial_rotary_factor") | {"rope_parameters": block}
    old = LING_FLASH | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}
    assert ModelConfig.from_dict(new) == ModelConfig.from_dict(old)
    assert ModelConfig.from_dict(new).context == 131072


def test_shared_width_and_head_dim_have_fallbacks() -> None:
    config = ModelConfig.from_dict(without(LING_FLASH, "moe_shared_expert_intermediate_size", "head_dim"))
    assert (config.moe_shared_expert_intermediate_size, config.head_dim) == (1024, 128)


CONTRADICTIONS = [
    ({"num_attention_heads": 30}, "num_key_value_heads"),
    ({"num_experts": 250}, "n_group"),
    ({"topk_group": 9}, "topk_group"),
    ({"num_experts_per_tok": 129}, "num_experts_per_tok"),
    ({"num_experts": 8}, "two best"),
    ({"partial_rotary_factor": 0.3}, "partial_rotary_factor"),
    ({"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
    ({"hidden_size": 0}, "hidden_size"),
    ({"hidden_size": "4096"}, "hidden_size"),
    ({"vocab_size": True}, "vocab_size"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ({"first_k_dense_replace": 33}, "first_k_dense_replace"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
    ({"rope_scaling": {"factor": 2.0}}, "no type"),
    ({"rope_scaling": {"type": "yarn"}}, "factor"),
    ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, "factor"),
    ({"rope_scaling": "yarn"}, "rope_scaling"),
    ({"eos_token_id": ["</s>"]}, "eos_token_id"),
    ({"score_function": "softmax"}, "score_function"),
    ({"use_qk_norm": False}, "use_qk_norm"),
    ({"use_bias": True}, "use_bias"),
    ({"moe_router_enable_expert_bias": False}, "moe_router_enable_expert_bias"),
    ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
]


@pytest.mark.parametrize(("change", "named"), CONTRADICTIONS)
def test_contradictions_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as raised:
        ModelConfig.from_dict(LING_FLASH | change)
    assert raised.value.remedy
    assert raised.value.remedy in str(raised.value)


def test_directory_adds_the_stop_ids_of_generation_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(eos_token_id=7, pad_token_id=5)))
    assert ModelConfig.from_directory(tmp_path).stop_token_ids == (5, 7)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert ModelConfig.from_directory(tmp_path).stop_token_ids == (5, 7, 9)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        ModelConfig.from_directory(tmp_path)
    for content in ("{", "[]", ""):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"config\.json"):
            ModelConfig.from_directory(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"dtype": "int4"}, {"block_size": 0}, {"block_size": 24}, {"threads": -1}, {"context": 0}]
)
def test_engine_config_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EngineConfig(**wrong)


def test_errors_say_message_and_remedy() -> None:
    error = AntangelError("it broke", "mend it")
    assert (error.message, error.remedy, str(error)) == ("it broke", "mend it", "it broke\nmend it")
