"""What a BailingMoeV2 model is made of: plain tensors, matrices in a number format, and layers of experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runtime.config import ModelConfig

EMBEDDING = "model.word_embeddings.weight"
HEAD = "lm_head"


@dataclass(frozen=True)
class PlainTensor:
    """A tensor that keeps its numbers: embedding, norm, router or bias."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MatrixSpec:
    """A matrix [rows, columns] as the ops take it: the tensors of a checkpoint named `parts`, one above the other."""

    name: str
    parts: tuple[str, ...]
    rows: int
    columns: int


def plain_tensors(config: ModelConfig) -> Iterator[PlainTensor]:
    """Every tensor that is no matrix of a linear layer, in order of use."""
    hidden, width = config.hidden_size, config.head_dim
    yield PlainTensor(EMBEDDING, (config.vocab_size, hidden))
    for layer in range(_layers(config)):
        prefix = f"model.layers.{layer}"
        yield PlainTensor(f"{prefix}.input_layernorm.weight", (hidden,))
        yield PlainTensor(f"{prefix}.attention.query_layernorm.weight", (width,))
        yield PlainTensor(f"{prefix}.attention.key_layernorm.weight", (width,))
        yield PlainTensor(f"{prefix}.post_attention_layernorm.weight", (hidden,))
        if not config.is_dense(layer):
            yield PlainTensor(f"{prefix}.mlp.gate.weight", (config.num_experts, hidden))
            yield PlainTensor(f"{prefix}.mlp.gate.expert_bias", (config.num_experts,))
        if layer >= config.num_hidden_layers:
            for norm in ("enorm", "hnorm", "final_layernorm"):
                yield PlainTensor(f"{prefix}.{norm}.weight", (hidden,))
    yield PlainTensor("model.norm.weight", (hidden,))


def dense_matrices(config: ModelConfig) -> Iterator[MatrixSpec]:
    """Every matrix but those of routed experts, in order of use."""
    for layer in range(_layers(config)):
        yield from _layer_matrices(config, layer)
    yield MatrixSpec(HEAD, (head_tensor(config),), config.vocab_size, config.hidden_size)


def head_tensor(config: ModelConfig) -> str:
    """The tensor that is the output head."""
    return EMBEDDING if config.tie_word_embeddings else f"{HEAD}.weight"


def expert_layers(config: ModelConfig) -> tuple[int, ...]:
    """The layers that have experts, in order; MTP layers do."""
    return tuple(layer for layer in range(_layers(config)) if not config.is_dense(layer))


def expert_matrices(config: ModelConfig, layer: int, expert: int) -> tuple[MatrixSpec, MatrixSpec]:
    """One routed expert's gate above up, and its down."""
    prefix = f"model.layers.{layer}.mlp.experts.{expert}"
    return _swiglu(prefix, config.hidden_size, config.moe_intermediate_size)


def _layer_matrices(config: ModelConfig, layer: int) -> Iterator[MatrixSpec]:
    prefix, hidden, width = f"model.layers.{layer}", config.hidden_size, config.head_dim
    rows = (config.num_attention_heads + 2 * config.num_key_value_heads) * width
    if layer >= config.num_hidden_layers:
        yield _single(f"{prefix}.eh_proj", hidden, 2 * hidden)
    yield _single(f"{prefix}.attention.query_key_value", rows, hidden)
    yield _single(f"{prefix}.attention.dense", hidden, config.num_attention_heads * width)
    if config.is_dense(layer):
        yield from _swiglu(f"{prefix}.mlp", hidden, config.intermediate_size)
    else:
        yield from _swiglu(f"{prefix}.mlp.shared_experts", hidden, config.moe_shared_expert_intermediate_size)


def _swiglu(prefix: str, hidden: int, inner: int) -> tuple[MatrixSpec, MatrixSpec]:
    gate_and_up = (f"{prefix}.gate_proj.weight", f"{prefix}.up_proj.weight")
    return (
        MatrixSpec(f"{prefix}.gate_up", gate_and_up, 2 * inner, hidden),
        MatrixSpec(f"{prefix}.down", (f"{prefix}.down_proj.weight",), hidden, inner),
    )


def _single(name: str, rows: int, columns: int) -> MatrixSpec:
    return MatrixSpec(name, (f"{name}.weight",), rows, columns)


def _layers(config: ModelConfig) -> int:
    return config.num_hidden_layers + config.num_nextn_predict_layers
