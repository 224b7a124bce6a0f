"""A random BailingMoeV2 checkpoint of a few hundred kilobytes, with a small real tokenizer."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

VOCABULARY = 800
SPECIAL_COUNT = 262
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SENTENCES = (
    "The patient has a fever of 38.5 and a cough since three days; the blood pressure is 120/80 mmHg.",
    "Chest pain that goes to the left arm, with sweating and nausea, is urgent until the contrary is shown.",
    "What is the most likely diagnosis, and which tests should be ordered next?",
    "No known allergies. Medications: metformin 500 mg twice a day, lisinopril 10 mg in the morning.",
    '{"fact_id": "F1", "why": "supports the diagnosis", "likelihood": "very_likely", "urgency": "emergency"}',
    "患者发热三天，伴有咳嗽和胸痛，血压正常。",
    "请给出最可能的诊断和下一步的检查。",
    "既往有高血压和糖尿病，没有药物过敏史。",
    "<think>\nThe findings point to an infection of the lung.\n</think>\n\nPneumonia is likely.",
)


def special_tokens() -> list[str]:
    """The 262 special tokens in id order, named as the family names them."""
    head = ["<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|role_end|>"]
    tools = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
    reserved = [f"<|reserved_token_{k}|>" for k in range(5, 256)]
    return [*head, *tools, *reserved, "<role>", "</role>"]


@lru_cache(maxsize=1)
def tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - SPECIAL_COUNT,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 2, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special_tokens()])
    assert tokenizer.get_vocab_size() == VOCABULARY
    return str(tokenizer.to_str())


def tiny_config(**overrides: Any) -> dict[str, Any]:
    end_of_text, role_end = VOCABULARY - SPECIAL_COUNT + 1, VOCABULARY - SPECIAL_COUNT + 4
    config = {
        "architectures": ["BailingMoeV2ForCausalLM"],
        "model_type": "bailing_moe",
        "vocab_size": 832,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 256,
        "moe_intermediate_size": 64,
        "moe_shared_expert_intermediate_size": 64,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "router_dtype": "fp32",
        "partial_rotary_factor": 0.5,
        "rope_theta": 600000,
        "rope_scaling": None,
        "max_position_embeddings": 2048,
        "use_qk_norm": True,
        "use_bias": False,
        "use_qkv_bias": False,
        "use_rmsnorm": True,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "pad_token_id": end_of_text,
        "eos_token_id": role_end,
        "num_nextn_predict_layers": 1,
    }
    return config | overrides


def make_tiny_checkpoint(path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any) -> Path:
    """Writes config, tokenizer and random weights; overrides are keys of config.json."""
    config = tiny_config(**overrides)
    path.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(config, seed, dtype), path / "model.safetensors")
    stop = [config["pad_token_id"], config["eos_token_id"]]
    settings = {"eos_token": "<|role_end|>", "pad_token": "<|endoftext|>", "bos_token": "<|startoftext|>"}
    _write_json(path / "config.json", config)
    _write_json(path / "generation_config.json", {"eos_token_id": stop, "pad_token_id": stop[0]})
    _write_json(path / "tokenizer_config.json", settings)
    (path / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    return path


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _tensors(config: dict[str, Any], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        values: Tensor = torch.randn(rows, columns, generator=generator) * (1.5 / columns**0.5)
        return values.to(dtype)

    width, vocabulary = config["hidden_size"], config["vocab_size"]
    tensors = {
        "model.word_embeddings.weight": torch.randn(vocabulary, width, generator=generator).to(dtype),
        "model.norm.weight": torch.ones(width, dtype=dtype),
        "lm_head.weight": matrix(vocabulary, width),
    }
    layers, drafting = config["num_hidden_layers"], config["num_nextn_predict_layers"]
    for layer in range(layers + drafting):
        prefix = f"model.layers.{layer}."
        named = _attention(config, matrix, dtype) | _feed_forward(config, layer, matrix, generator, dtype)
        tensors |= {prefix + name: tensor for name, tensor in named.items()}
    for layer in range(layers, layers + drafting):
        prefix = f"model.layers.{layer}."
        tensors |= {
            prefix + f"{n}.weight": torch.ones(width, dtype=dtype) for n in ("enorm", "hnorm", "final_layernorm")
        }
        tensors[prefix + "eh_proj.weight"] = matrix(width, 2 * width)
    return tensors


def _attention(config: dict[str, Any], matrix: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    width, head = config["hidden_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    return {
        "input_layernorm.weight": torch.ones(width, dtype=dtype),
        "post_attention_layernorm.weight": torch.ones(width, dtype=dtype),
        "attention.query_key_value.weight": matrix((heads + 2 * kv_heads) * head, width),
        "attention.query_layernorm.weight": torch.ones(head, dtype=dtype),
        "attention.key_layernorm.weight": torch.ones(head, dtype=dtype),
        "attention.dense.weight": matrix(width, heads * head),
    }


def _feed_forward(
    config: dict[str, Any], layer: int, matrix: Any, generator: torch.Generator, dtype: torch.dtype
) -> dict[str, Tensor]:
    width, expert = config["hidden_size"], config["moe_intermediate_size"]
    if layer < config["first_k_dense_replace"]:
        return _swiglu("mlp.", width, config["intermediate_size"], matrix)
    tensors = {
        "mlp.gate.weight": matrix(config["num_experts"], width),
        "mlp.gate.expert_bias": torch.randn(config["num_experts"], generator=generator) * 0.1,
    }
    for i in range(config["num_experts"]):
        tensors |= _swiglu(f"mlp.experts.{i}.", width, expert, matrix)
    shared = config["moe_shared_expert_intermediate_size"]
    return tensors | (_swiglu("mlp.shared_experts.", width, shared, matrix) if config["num_shared_experts"] else {})


def _swiglu(prefix: str, width: int, inner: int, matrix: Any) -> dict[str, Tensor]:
    return {
        prefix + "gate_proj.weight": matrix(inner, width),
        prefix + "up_proj.weight": matrix(inner, width),
        prefix + "down_proj.weight": matrix(width, inner),
    }
