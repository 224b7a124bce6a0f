"""Writes the golden logits with transformers' Glm4Moe, an independent implementation of the same mathematics.

Run from the repository root, in an environment of its own (torch 2.13.0, transformers 5, safetensors):
    python tests/golden/make_golden.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeDecoderLayer, Glm4MoeRMSNorm

SAME_NAMES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "moe_intermediate_size",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "routed_scaling_factor",
    "first_k_dense_replace",
    "max_position_embeddings",
    "rms_norm_eps",
)

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from shapes import DATA, GREEDY_TOKENS, SHAPES, config_of, prompt_of, weights_of  # noqa: E402


def glm_config(config: dict[str, Any]) -> Glm4MoeConfig:
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    if config["rope_scaling"]:
        rope |= {key: value for key, value in config["rope_scaling"].items() if key != "type"}
        rope["rope_type"] = "yarn"
    rope["partial_rotary_factor"] = config["partial_rotary_factor"]
    made = Glm4MoeConfig(
        **{key: config[key] for key in SAME_NAMES},
        n_routed_experts=config["num_experts"],
        n_shared_experts=config["num_shared_experts"],
        norm_topk_prob=True,
        use_qk_norm=True,
        attention_bias=False,
        tie_word_embeddings=False,
        rope_parameters=rope,
        num_mtp_layers=0,
        attn_implementation="eager",
    )
    found = made.rope_parameters["partial_rotary_factor"], made.rope_parameters["rope_type"], made.head_dim
    assert found == (config["partial_rotary_factor"], rope["rope_type"], config["head_dim"]), found
    return made


def layer_state(weights: dict[str, Tensor], config: dict[str, Any], layer: int) -> dict[str, Tensor]:
    """One decoder layer's tensors under Glm4Moe's names, with queries, keys and values apart and experts stacked."""
    prefix = f"model.layers.{layer}."
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    heads, kv_heads, width = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    q, k, v = own["attention.query_key_value.weight"].split((heads * width, kv_heads * width, kv_heads * width))
    state = {
        "self_attn.q_proj.weight": q,
        "self_attn.k_proj.weight": k,
        "self_attn.v_proj.weight": v,
        "self_attn.o_proj.weight": own["attention.dense.weight"],
        "self_attn.q_norm.weight": own["attention.query_layernorm.weight"],
        "self_attn.k_norm.weight": own["attention.key_layernorm.weight"],
        "input_layernorm.weight": own["input_layernorm.weight"],
        "post_attention_layernorm.weight": own["post_attention_layernorm.weight"],
    }
    kept = ("mlp.gate.weight", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp.shared_experts")
    state |= {name: tensor for name, tensor in own.items() if name.startswith(kept)}
    if "mlp.gate.expert_bias" in own:
        state["mlp.gate.e_score_correction_bias"] = own["mlp.gate.expert_bias"]
        state |= stacked_experts(own, config["num_experts"])
    return state


def stacked_experts(own: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    def stack(name: str) -> Tensor:
        return torch.stack([own[f"mlp.experts.{expert}.{name}.weight"] for expert in range(count)])

    return {
        "mlp.experts.gate_up_proj": torch.cat((stack("gate_proj"), stack("up_proj")), dim=1),
        "mlp.experts.down_proj": stack("down_proj"),
    }


def build(config: dict[str, Any], weights: dict[str, Tensor]) -> Glm4MoeForCausalLM:
    model = Glm4MoeForCausalLM(glm_config(config)).eval().float()
    state = {
        "model.embed_tokens.weight": weights["model.word_embeddings.weight"],
        "model.norm.weight": weights["model.norm.weight"],
        "lm_head.weight": weights["lm_head.weight"],
    }
    for layer in range(config["num_hidden_layers"]):
        named = layer_state(weights, config, layer)
        state |= {f"model.layers.{layer}.{name}": tensor for name, tensor in named.items()}
    model.load_state_dict(state, strict=True)
    assert model.config._attn_implementation == "eager"
    return model


def greedy(model: Glm4MoeForCausalLM, prompt: list[int]) -> tuple[list[int], float]:
    """Tokens, each from a pass over the whole text, and the smallest lead that a winner had."""
    ids, lead = list(prompt), float("inf")
    for _ in range(GREEDY_TOKENS):
        best = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        lead = min(lead, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[len(prompt) :], lead


def mtp_logits(
    model: Glm4MoeForCausalLM,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    ids: list[int],
    following: list[int],
) -> Tensor:
    """Reference section 8.1, with Glm4Moe's own decoder layer in the middle."""
    index = config["num_hidden_layers"]

    def norm(name: str, x: Tensor) -> Tensor:
        module = Glm4MoeRMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        module.load_state_dict({"weight": weights[f"model.layers.{index}.{name}.weight"]})
        return module(x)

    layer = Glm4MoeDecoderLayer(model.config, index).eval().float()
    layer.load_state_dict(layer_state(weights, config, index), strict=True)
    hidden = model.model(torch.tensor([ids]), use_cache=False).last_hidden_state
    embedded = model.model.embed_tokens(torch.tensor([following]))
    both = torch.cat((norm("enorm", embedded), norm("hnorm", hidden)), dim=-1)
    x = both @ weights[f"model.layers.{index}.eh_proj.weight"].T
    positions = torch.arange(len(ids))[None]
    mask = torch.full((1, 1, len(ids), len(ids)), torch.finfo(torch.float32).min).triu(1)
    rotary = model.model.rotary_emb(x, positions)
    x = layer(x, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    return model.lm_head(norm("final_layernorm", x))[0]


@torch.no_grad()
def make(name: str) -> None:
    config, weights, prompt = config_of(name), weights_of(name), prompt_of(name)
    model = build(config, weights)
    tokens, lead = greedy(model, prompt)
    stored = {
        "input_ids": torch.tensor(prompt),
        "logits": model(torch.tensor([prompt]), use_cache=False).logits[0],
        "greedy": torch.tensor(tokens),
    }
    if config["num_nextn_predict_layers"]:
        stored["mtp_logits"] = mtp_logits(model, config, weights, prompt, [*prompt[1:], tokens[0]])
    DATA.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in stored.items()}, DATA / f"{name}.safetensors")
    sys.stdout.write(f"{name}: largest logit {stored['logits'].abs().max():.2f}, smallest lead {lead:.4f}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for shape in SHAPES:
        make(shape)
