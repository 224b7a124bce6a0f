"""Writes a GGUF of random weights: `python -m bench.peer.gguf_file SHAPE.json OUT.gguf`, in the peer's environment.

Architecture bailingmoe2; every matrix and the embedding in Q4_0, norms, router and its bias in F32.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from runtime.measuring.random_weights import (
    ATTENTION_OUTPUT_DEVIATION,
    EMBEDDING_DEVIATION,
    WEIGHT_DEVIATION,
    nibble_pairs,
    normal,
    scales,
)

ARCHITECTURE = "bailingmoe2"
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # Q4_0: 32 weights
BLOCK_WEIGHTS = 32


@dataclass(frozen=True)
class Entry:
    """A tensor of the file; of None deviation it is in F32: ones, or zeros where it is a bias."""

    name: str
    shape: tuple[int, ...]
    quantised: bool = False
    deviation: float | None = None

    @property
    def byte_shape(self) -> tuple[int, ...]:
        return (*self.shape[:-1], self.shape[-1] // BLOCK_WEIGHTS * BLOCK.itemsize)

    def announce(self, writer: gguf.GGUFWriter) -> None:
        if self.quantised:
            size, raw = math.prod(self.byte_shape), gguf.GGMLQuantizationType.Q4_0
            writer.add_tensor_info(self.name, self.byte_shape, np.dtype(np.uint8), size, raw)
        else:
            writer.add_tensor_info(self.name, self.shape, np.dtype(np.float32), 4 * math.prod(self.shape))

    def make(self, random: np.random.Generator) -> NDArray[Any]:
        if self.deviation is None:
            return np.full(self.shape, 0.0 if self.name.endswith(".bias") else 1.0, dtype=np.float32)
        if not self.quantised:
            return normal(random, self.shape, self.deviation)
        blocks = np.empty(math.prod(self.shape) // BLOCK_WEIGHTS, dtype=BLOCK)
        blocks["scale"] = scales(random, len(blocks), bits=4, deviation=self.deviation)
        blocks["nibbles"] = nibble_pairs(random, 16 * len(blocks)).reshape(-1, 16)
        return blocks.view(np.uint8).reshape(self.byte_shape)


def matrix(name: str, *shape: int, deviation: float = WEIGHT_DEVIATION) -> Entry:
    return Entry(f"{name}.weight", shape, quantised=True, deviation=deviation)


def norm(name: str, width: int) -> Entry:
    return Entry(f"{name}.weight", (width,))


def entries(shape: dict[str, Any]) -> Iterator[Entry]:
    """Every tensor of the model, in order of use."""
    hidden, vocabulary = shape["hidden_size"], shape["vocab_size"]
    yield matrix("token_embd", vocabulary, hidden, deviation=EMBEDDING_DEVIATION)
    for layer in range(shape["num_hidden_layers"]):
        yield from attention(f"blk.{layer}", shape)
        if layer < shape["first_k_dense_replace"]:
            yield from swiglu(f"blk.{layer}", "", hidden, shape["intermediate_size"])
        else:
            yield from experts(f"blk.{layer}", shape)
    yield norm("output_norm", hidden)
    yield matrix("output", vocabulary, hidden)


def attention(prefix: str, shape: dict[str, Any]) -> Iterator[Entry]:
    hidden, width = shape["hidden_size"], shape["head_dim"]
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    yield norm(f"{prefix}.attn_norm", hidden)
    yield matrix(f"{prefix}.attn_qkv", (heads + 2 * kv_heads) * width, hidden)
    yield norm(f"{prefix}.attn_q_norm", width)
    yield norm(f"{prefix}.attn_k_norm", width)
    yield matrix(f"{prefix}.attn_output", hidden, heads * width, deviation=ATTENTION_OUTPUT_DEVIATION)
    yield norm(f"{prefix}.ffn_norm", hidden)


def experts(prefix: str, shape: dict[str, Any]) -> Iterator[Entry]:
    hidden, count = shape["hidden_size"], shape["num_experts"]
    yield Entry(f"{prefix}.ffn_gate_inp.weight", (count, hidden), deviation=WEIGHT_DEVIATION)
    yield Entry(f"{prefix}.exp_probs_b.bias", (count,))
    yield from swiglu(prefix, "_exps", hidden, shape["moe_intermediate_size"], count)
    yield from swiglu(prefix, "_shexp", hidden, shape["moe_shared_expert_intermediate_size"])


def swiglu(prefix: str, suffix: str, hidden: int, inner: int, *stacked: int) -> Iterator[Entry]:
    yield matrix(f"{prefix}.ffn_gate{suffix}", *stacked, inner, hidden)
    yield matrix(f"{prefix}.ffn_up{suffix}", *stacked, inner, hidden)
    yield matrix(f"{prefix}.ffn_down{suffix}", *stacked, hidden, inner)


def add_metadata(writer: gguf.GGUFWriter, shape: dict[str, Any]) -> None:
    writer.add_name(f"random {shape['num_hidden_layers']} layers")
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_rope_dimension_count(int(shape["head_dim"] * shape["partial_rotary_factor"]))
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_tokenizer_model("none")
    add_expert_metadata(writer, shape)


def add_expert_metadata(writer: gguf.GGUFWriter, shape: dict[str, Any]) -> None:
    writer.add_leading_dense_block_count(shape["first_k_dense_replace"])
    writer.add_expert_feed_forward_length(shape["moe_intermediate_size"])
    writer.add_expert_shared_feed_forward_length(shape["moe_shared_expert_intermediate_size"])
    writer.add_expert_count(shape["num_experts"])
    writer.add_expert_used_count(shape["num_experts_per_tok"])
    writer.add_expert_shared_count(shape["num_shared_experts"])
    writer.add_expert_group_count(shape["n_group"])
    writer.add_expert_group_used_count(shape["topk_group"])
    writer.add_expert_weights_scale(shape["routed_scaling_factor"])
    writer.add_expert_weights_norm(shape["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_nextn_predict_layers(0)


def write(shape: dict[str, Any], path: Path) -> None:
    """One tensor in memory at a time."""
    tensors, random = list(entries(shape)), np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    add_metadata(writer, shape)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    for entry in tensors:
        entry.announce(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in tensors:
        writer.write_tensor_data(entry.make(random))
    writer.close()


if __name__ == "__main__":
    shape_file, output = map(Path, sys.argv[1:])
    unfinished = output.with_suffix(".part")
    write(json.loads(shape_file.read_text(encoding="utf-8")), unfinished)
    unfinished.rename(output)
