"""Write the trained network as a Hugging Face checkpoint: `python -m nano.export`.

bf16, in shards of at most 14 MB with an index, every tensor under the family's name (reference, section 3).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nano.bpe import SPECIAL_TOKENS
from nano.network import DenseMLP, Layer, MoE, MTPLayer, Network, Shape
from nano.train import RUNS
from runtime.template import LingTemplate

CHECKPOINT = Path(__file__).parent / "checkpoint"
SHARD_BYTES = 13_900_000

CONTEXT = 8192
"""Declared room; training texts are at most about 1,200 tokens long, and rotary positions go on beyond."""


def config(s: Shape, size: int) -> dict[str, Any]:
    """The checkpoint's config.json; `size` is the number of tokenizer entries, special tokens included."""
    first = size - len(SPECIAL_TOKENS)
    stop = [first + SPECIAL_TOKENS.index(name) for name in ("<|endoftext|>", "<|role_end|>")]
    return {
        "architectures": ["BailingMoeV2ForCausalLM"],
        "model_type": "bailing_moe",
        "antangel_demonstration": True,
        "vocab_size": s.vocab_size,
        "hidden_size": s.hidden_size,
        "intermediate_size": s.intermediate_size,
        "moe_intermediate_size": s.moe_intermediate_size,
        "moe_shared_expert_intermediate_size": s.moe_intermediate_size,
        "num_hidden_layers": s.num_hidden_layers,
        "num_nextn_predict_layers": 1,
        "num_attention_heads": s.num_attention_heads,
        "num_key_value_heads": s.num_key_value_heads,
        "head_dim": s.head_dim,
        "num_experts": s.num_experts,
        "num_experts_per_tok": s.num_experts_per_tok,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": s.n_group,
        "topk_group": s.topk_group,
        "routed_scaling_factor": s.routed_scaling_factor,
        "norm_topk_prob": True,
        "score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "router_dtype": "fp32",
        "partial_rotary_factor": 0.5,
        "rope_theta": s.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": CONTEXT,
        "use_qk_norm": True,
        "use_bias": False,
        "use_qkv_bias": False,
        "use_rmsnorm": True,
        "rms_norm_eps": s.rms_norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "output_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": first,
        "eos_token_id": stop[1],
        "pad_token_id": stop[0],
    }


def tensors(network: Network) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its checkpoint name; bf16, the selection biases fp32."""
    yield "model.word_embeddings.weight", network.word_embeddings.weight
    for index, layer in enumerate((*network.layers, network.mtp)):
        assert isinstance(layer, Layer)
        yield from ((f"model.layers.{index}.{name}", t) for name, t in _layer(layer))
    yield "model.norm.weight", network.norm
    yield "lm_head.weight", network.lm_head.weight


def _layer(layer: Layer) -> Iterator[tuple[str, Tensor]]:
    yield "input_layernorm.weight", layer.input_layernorm
    yield "attention.query_key_value.weight", layer.attention.query_key_value.weight
    yield "attention.query_layernorm.weight", layer.attention.query_layernorm
    yield "attention.key_layernorm.weight", layer.attention.key_layernorm
    yield "attention.dense.weight", layer.attention.dense.weight
    yield "post_attention_layernorm.weight", layer.post_attention_layernorm
    yield from _dense(layer.mlp, "mlp") if isinstance(layer.mlp, DenseMLP) else _moe(layer.mlp)
    if isinstance(layer, MTPLayer):
        yield "enorm.weight", layer.enorm
        yield "hnorm.weight", layer.hnorm
        yield "eh_proj.weight", layer.eh_proj.weight
        yield "final_layernorm.weight", layer.final_layernorm


def _dense(mlp: DenseMLP, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name in ("gate_proj", "up_proj", "down_proj"):
        yield f"{prefix}.{name}.weight", getattr(mlp, name).weight


def _moe(moe: MoE) -> Iterator[tuple[str, Tensor]]:
    yield "mlp.gate.weight", moe.gate
    yield "mlp.gate.expert_bias", moe.expert_bias
    for e, (gate_up, down) in enumerate(zip(moe.experts.gate_up, moe.experts.down, strict=True)):
        gate, up = gate_up.chunk(2)
        for name, t in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
            yield f"mlp.experts.{e}.{name}.weight", t
    yield from _dense(moe.shared_experts, "mlp.shared_experts")


def shards(network: Network) -> list[dict[str, Tensor]]:
    """The tensors in their stored dtype, cut into files of at most SHARD_BYTES."""
    files: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors(network):
        stored = (
            tensor.detach().to(torch.float32 if name.endswith("expert_bias") else torch.bfloat16).contiguous().clone()
        )
        if used + stored.nbytes > SHARD_BYTES:
            files.append({})
            used = 0
        files[-1][name] = stored
        used += stored.nbytes
    return files


def export(network: Network, tokenizer: Path, folder: Path, training: dict[str, Any]) -> None:
    """Write the whole checkpoint directory, aside first, then in place of the old one.

    `training` is what the run says of itself: steps, tokens, minutes.
    """
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _write_weights(network, aside)
    entries = json.loads(tokenizer.read_text(encoding="utf-8"))
    size = len(entries["model"]["vocab"]) + len(SPECIAL_TOKENS)
    settings = config(network.s, size)
    _write(aside / "config.json", settings)
    stop = [settings["pad_token_id"], settings["eos_token_id"]]
    _write(
        aside / "generation_config.json",
        {"bos_token_id": settings["bos_token_id"], "eos_token_id": stop, "pad_token_id": stop[0]},
    )
    _write(aside / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_eos_token": False, "bos_token": "<|startoftext|>",
        "eos_token": "<|role_end|>", "pad_token": "<|endoftext|>", "cls_token": "[CLS]", "gmask_token": "[gMASK]",
        "clean_up_tokenization_spaces": False, "chat_template": LingTemplate().source,
    })  # fmt: skip
    shutil.copyfile(tokenizer, aside / "tokenizer.json")
    _write(aside / "training.json", training | {"parameters": sum(t.numel() for _, t in tensors(network))})
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _write_weights(network: Network, folder: Path) -> None:
    files = shards(network)
    where: dict[str, str] = {}
    for number, content in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        save_file(content, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)
        where |= dict.fromkeys(content, name)
    total = sum(t.nbytes for content in files for t in content.values())
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Export nano/runs/state.pt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=RUNS)
    parser.add_argument("-o", "--output", type=Path, default=CHECKPOINT)
    options = parser.parse_args()
    state = torch.load(options.run / "state.pt", map_location="cpu")
    network = Network(Shape(**state["shape"]))
    network.load_state_dict(state["network"])
    training = {"steps": state["number"], "tokens": state["seen"], "minutes": state["elapsed"] / 60}
    export(network, options.run / "tokenizer.json", options.output, training)


if __name__ == "__main__":
    main()
